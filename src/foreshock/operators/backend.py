r"""Choose between double backward and finite differences, once per model, and give the reason.

Double backward either raises an error or is exact, with three exceptions. A custom autograd function whose
backward leaves autograd loses a part of the Hessian, or all of it. So does a detached tensor that depends on
parameters (spectral norm). And torch's own second derivative of weight norm is wrong (2.13: half of the dense
Hessian). Finite differences need one derivative only, but across kinks (ReLU, max pooling) they measure
something other than the Hessian, because the density of the kinks is included. A disagreement alone does not
show which of the two is wrong, hence these rules:

1. Double backward raises an error, or parameters are sharded: differences.
2. The two agree within the tolerance: double backward. A one-sided difference is enough for that: it starts
   from the gradient that double backward has computed, and takes its step h from the exact product.
3. They disagree, and the central difference quotients with ρ and ρ/4 agree with each other four times better
   than with double backward: differences, provided that the graph has no kink, or has a node that may hide a
   part of the Hessian. The factor four is safe. Let w be the true product: if truncation (∝ ρ²) dominates,
   then ‖w_ρ − w‖ ≤ 16/15 ‖w_ρ − w_{ρ/4}‖; if rounding (∝ 1/ρ, independent) does, then
   ‖w_{ρ/4} − w‖ ≲ ‖w_ρ − w_{ρ/4}‖.
4. Otherwise double backward, unverified: kinks explain the disagreement, or the differences are too noisy to
   decide it.

The kinks of very many examples look smooth to differences: both quotients contain them and agree. That is why
rule 3 looks at the graph, and not at the quotients alone.

The tolerance is 1 %: the overshoot above the edge is a few percent, and a smaller error does not hide it. If
the graph has a node that may hide something, the tolerance is 0.1 %, little above rounding in float32,
because the hidden part may grow during training. In half precision it is 10 %, the noise of both methods. The
direction is a random one plus the gradient, at equal norms: the first involves every parameter, the second
the directions of large curvature.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from foreshock.isolation import Replay
from foreshock.operators.base import LossOperator
from foreshock.operators.cost import FORWARD_PASSES, GRAPH_PASSES
from foreshock.operators.differences import DifferenceOperator, DifferenceScheme
from foreshock.operators.gradients import Evaluation
from foreshock.operators.graph import GraphEvidence, has_compiled_module, read_graph
from foreshock.operators.hessian import HessianOperator
from foreshock.operators.loss import Loss, LossTerm, evaluate, normalised_terms
from foreshock.representation import short_repr
from foreshock.vectors import is_sharded

DOUBLE_BACKWARD = "double backward"
CENTRAL_DIFFERENCES = "central differences"
SHARD_DIFFERENCES = "central differences of shards"

FINER = 4
"""By what factor ρ of a second quotient of differences is smaller than that of the first."""

_TOLERANCE, _SUSPICIOUS_TOLERANCE, _HALF_PRECISION_TOLERANCE = 0.01, 0.001, 0.1
_CONVICTING = 4  # how much better the quotients must agree with each other than with double backward


@dataclass(frozen=True)
class BackendChoice:
    """Which backend to use for a model, and why.

    Attributes:
        name: "double backward", "central differences", or "central differences of shards" where no process
            ever has all parameters.
        reason: The reason, in one sentence.
        discrepancy: Relative distance of the two products that were compared; NaN if there was only one.
        verified: Whether the two agree, or the other backend is ruled out. If not, the value may be off by
            `discrepancy`.
        precision: dtype of the coarsest arithmetic in the graph.
        eager: Whether compiled modules run uncompiled during a probe.
        keep_graph: Whether double backward keeps its graphs between products; None for that of a single
            batch only, not those of micro-batches. For another choice of speed or memory, pass
            ``dataclasses.replace(choice, keep_graph=True)`` to `hessian_operator`, or False.
        passes: What the choice cost, in F of the whole batch; see ``foreshock.operators.cost``.
    """

    name: str
    reason: str
    discrepancy: float
    verified: bool
    precision: torch.dtype = torch.float32
    eager: bool = False
    keep_graph: bool | None = None
    passes: float = math.nan

    __repr__ = short_repr

    def __str__(self) -> str:
        """Return the name and the reason."""
        return f"{self.name}: {self.reason}"


def choose_backend(
    loss: Loss, parameters: Sequence[Tensor], *, model: nn.Module | None = None
) -> BackendChoice:
    """Compare one product of double backward with finite differences, and choose by the module's rules.

    Call it inside `isolated`, under the same autocast and train mode as the later probes. Of several
    micro-batches only the first is used, which costs its share of the following. Cost: 5 F; 6 F where
    differences see kinks, and 10 F if the two disagree otherwise, or if a node may hide something.

    Args:
        loss: Returns the mean loss, a scalar tensor; or one `LossTerm` per micro-batch.
        parameters: The tensors to differentiate with respect to.
        model: The model that the loss evaluates; None if the loss depends on nothing but `parameters`.

    Returns:
        The backend to use, and why.

    Raises:
        TypeError: If the loss is not a tensor.
        ValueError: If the loss is not a scalar, or does not depend on any of `parameters`.
        RuntimeError: If the loss cannot be differentiated even once.

    Example:
        >>> x = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> choice = choose_backend(lambda: (x**3).sum(), [x])
        >>> choice.name, choice.verified
        ('double backward', True)
    """
    return _Comparison(normalised_terms(loss)[0], tuple(parameters), model).choice()


def hessian_operator(
    choice: BackendChoice,
    loss: Loss,
    parameters: Sequence[Tensor],
    *,
    model: nn.Module | None = None,
    gain: float | None = None,
    spread: Callable[[Tensor], Tensor] | None = None,
) -> LossOperator:
    """Return the Hessian of a loss by the chosen backend; use it in a ``with`` block.

    Args:
        choice: The result of `choose_backend`.
        loss: Returns the mean loss, a scalar tensor; or one `LossTerm` per micro-batch.
        parameters: The tensors to differentiate with respect to.
        model: The model that the loss evaluates.
        gain: ‖Hv‖/‖v‖ of the last probe (`DifferenceOperator.gain`), from which differences take their step.
        spread: For differences of shards; see `DifferenceOperator`.

    Raises:
        TypeError: If the loss is not a tensor.
        ValueError: If the loss is not a scalar, or does not depend on any of `parameters`.

    Example:
        >>> x = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> loss = lambda: (x**3).sum()
        >>> with hessian_operator(choose_backend(loss, [x]), loss, [x]) as hessian:
        ...     hessian(torch.tensor([1.0, 1.0]))
        tensor([ 6., 12.])
    """
    if choice.name == DOUBLE_BACKWARD:
        return HessianOperator(
            loss, parameters, model=model, keep_graph=choice.keep_graph, eager=choice.eager
        )
    scheme = DifferenceScheme(precision=choice.precision, gain=gain)
    return DifferenceOperator(loss, parameters, model=model, scheme=scheme, spread=spread)


@dataclass(frozen=True)
class _Exact:
    """Loss, gradient and one product of double backward."""

    start: Evaluation
    direction: Tensor
    product: Tensor

    @property
    def gain(self) -> float | None:
        """‖Hv‖/‖v‖, which gives differences their step; None if it is not finite."""
        gain = float(torch.linalg.vector_norm(self.product) / torch.linalg.vector_norm(self.direction))
        return gain if math.isfinite(gain) else None


class _Comparison:
    """One exact product against differences, on one micro-batch."""

    def __init__(self, term: LossTerm, parameters: tuple[Tensor, ...], model: nn.Module | None) -> None:
        self._term = term
        self._terms = (LossTerm(self._read),)
        self._parameters = parameters
        self._model = model
        self._replay = Replay(model, parameters)
        self._eager = has_compiled_module(model)
        self._found: GraphEvidence | None = None
        self._operators: list[LossOperator] = []
        self._passes = 0.0

    def choice(self) -> BackendChoice:
        """Return the choice by the module's rules, which are numbered there."""
        # Rule 1.
        if is_sharded(self._parameters):
            why = "the parameters are sharded: double backward needs them whole"
            return self._choose(CENTRAL_DIFFERENCES, why)
        exact, failure = self._tried()
        if exact is None:
            # Differences may fail as well: better now, with a clear error, than in the first probe.
            differences = self._differences(DifferenceScheme())
            differences(_direction(differences.gradient))
            return self._choose(CENTRAL_DIFFERENCES, f"double backward failed: {failure}")
        # Rule 2. One side is too coarse for the tolerance of suspects, and in half precision.
        one_sided = math.nan
        if self._tolerance == _TOLERANCE:
            scheme = DifferenceScheme(central=False, gain=exact.gain)
            beside = self._differences(scheme, exact.start)
            one_sided = _apart(exact, beside(exact.direction), beside)
            if one_sided <= self._tolerance:
                return self._agreement(one_sided)
        differences = self._differences(DifferenceScheme(gain=exact.gain))
        # Two evaluations with the same random numbers must agree, or no difference of gradients means
        # anything: a loss that draws its batch anew, or state that is neither a buffer nor a random number.
        drift = _distance(exact.start.gradient, differences.gradient)
        if not drift <= self._tolerance:
            why = (
                f"two evaluations of the loss with the same random numbers have gradients {drift:.2g} apart, "
                "so that differences cannot verify double backward"
            )
            return self._choose(DOUBLE_BACKWARD, why, drift, verified=False)
        # Rule 4: where there are kinks and no suspects, no further difference could change the choice.
        if self._evidence.kinks and not self._evidence.suspects and math.isfinite(one_sided):
            return self._kinked(one_sided)
        coarse = differences(exact.direction)
        discrepancy = _apart(exact, coarse, differences)
        if discrepancy <= self._tolerance:
            return self._agreement(discrepancy)
        return self._disagreement(exact, coarse, differences)

    def _disagreement(self, exact: _Exact, coarse: Tensor, differences: DifferenceOperator) -> BackendChoice:
        """Choose by rules 3 and 4, from the differences that disagree and from finer ones."""
        change = DifferenceScheme(precision=self._evidence.precision).target(self._parameters) / FINER
        start = Evaluation(differences.loss, differences.gradient)
        finer = self._differences(DifferenceScheme(change=change, gain=differences.gain), start)
        fine = finer(exact.direction)
        spread = _distance(coarse, fine)
        # If the first ρ was too coarse, the finer quotient may still verify double backward (rule 2).
        discrepancy = min(_distance(exact.product, coarse), _distance(exact.product, fine))
        if discrepancy <= self._tolerance:
            return self._agreement(discrepancy)
        apart = f"double backward and differences are {discrepancy:.2g} apart"
        resolved = discrepancy > _CONVICTING * spread
        suspects, kinks = ", ".join(self._evidence.suspects), self._evidence.kinks
        if resolved and (suspects or not kinks):
            hider = suspects or "a detached tensor, or a wrong second derivative,"
            why = (
                f"{apart}, two differences only {spread:.2g}: {hider} hides a part of the Hessian from "
                "double backward"
            )
            return self._choose(CENTRAL_DIFFERENCES, why, discrepancy)
        if kinks and not suspects:
            return self._kinked(discrepancy)
        why = f"{apart}, but two differences also {spread:.2g}: they are too noisy to verify it"
        return self._choose(DOUBLE_BACKWARD, why, discrepancy, verified=False)

    def _kinked(self, discrepancy: float) -> BackendChoice:
        kinks = ", ".join(self._evidence.kinks)
        why = (
            f"double backward and differences are {discrepancy:.2g} apart because differences see kinks "
            f"({kinks})"
        )
        return self._choose(DOUBLE_BACKWARD, why, discrepancy, verified=False)

    def _agreement(self, discrepancy: float) -> BackendChoice:
        how = "double backward of the modules before torch.compile" if self._eager else "double backward"
        why = f"{how} agrees with differences of gradients to {discrepancy:.1g}"
        return self._choose(DOUBLE_BACKWARD, why, discrepancy)

    def _tried(self) -> tuple[_Exact | None, str]:
        """Return the exact product; None, and why, if double backward fails."""
        # What failed for want of memory holds it as long as its error is alive: hence words, and no error.
        try:
            return self._exact(), ""
        except RuntimeError as error:
            failure, starved = _first_line(error), isinstance(error, torch.OutOfMemoryError)
        if starved:
            gc.collect()  # frames of the error may be in cycles
        return None, failure

    def _exact(self) -> _Exact:
        try:
            exact = self._one_product()
        except RuntimeError:
            self._passes += GRAPH_PASSES
            if not self._compiled_unseen:
                raise
        else:
            if not self._compiled_unseen:
                return exact
        # Its backward is a constant to double backward, which fails or, worse, leaves it out.
        self._eager, self._found = True, None
        return self._one_product()

    def _one_product(self) -> _Exact:
        with (
            self._replay(),
            HessianOperator(self._terms, self._parameters, eager=self._eager) as hessian,
        ):
            direction = _direction(hessian.gradient)
            exact = _Exact(Evaluation(hessian.loss, hessian.gradient), direction, hessian(direction))
        self._operators.append(hessian)
        return exact

    def _differences(self, scheme: DifferenceScheme, start: Evaluation | None = None) -> DifferenceOperator:
        operator = DifferenceOperator(
            self._terms,
            self._parameters,
            model=self._model,
            scheme=replace(scheme, precision=self._evidence.precision),
            start=start,
        )
        self._operators.append(operator)
        return operator

    def _read(self) -> Tensor:
        """Return the loss; the first time, read its graph as well, which costs no evaluation of its own."""
        loss = self._term.closure()
        # What is no loss, `evaluate` refuses.
        if self._found is None and isinstance(loss, Tensor) and loss.requires_grad:
            self._found = read_graph(loss)
        return loss

    @property
    def _compiled_unseen(self) -> bool:
        """Whether a compiled function ran that is no module, which only the graph shows."""
        return not self._eager and self._found is not None and self._found.compiled

    @property
    def _evidence(self) -> GraphEvidence:
        if self._found is None:
            # Double backward was not tried, or failed before there was a loss.
            self._passes += FORWARD_PASSES
            with torch.enable_grad(), self._replay():
                self._found = read_graph(evaluate(self._terms[0]))
        return self._found

    @property
    def _tolerance(self) -> float:
        usual = tolerance_in(self._evidence.precision)
        return _SUSPICIOUS_TOLERANCE if usual == _TOLERANCE and self._evidence.suspects else usual

    def _choose(
        self, name: str, reason: str, discrepancy: float = float("nan"), *, verified: bool = True
    ) -> BackendChoice:
        precision = self._evidence.precision
        passes = self._term.weight * (self._passes + sum(one.passes for one in self._operators))
        return BackendChoice(name, reason, discrepancy, verified, precision, self._eager, passes=passes)


def tolerance_in(precision: torch.dtype) -> float:
    """Return how far apart products by double backward and by differences may be, relative.

    Args:
        precision: The coarsest arithmetic of the graph.
    """
    # eps is 1e-3 in float16 and 8e-3 in bfloat16, 1e-7 in float32.
    return _HALF_PRECISION_TOLERANCE if torch.finfo(precision).eps > 1e-4 else _TOLERANCE


def _apart(exact: _Exact, product: Tensor, differences: DifferenceOperator) -> float:
    """Return the distance of the exact product from that by differences.

    It is relative to what differences resolve at least: a linear loss has the Hessian zero, of which they
    return rounding only.
    """
    resolved = differences.resolution * torch.linalg.vector_norm(exact.direction)
    return _distance(exact.product, product, float(resolved))


def _direction(gradient: Tensor) -> Tensor:
    """Return a random unit vector plus the unit gradient; see the module."""
    generator = torch.Generator(gradient.device).manual_seed(0)
    noise = torch.randn(gradient.shape, generator=generator, dtype=gradient.dtype, device=gradient.device)
    noise /= torch.linalg.vector_norm(noise)
    norm = torch.linalg.vector_norm(gradient)
    return noise.add_(gradient / norm) if norm > 0 else noise


def _distance(one: Tensor, other: Tensor, least: float = 0.0) -> float:
    """Return ‖one − other‖ relative to the larger of the two, or to `least`; NaN if one is not finite."""
    scale = max(float(torch.linalg.vector_norm(one)), float(torch.linalg.vector_norm(other)), least)
    return float(torch.linalg.vector_norm(one - other)) / scale if scale else 0.0


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
