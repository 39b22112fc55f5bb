r"""Choose between double backward and finite differences, once, with evidence.

Double backward either raises or is exact, but for what is hidden from it: a custom autograd function whose
backward leaves autograd loses a part of the Hessian, or all of it; so does a detached tensor that depends on
parameters (spectral norm); and torch's own second derivative of weight norm is wrong (2.13: half of the
dense Hessian). Differences need one derivative only, but across kinks (ReLU, max pooling) they measure
another thing than the Hessian: the density of kinks included. A disagreement alone convicts neither, so:

1. Double backward raises, or parameters are sharded: differences.
2. The two agree within the tolerance: double backward.
3. They disagree, and the difference quotients with ρ and ρ/4 agree with each other four times better than
   with double backward: differences, if the graph shows no kink, or a node that may be to blame for it. The
   factor is safe: with w the true product, either truncation (∝ ρ²) dominates, and
   ‖w_ρ − w‖ ≤ 16/15 ‖w_ρ − w_{ρ/4}‖, or rounding (∝ 1/ρ, independent) does, and
   ‖w_{ρ/4} − w‖ ≲ ‖w_ρ − w_{ρ/4}‖.
4. Otherwise double backward, unverified: kinks explain it, or the differences are too noisy to convict.

The kinks of very many examples look smooth to differences: both quotients contain them and agree. That is why
rule 3 asks the graph, and not the quotients alone.

The tolerance, 1 %, is what a curvature may be off without hiding the edge: the overshoot above it is a few
percent. With a node that may be to blame it is 0.1 %, little above rounding in float32: what is hidden now
may grow in training. In half precision both sides are noise beyond that, and it is 10 %. The direction is a
random one plus the gradient, at equal norms: one feels every parameter, the other what is curved most.
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
_FINER = 4
_CONVICTING = 4


@dataclass(frozen=True)
class BackendChoice:
    """Which backend to use for a model, and why.

    Attributes:
        name: "double backward" or "central differences".
        reason: One sentence.
        discrepancy: Relative distance of the two products that were compared; NaN if there was only one.
        verified: Whether the two agree, or the choice follows from a failure of the other.
        precision: dtype of the coarsest arithmetic that was seen.
        eager: Whether compiled modules are to run as they were written.
        keep_graph: Whether double backward keeps its graphs: replace it where memory is short.
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
    """Compare one exact product with finite differences and choose; the module says by which rule.

    Call it where the probes will be made, inside `isolated`. Cost: 9 to 16 F, once; of several micro-batches
    the first is used.

    Args:
        loss: Returns the mean loss, a scalar tensor; or one `LossTerm` a micro-batch.
        parameters: The tensors to differentiate by.
        model: The model behind the loss; None if `parameters` is all that the loss depends on.

    Returns:
        The backend to use, and why.

    Raises:
        TypeError: If the loss is not a tensor.
        ValueError: If the loss is not a scalar, or does not depend on any of `parameters`.
        RuntimeError: If the loss can't be differentiated even once.
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
    """Return the Hessian of a loss by the backend that was chosen.

    Args:
        choice: What `choose_backend` returned.
        loss: Returns the mean loss, a scalar tensor; or one `LossTerm` a micro-batch.
        parameters: The tensors to differentiate by.
        model: The model behind the loss.
        gain: ‖Hv‖/‖v‖ of the last probe (`DifferenceOperator.gain`), for the step of differences.

    Raises:
        TypeError: If the loss is not a tensor.
        ValueError: If the loss is not a scalar, or does not depend on any of `parameters`.
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
        if torch.finfo(self._evidence.precision).eps > 1e-4:
            self._tolerance = _HALF_PRECISION_TOLERANCE

    def choice(self) -> BackendChoice:
        """Return what the rule says."""
        if is_sharded(self._parameters):
            why = "the parameters are sharded: double backward needs them whole"
            return self._choose(CENTRAL_DIFFERENCES, why)
        differences = self._differences(None)
        direction = _direction(differences.gradient)
        try:
            exact, gradient = self._exact(direction)
        except RuntimeError as error:
            differences(direction)
            return self._choose(CENTRAL_DIFFERENCES, f"double backward failed: {_first_line(error)}")
        drift = _distance(gradient, differences.gradient)
        if not drift <= self._tolerance:
            why = (
                f"two evaluations of the loss with the same random numbers have gradients {drift:.2g} apart: "
                "differences can't verify double backward"
            )
            return self._choose(DOUBLE_BACKWARD, why, drift, verified=False)
        coarse = differences(direction)
        resolved = differences.resolution * torch.linalg.vector_norm(direction)
        discrepancy = _distance(exact, coarse, float(resolved))
        if discrepancy <= self._tolerance:
            return self._choose(DOUBLE_BACKWARD, self._agreement(discrepancy), discrepancy)
        finer = self._differences(differences)
        return self._disagreement(exact, coarse, finer(direction))

    def _disagreement(self, exact: Tensor, coarse: Tensor, fine: Tensor) -> BackendChoice:
        spread = _distance(coarse, fine)
        discrepancy = min(_distance(exact, coarse), _distance(exact, fine))
        if discrepancy <= self._tolerance:
            return self._choose(DOUBLE_BACKWARD, self._agreement(discrepancy), discrepancy)
        apart = f"double backward and differences are {discrepancy:.2g} apart"
        resolved = discrepancy > _CONVICTING * spread
        suspects, kinks = ", ".join(self._evidence.suspects), ", ".join(self._evidence.kinks)
        if resolved and (suspects or not kinks):
            hider = suspects or "a detached tensor, or a wrong second derivative,"
            why = f"{apart}, differences among each other {spread:.2g}: {hider} hides something from it"
            return self._choose(CENTRAL_DIFFERENCES, why, discrepancy)
        if suspects or not kinks:
            why = f"{apart}, but differences among each other {spread:.2g}: too noisy to verify it"
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
