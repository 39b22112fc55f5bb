r"""Choose between double backward and finite differences, once per model, and give the reason.

Double backward either raises an error or is exact, with three exceptions. A custom autograd function whose
backward leaves autograd loses a part of the Hessian, or all of it. So does a detached tensor that depends on
parameters (spectral norm). And torch's own second derivative of weight norm is wrong (2.13: half of the dense
Hessian). Finite differences need one derivative only, but across kinks (ReLU, max pooling) they measure
something other than the Hessian, because the density of the kinks is included. A disagreement alone does not
show which of the two is wrong, hence these rules:

1. Double backward raises an error, or parameters are sharded: differences.
2. The two agree within the tolerance: double backward.
3. They disagree, and the difference quotients with ρ and ρ/4 agree with each other four times better than
   with double backward: differences, provided that the graph has no kink, or has a node that may hide a part
   of the Hessian. The factor four is safe. Let w be the true product: if truncation (∝ ρ²) dominates, then
   ‖w_ρ − w‖ ≤ 16/15 ‖w_ρ − w_{ρ/4}‖; if rounding (∝ 1/ρ, independent) does, then
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

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from foreshock.isolation import Replay
from foreshock.operators.base import LossOperator
from foreshock.operators.differences import DifferenceOperator, DifferenceScheme
from foreshock.operators.gradients import Evaluation
from foreshock.operators.graph import GraphEvidence, has_compiled_module, read_graph
from foreshock.operators.hessian import HessianOperator
from foreshock.operators.loss import Loss, LossTerm, evaluate, normalised_terms
from foreshock.representation import short_repr
from foreshock.vectors import is_sharded

DOUBLE_BACKWARD = "double backward"
CENTRAL_DIFFERENCES = "central differences"

_TOLERANCE, _SUSPICIOUS_TOLERANCE, _HALF_PRECISION_TOLERANCE = 0.01, 0.001, 0.1
_FINER = 4  # the second quotient's ρ is smaller by this factor
_CONVICTING = 4  # how much better the quotients must agree with each other than with double backward


@dataclass(frozen=True)
class BackendChoice:
    """Which backend to use for a model, and why.

    Attributes:
        name: "double backward" or "central differences".
        reason: The reason, in one sentence.
        discrepancy: Relative distance of the two products that were compared; NaN if there was only one.
        verified: Whether the two agree, or the other backend is ruled out. If not, the value may be off by
            `discrepancy`.
        precision: dtype of the coarsest arithmetic in the graph.
        eager: Whether compiled modules run uncompiled during a probe.
        keep_graph: Whether double backward keeps its graphs. To save memory, pass
            ``dataclasses.replace(choice, keep_graph=False)`` to `hessian_operator`.
    """

    name: str
    reason: str
    discrepancy: float
    verified: bool
    precision: torch.dtype = torch.float32
    eager: bool = False
    keep_graph: bool = True

    __repr__ = short_repr

    def __str__(self) -> str:
        """Return the name and the reason."""
        return f"{self.name}: {self.reason}"


def choose_backend(
    loss: Loss, parameters: Sequence[Tensor], *, model: nn.Module | None = None
) -> BackendChoice:
    """Compare one product of double backward with finite differences, and choose by the module's rules.

    Call it inside `isolated`, under the same autocast and train mode as the later probes. Of several
    micro-batches only the first is used. Cost: about 10 F, once; up to 16 F if the two disagree.

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
) -> LossOperator:
    """Return the Hessian of a loss by the chosen backend; use it in a ``with`` block.

    Args:
        choice: The result of `choose_backend`.
        loss: Returns the mean loss, a scalar tensor; or one `LossTerm` per micro-batch.
        parameters: The tensors to differentiate with respect to.
        model: The model that the loss evaluates.
        gain: ‖Hv‖/‖v‖ of the last probe (`DifferenceOperator.gain`), from which differences take their step.

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
    return DifferenceOperator(loss, parameters, model=model, scheme=scheme)


class _Comparison:
    """One exact product against differences, on one micro-batch."""

    def __init__(self, term: LossTerm, parameters: tuple[Tensor, ...], model: nn.Module | None) -> None:
        self._terms = (LossTerm(term.closure),)
        self._parameters = parameters
        self._model = model
        self._replay = Replay(model, parameters)
        with torch.enable_grad(), self._replay():
            self._evidence: GraphEvidence = read_graph(evaluate(term))
        self._eager = self._evidence.compiled or has_compiled_module(model)
        self._tolerance = _SUSPICIOUS_TOLERANCE if self._evidence.suspects else _TOLERANCE
        # eps is 1e-3 in float16 and 8e-3 in bfloat16, 1e-7 in float32.
        if torch.finfo(self._evidence.precision).eps > 1e-4:
            self._tolerance = _HALF_PRECISION_TOLERANCE

    def choice(self) -> BackendChoice:
        """Return the choice by the module's rules, which are numbered there."""
        # Rule 1.
        if is_sharded(self._parameters):
            why = "the parameters are sharded: double backward needs them whole"
            return self._choose(CENTRAL_DIFFERENCES, why)
        differences = self._differences(None)
        direction = _direction(differences.gradient)
        try:
            exact, gradient = self._exact(direction)
        except RuntimeError as error:
            # Differences may fail as well: better now, with a clear error, than in the first probe.
            differences(direction)
            return self._choose(CENTRAL_DIFFERENCES, f"double backward failed: {_first_line(error)}")
        # Two evaluations with the same random numbers must agree, or no difference of gradients means
        # anything: a loss that draws its batch anew, or state that is neither a buffer nor a random number.
        drift = _distance(gradient, differences.gradient)
        if not drift <= self._tolerance:
            why = (
                f"two evaluations of the loss with the same random numbers have gradients {drift:.2g} apart, "
                "so that differences cannot verify double backward"
            )
            return self._choose(DOUBLE_BACKWARD, why, drift, verified=False)
        # Rule 2. Relative to what differences resolve at least: a linear loss has the Hessian zero, of which
        # they return rounding only.
        coarse = differences(direction)
        resolved = differences.resolution * torch.linalg.vector_norm(direction)
        discrepancy = _distance(exact, coarse, float(resolved))
        if discrepancy <= self._tolerance:
            return self._choose(DOUBLE_BACKWARD, self._agreement(discrepancy), discrepancy)
        # Rules 3 and 4.
        finer = self._differences(differences)
        return self._disagreement(exact, coarse, finer(direction))

    def _disagreement(self, exact: Tensor, coarse: Tensor, fine: Tensor) -> BackendChoice:
        spread = _distance(coarse, fine)
        # If the first ρ was too coarse, the finer quotient may still verify double backward (rule 2).
        discrepancy = min(_distance(exact, coarse), _distance(exact, fine))
        if discrepancy <= self._tolerance:
            return self._choose(DOUBLE_BACKWARD, self._agreement(discrepancy), discrepancy)
        apart = f"double backward and differences are {discrepancy:.2g} apart"
        resolved = discrepancy > _CONVICTING * spread
        suspects, kinks = ", ".join(self._evidence.suspects), ", ".join(self._evidence.kinks)
        if resolved and (suspects or not kinks):
            hider = suspects or "a detached tensor, or a wrong second derivative,"
            why = (
                f"{apart}, two differences only {spread:.2g}: {hider} hides a part of the Hessian from "
                "double backward"
            )
            return self._choose(CENTRAL_DIFFERENCES, why, discrepancy)
        if suspects or not kinks:
            why = f"{apart}, but two differences also {spread:.2g}: they are too noisy to verify it"
        else:
            why = f"{apart} because differences see kinks ({kinks})"
        return self._choose(DOUBLE_BACKWARD, why, discrepancy, verified=False)

    def _exact(self, direction: Tensor) -> tuple[Tensor, Tensor]:
        with (
            self._replay(),
            HessianOperator(self._terms, self._parameters, eager=self._eager) as hessian,
        ):
            return hessian(direction), hessian.gradient

    def _differences(self, coarser: DifferenceOperator | None) -> DifferenceOperator:
        scheme, start = DifferenceScheme(precision=self._evidence.precision), None
        if coarser is not None:
            change = scheme.target(self._parameters) / _FINER
            scheme = replace(scheme, change=change, gain=coarser.gain)
            start = Evaluation(coarser.loss, coarser.gradient)
        return DifferenceOperator(
            self._terms, self._parameters, model=self._model, scheme=scheme, start=start
        )

    def _agreement(self, discrepancy: float) -> str:
        how = "double backward of the modules before torch.compile" if self._eager else "double backward"
        return f"{how} agrees with differences of gradients to {discrepancy:.1g}"

    def _choose(
        self, name: str, reason: str, discrepancy: float = float("nan"), *, verified: bool = True
    ) -> BackendChoice:
        return BackendChoice(name, reason, discrepancy, verified, self._evidence.precision, self._eager)


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
