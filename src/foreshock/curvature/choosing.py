r"""How Hessian products are made: by double backward or differences, with parameters whole or in shards.

All processes that measure together make them in the same way. With ``hvp="auto"`` that is double backward
where it works, with whole parameters where these fit, and differences of gradients otherwise. Where
``fully_shard`` shares the parameters, differences need no more memory than a training step and four vectors
of shards, since FSDP2 gathers one layer at a time (`foreshock.distributed.layerwise`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from foreshock.curvature.form import random_start
from foreshock.distributed import (
    ALONE,
    Joint,
    LayerwiseProbe,
    ShardedProbe,
    let_go,
    part_of,
    reduce_dtypes,
    why_no_passes,
    why_not_whole,
)
from foreshock.distributed.joint import CHOICE
from foreshock.failures import ProbeRefusedError
from foreshock.operators import (
    BackendChoice,
    DifferenceOperator,
    DifferenceScheme,
    Evaluation,
    GradientFunction,
    HessianOperator,
    Loss,
    LossTerm,
    choose_backend,
    normalised_terms,
)
from foreshock.operators.backend import (
    CENTRAL_DIFFERENCES,
    DOUBLE_BACKWARD,
    FINER,
    SHARD_DIFFERENCES,
    tolerance_in,
)
from foreshock.operators.graph import GraphEvidence, read_graph
from foreshock.vectors import is_sharded, vector_dtype

ProductMethod = Literal["auto", "exact", "difference"]
"""How a user wants Hessian products to be made."""

_ASKED = "asked for by hvp='difference'"
_PRECISIONS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)  # the coarsest first


def require_method(hvp: str) -> ProductMethod:
    """Return a method, if it is one.

    Args:
        hvp: What a user passed.

    Raises:
        ValueError: If it is none.

    Example:
        >>> require_method("exact")
        'exact'
    """
    for one in get_args(ProductMethod):
        if hvp == one:
            found: ProductMethod = one
            return found
    raise ValueError(
        f"hvp is {hvp!r}; pass 'auto', 'exact' for double backward only, or 'difference' for differences of "
        "gradients, which need less memory"
    )


class Sharing:
    """Decide in each probe whether parameters that processes share are made whole for it.

    They are not if that was asked for, if they would not fit, or if a probe ran out of memory before; then
    never again in this run. One process that can't is enough.

    Args:
        hvp: What the user wants.
    """

    def __init__(self, hvp: ProductMethod = "auto") -> None:
        self.hvp = hvp
        self._reason = _ASKED if hvp == "difference" else ""

    def of(self, joint: Joint, model: nn.Module, parameters: Sequence[Tensor]) -> Joint:
        """Return the processes as a probe has them: with parameters whole, or in shards.

        Cost: one short sum, where ``fully_shard`` shares the parameters.

        Args:
            joint: The processes that make this probe together; before its block.
            model: The model.
            parameters: As the optimizer has them.

        Raises:
            ProbeRefusedError: If parameters must stay shards and can't.
        """
        if self.hvp == "exact" or not isinstance(joint, ShardedProbe) or not joint.is_managed:
            return joint
        if not self._reason:
            self._reason = why_not_whole(joint.gathered_size, vector_dtype(parameters), parameters[0].device)
        refusal = why_no_passes(model)
        wanted = bool(self._reason) and (not refusal or self.hvp == "difference")
        (votes,) = joint.everyones(float(wanted), topic=CHOICE)
        if not votes:
            return joint
        self._reason = self._reason or "another process has no memory for whole parameters"
        if refusal:
            raise ProbeRefusedError(refusal)
        let_go(model)
        return LayerwiseProbe(joint)

    @contextmanager
    def probe(self, joint: Joint, model: nn.Module, parameters: Sequence[Tensor]) -> Iterator[Joint]:
        """Run a probe with what `of` returns; after a lack of memory the next one works on shards.

        Args:
            joint: The processes that make this probe together; before its block.
            model: The model.
            parameters: As the optimizer has them.
        """
        try:
            yield self.of(joint, model, parameters)
        except torch.OutOfMemoryError:
            self._reason = self._reason or "a probe with whole parameters ran out of memory"
            raise

    def choose(
        self, loss: Loss, parameters: Sequence[Tensor], *, model: nn.Module, joint: Joint
    ) -> BackendChoice:
        """Return a backend that all processes take; see `choose_together`.

        Args:
            loss: Returns the mean loss; or one `LossTerm` per micro-batch.
            parameters: The tensors to differentiate with respect to, as the optimizer has them.
            model: The model that the loss evaluates.
            joint: What `of` returned; inside of its block.

        Raises:
            ProbeRefusedError: If double backward was asked for and does not work.
        """
        if isinstance(joint, LayerwiseProbe) or self.hvp == "difference":
            return choose_differences(loss, parameters, model=model, joint=joint, why=self._reason)
        choice = choose_together(loss, parameters, model=model, joint=joint)
        if self.hvp == "exact" and choice.name != DOUBLE_BACKWARD:
            raise ProbeRefusedError(
                f"hvp='exact' asks for double backward, which does not work here ({choice.reason}): leave "
                "hvp at 'auto'"
            )
        return choice

    def fits(self, choice: BackendChoice | None, joint: Joint) -> bool:
        """Return whether products can still be made as chosen before.

        Args:
            choice: What `choose` returned; None before.
            joint: What `of` returned for this probe.
        """
        return choice is not None and (choice.name == SHARD_DIFFERENCES) == isinstance(joint, LayerwiseProbe)


def shared_terms(loss: Loss, joint: Joint) -> Loss:
    """Return a loss whose gradient, averaged by FSDP2, is that of the batches of all processes.

    Weights of micro-batches go into their losses, since what FSDP2 averages has to have the same weight in
    each process. Where it averages nothing, the loss is returned as it is.

    Args:
        loss: Returns the mean loss; or one `LossTerm` per micro-batch.
        joint: The processes that measure together.

    Raises:
        ValueError: If the processes have other numbers of micro-batches, where FSDP2 averages.

    Example:
        >>> from foreshock.distributed import ALONE
        >>> terms = [LossTerm(lambda: torch.ones(()))]
        >>> shared_terms(terms, ALONE) is terms
        True
    """
    if not isinstance(joint, LayerwiseProbe):
        return loss
    terms = normalised_terms(loss)
    joint.require_as_many(len(terms))
    return [LossTerm(scaled(one.closure, joint.factor * one.weight * len(terms))) for one in terms]


def scaled(closure: Callable[[], Tensor], factor: float) -> Callable[[], Tensor]:
    """Return a loss that is multiplied by a factor; what is no tensor is returned as it is, to be refused.

    Args:
        closure: Returns the loss.
        factor: The factor.
    """

    def closure_of_all() -> Tensor:
        found = closure()
        return found * factor if isinstance(found, Tensor) else found

    return closure_of_all


def choose_differences(
    loss: Loss, parameters: Sequence[Tensor], *, model: nn.Module, joint: Joint, why: str
) -> BackendChoice:
    """Return differences of gradients, after a look at whether they can be trusted.

    Without an exact product to compare with, two quotients are compared, with ρ and ρ/4: truncation is
    sixteen times as large in the first, rounding four times in the second. Across kinks both measure the
    same, which is not the Hessian: these are looked for in the graph. Cost: 5 to 7 F.

    Args:
        loss: Returns the mean loss; or one `LossTerm` per micro-batch.
        parameters: The tensors to differentiate with respect to, as the optimizer has them.
        model: The model that the loss evaluates.
        joint: The processes that measure together; inside of its block.
        why: Why not double backward.
    """
    in_shards = isinstance(joint, LayerwiseProbe)
    whole, first = joint.whole(parameters), normalised_terms(shared_terms(loss, joint))[0]
    term, graphs = _read_once(first)
    spread = joint.reduced if in_shards else None
    here = GradientFunction([term], whole, model)()
    gradient = _seen(here.gradient if spread is None else spread(here.gradient), joint)
    start = Evaluation(here.loss, gradient if in_shards else here.gradient)
    averaged = reduce_dtypes(model) if in_shards else []
    precision = _coarsest([graphs[0].precision, *averaged], joint)
    scheme = DifferenceScheme(precision=precision)
    coarse = DifferenceOperator([term], whole, model=model, scheme=scheme, start=start, spread=spread)
    direction = _random(gradient, parameters, joint)
    product = _seen(coarse(_passed(direction, joint)), joint)
    finer = replace(scheme, change=scheme.target(whole) / FINER, gain=coarse.gain)
    fine = DifferenceOperator([term], whole, model=model, scheme=finer, start=start, spread=spread)
    size = float(torch.linalg.vector_norm(product))
    least = coarse.resolution * float(torch.linalg.vector_norm(direction))
    again = _seen(fine(_passed(direction, joint)), joint)
    apart = float(torch.linalg.vector_norm(product - again)) / max(size, least, 1e-30)
    agrees, kinks = apart <= tolerance_in(precision), ", ".join(graphs[0].kinks)
    reason = f"{why}; products with two step sizes "
    reason += f"agree to {apart:.1g}" if agrees else f"are {apart:.2g} apart"
    if kinks:
        reason += f"; the model has kinks ({kinks}), which differences measure as curvature"
    return BackendChoice(
        name=SHARD_DIFFERENCES if in_shards else CENTRAL_DIFFERENCES,
        reason=reason,
        discrepancy=apart,
        verified=agrees and not kinks,
        precision=precision,
        passes=term.weight * (1 + coarse.passes + fine.passes),
    )


def _read_once(term: LossTerm) -> tuple[LossTerm, list[GraphEvidence]]:
    """Return a loss that reads its own graph the first time it has one, and where it leaves what it read."""
    graphs: list[GraphEvidence] = []

    def closure() -> Tensor:
        found = term.closure()
        if not graphs and isinstance(found, Tensor) and found.requires_grad:
            graphs.append(read_graph(found))
        return found

    return LossTerm(closure), graphs


def _coarsest(found: Sequence[torch.dtype], joint: Joint) -> torch.dtype:
    """Return the coarsest of some precisions over all processes, which take their steps from it."""
    counts = joint.everyones(*(float(one in found) for one in _PRECISIONS), topic=CHOICE)
    known = [one for one, count in zip(_PRECISIONS, counts, strict=True) if count > 0]
    return known[0] if known else torch.float32


def _seen(vector: Tensor, joint: Joint) -> Tensor:
    """Return a vector over the parameters in the block, whose sums are over all that have parts of it."""
    return joint.gathered_vector(vector) if isinstance(joint, ShardedProbe) else vector


def _passed(vector: Tensor, joint: Joint) -> Tensor:
    """Return such a vector as an operator takes it."""
    return vector if isinstance(joint, LayerwiseProbe) else part_of(vector)


def _random(gradient: Tensor, parameters: Sequence[Tensor], joint: Joint) -> Tensor:
    """Return a random unit vector plus the unit gradient; see `foreshock.operators.backend`."""
    noise = _seen(joint.gather(random_start(parameters, joint=joint)), joint)
    noise.div_(torch.linalg.vector_norm(noise))
    length = float(torch.linalg.vector_norm(gradient))
    return noise.add_(gradient / length) if length > 0 else noise


def choose_together(
    loss: Loss, parameters: Sequence[Tensor], *, model: nn.Module, joint: Joint
) -> BackendChoice:
    """Return a backend that all processes take: differences, if one of them can't do without.

    Cost: see `choose_backend`; under tensor parallelism 6 F.

    Args:
        loss: Returns the mean loss; or one `LossTerm` per micro-batch.
        parameters: The tensors to differentiate with respect to, as the optimizer has them.
        model: The model that the loss evaluates.
        joint: The processes that measure together; inside of its block.
    """
    whole = joint.whole(parameters)
    if isinstance(joint, ShardedProbe) and is_sharded(whole):
        choice = _compared(loss, parameters, model=model, joint=joint)
    else:
        choice = choose_backend(loss, whole, model=model)
    if joint is ALONE:
        return choice
    mine = float(choice.name == CENTRAL_DIFFERENCES)
    (differences,) = joint.everyones(mine, topic=CHOICE)
    if not differences or mine:
        return choice
    why = f"{differences:.0f} of {joint.size} processes can't differentiate their part of the batch twice"
    return replace(choice, name=CENTRAL_DIFFERENCES, reason=why)


def _compared(
    loss: Loss, parameters: Sequence[Tensor], *, model: nn.Module, joint: ShardedProbe
) -> BackendChoice:
    """Return double backward if it agrees with differences of gradients, under tensor parallelism."""
    whole, term = joint.whole(parameters), normalised_terms(loss)[0]
    read, graphs = _read_once(term)
    with HessianOperator([read], whole, model=model) as hessian:
        direction = _random(joint.gathered_vector(hessian.gradient), parameters, joint)
        exact = joint.gathered_vector(hessian(part_of(direction)))
    size = float(torch.linalg.vector_norm(exact))
    gain = size / float(torch.linalg.vector_norm(direction))
    scheme = DifferenceScheme(precision=graphs[0].precision, gain=gain if 0 < gain < math.inf else None)
    differences = DifferenceOperator([term], whole, model=model, scheme=scheme)
    apart = exact - joint.gathered_vector(differences(part_of(direction)))
    (total,) = joint.everyones(float(torch.linalg.vector_norm(apart)) / max(size, 1e-30), topic=CHOICE)
    discrepancy, passes = total / joint.size, hessian.passes + differences.passes
    agrees, kinks = discrepancy <= tolerance_in(graphs[0].precision), ", ".join(graphs[0].kinks)
    why = f"under tensor parallelism it and differences of gradients are {discrepancy:.2g} apart"
    if not agrees:
        hidden = "a part of the model hides its second derivative from double backward"
        why += f", where differences see kinks ({kinks})" if kinks else f": {hidden}"
    return BackendChoice(
        name=DOUBLE_BACKWARD if agrees or kinks else CENTRAL_DIFFERENCES,
        reason=why,
        discrepancy=discrepancy,
        verified=agrees or not kinks,
        precision=graphs[0].precision,
        passes=passes,
    )
