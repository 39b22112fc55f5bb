"""What the measurements share: the step under study, the symmetric form of a matrix, a start vector."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from foreshock.distributed import ALONE, Joint, ShardedProbe, part_of
from foreshock.distributed.joint import POINT
from foreshock.eigen import EigenResults, StoppingRule, largest_eigenvalues
from foreshock.operators import (
    GradientFunction,
    LinearOperator,
    Loss,
    PreconditionedOperator,
    normalised_terms,
)
from foreshock.preconditioner import Preconditioner, as_optimizers, moving_parameters, read_preconditioner
from foreshock.vectors import (
    flatten,
    local_size,
    placed_as,
    random_like,
    split,
    vector_dtype,
)

ONE_CALL_CAUTION = 30.0
"""`StoppingRule.caution` of a single call, which no later one corrects."""


def symmetric_form(
    hessian: LinearOperator, preconditioner: Preconditioner, scale_root: Tensor | None = None
) -> PreconditionedOperator:
    """Return A^{1/2}HA^{1/2}, coupled weight decay and the sign of a maximizing optimizer included.

    Args:
        hessian: H, or another matrix in its place.
        preconditioner: The step about to be taken.
        scale_root: Diagonal of A^{1/2}, shape (n,), if the caller has computed it already.

    Raises:
        ValueError: If no step is linear in its gradient, or some groups maximize and others minimize.
    """
    return PreconditionedOperator(
        hessian,
        preconditioner.scale_root() if scale_root is None else scale_root,
        shift=preconditioner.coupled_decay(),
        sign=preconditioner.sign,
    )


def next_step(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    loss: Loss,
    only: Iterable[Tensor] | None = None,
    *,
    joint: Joint = ALONE,
) -> Preconditioner:
    """Return the step that the optimizer would take on the gradient of this loss. Cost: 1 F.

    The gradient is left in ``.grad``: call this function inside `isolated`, which restores the user's.

    Args:
        model: The model.
        optimizer: Its live optimizer, or several.
        loss: The loss whose gradient the step uses.
        only: The parameters to return the step for, the others held fixed; None for all.
        joint: The processes that measure together; inside of its block.

    Raises:
        TypeError: If the loss is not a tensor, or an optimizer is not registered.
        ValueError: If the loss is not a scalar or does not depend on the parameters, or if `only` has none
            that the optimizer moves.
    """
    parameters = moving_parameters(as_optimizers(optimizer))
    joint.over(parameters)
    gradient = GradientFunction(normalised_terms(loss), joint.whole(parameters), model)().gradient
    if joint is not ALONE:
        gradient = part_of(joint.own(joint.mean(gradient, topic=POINT)[0]))
    # Readers take the gradient from .grad, because D of step t contains g_t: torch adds it to v in step().
    for parameter, part in zip(parameters, split(gradient, parameters), strict=True):
        parameter.grad = placed_as(part.to(parameter.dtype), parameter)
    step = spread_over(read_preconditioner(optimizer), joint)
    if only is None:
        return step
    chosen = {id(parameter) for parameter in only}
    pairs = [pair for pair in zip(step.parameters, step.steps, strict=True) if id(pair[0]) in chosen]
    if not pairs:
        raise ValueError(
            "none of the parameters is in the optimizer, so that the step does not move them: pass some that "
            "it trains, such as model.head.parameters()"
        )
    joint.over([one for one, _ in pairs])
    chosen_step = Preconditioner(tuple(one for one, _ in pairs), tuple(one for _, one in pairs))
    return spread_over(chosen_step, joint)


def spread_over(step: Preconditioner, joint: Joint) -> Preconditioner:
    """Return a step with vectors whose sums are over all processes that have parts of them.

    Args:
        step: The step about to be taken.
        joint: The processes that measure together.
    """
    return replace(step, spread=joint.vector) if isinstance(joint, ShardedProbe) else step


def gathered_step(step: Preconditioner, joint: Joint) -> Preconditioner:
    """Return a step over the parameters as the model has them in a probe: whole where they were shards.

    Cost: two vectors over all parameters, and as many exchanges of that length, where they were shards.

    Args:
        step: The step about to be taken.
        joint: The processes that measure together; inside of its block.
    """
    if not isinstance(joint, ShardedProbe):
        return step
    whole, shards = tuple(joint.whole(step.parameters)), step.parameters
    numerators, denominators = (
        split(joint.gather(flatten([getattr(one, name, None) for one in step.steps], shards)), whole)
        for name in ("numerator", "denominator")
    )
    steps = tuple(
        None if one is None else replace(one, gradient=above, numerator=above, denominator=below)
        for one, above, below in zip(step.steps, numerators, denominators, strict=True)
    )
    return Preconditioner(whole, steps, joint.gathered_vector)


def trained_parameters(model: nn.Module, only: Iterable[Tensor] | None = None) -> list[Tensor]:
    """Return the parameters of a model that require a gradient, each once.

    Args:
        model: The model.
        only: Some of its parameters, such as those of one layer; None for all.

    Raises:
        TypeError: If `only` has something other than tensors.
        ValueError: If there is none that requires a gradient, or one is not of the model.
    """
    if only is not None:
        return _chosen(model, only)
    parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(
            "the model has no parameter that requires a gradient, so it has no Hessian: call "
            "requires_grad_() on the parameters to measure"
        )
    return parameters


def _chosen(model: nn.Module, only: Iterable[Tensor]) -> list[Tensor]:
    several = [only] if isinstance(only, Tensor) else list(only)
    if not all(isinstance(one, Tensor) for one in several):
        names = sorted({type(one).__name__ for one in several if not isinstance(one, Tensor)})
        raise TypeError(
            f"parameters has {', '.join(names)}; it must hold tensors: pass model.head.parameters(), or "
            "[model.head.weight]"
        )
    owned = {id(parameter) for parameter in model.parameters()}
    strangers = sum(id(one) not in owned for one in several)
    if strangers:
        raise ValueError(
            f"{strangers} of the {len(several)} parameters are not the model's: pass its own, such as "
            "model.head.parameters()"
        )
    # By identity: a parameter that two modules share counts once.
    parameters = list({id(one): one for one in several if one.requires_grad}.values())
    if not parameters:
        raise ValueError(
            f"none of the {len(several)} parameters requires a gradient, so that there is no Hessian: call "
            "requires_grad_() on those to measure"
        )
    return parameters


def random_start(parameters: Sequence[Tensor], seed: int = 0, joint: Joint = ALONE) -> Tensor:
    """Return a random vector to start an eigenvalue solver from, the same at each call, shape (n,).

    Args:
        parameters: The tensors that define its size, dtype and device.
        seed: Another seed gives another vector.
        joint: The processes that it may be spread over.
    """
    part = torch.empty(local_size(parameters), dtype=vector_dtype(parameters), device=parameters[0].device)
    return random_like(joint.vector(part), seed)


def one_call_solve(
    operator: LinearOperator,
    parameters: Sequence[Tensor],
    count: int,
    stop: StoppingRule | None,
    *,
    joint: Joint = ALONE,
) -> EigenResults:
    """Return the largest eigenvalues as a single call finds them, from as many random starts as there are.

    Only from several starts are eigenvalues that coincide found as often as they occur. A further one would
    cost a product and find no more: where eigenvalues lie close together, each product amplifies what the
    starts have of the largest, and more starts share fewer products. Being more cautious does find more, and
    no later call finds what this one missed: hence three times the usual caution.

    Args:
        operator: The symmetric operator.
        parameters: The tensors that its vectors are over.
        count: Number of eigenvalues, ≥ 1.
        stop: When they are accurate enough; None for 0.5 % at 30 residuals, within 20 products for each and
            20 more.
        joint: The processes that measure together.

    Raises:
        ValueError: If `count` is below one.
        FloatingPointError: If a product is not finite.
    """
    size = sum(parameter.numel() for parameter in parameters)
    starts = [random_start(parameters, seed, joint) for seed in range(min(max(count, 1), size))]
    rule = stop or StoppingRule(max_products=20 + 20 * max(count, 1), caution=ONE_CALL_CAUTION)
    return largest_eigenvalues(operator, starts, count, rule)
