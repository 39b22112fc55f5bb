r"""Hessian products from finite differences of gradients, which need one derivative of the loss only.

.. math::
    Hv ≈ \frac{g(θ + hv) - g(θ - hv)}{2h} \;\text{(central)}, \qquad
    Hv ≈ \frac{g(θ + hv) - g(θ)}{h} \;\text{(one-sided)}

The step h is chosen from the relative change of the gradient, ρ = h‖Hv‖/‖g‖, and not from ‖θ‖, because both
errors depend on ρ. The gradients are rounded to ε‖g‖, with ε the precision of the arithmetic, so rounding
makes a relative error ε/ρ of the product; truncation makes ρ² (central) or ρ (one-sided). The sum is smallest
for ρ of the order ε^{1/3} or ε^{1/2} (Nocedal and Wright 2006, §8.1); the factors, 2 and 3, are measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foreshock.operators.base import Closing
from foreshock.operators.cost import GRADIENT_PASSES
from foreshock.operators.gradients import Evaluation, GradientFunction, displaced
from foreshock.operators.loss import Loss, normalised_terms
from foreshock.vectors import flatten, inner_product, is_sharded, vector_dtype

_ATTEMPTS = 4  # trials of h in one product; the second nearly always fits
# A product is kept if its ρ is within these multiples of the best one. Rounding at a tenth of it is ten times
# the least error, truncation at three times it nine times: still below 1e-3 in float32.
_LEAST_CHANGE, _LARGEST_CHANGE = 0.1, 3.0
_LARGEST_DISPLACEMENT = 0.1  # of ‖θ‖: along flat directions the wanted ρ would take parameters far away


@dataclass(frozen=True)
class DifferenceScheme:
    """How finite differences are taken.

    Attributes:
        central: Whether to displace to both sides, at 2 F per product. One side takes 1 F and is less
            accurate.
        precision: dtype of the coarsest arithmetic in the model, bfloat16 under such an autocast; None for
            the dtype of the parameters.
        change: ρ; None for the best one in that precision.
        gain: Expected ‖Hv‖/‖v‖, such as `DifferenceOperator.gain` of the last probe. None: the first product
            takes a trial step, 2 F more (one-sided 1 F).
    """

    central: bool = True
    precision: torch.dtype | None = None
    change: float | None = None
    gain: float | None = None

    def target(self, parameters: Sequence[Tensor]) -> float:
        """Return ρ, the relative change of the gradient to aim for.

        Args:
            parameters: The tensors that are displaced, of which the coarsest dtype counts.
        """
        if self.change is not None:
            return self.change
        coarsest = max(torch.finfo(parameter.dtype).eps for parameter in parameters)
        eps = coarsest if self.precision is None else max(coarsest, torch.finfo(self.precision).eps)
        return float(2 * eps ** (1 / 3) if self.central else 3 * math.sqrt(eps))


class DifferenceOperator(Closing):
    """The Hessian of a scalar loss, by finite differences of its gradient.

    Each gradient is computed by ``backward()`` on displaced parameters, with the same random numbers. The
    parameters are restored bit by bit after every product, also if it fails. On models with kinks (ReLU, max
    pooling) differences measure the curvature over a distance, kinks included, and not the Hessian of the
    present smooth piece.

    `gain` is ‖Hv‖/‖v‖ of the last product, `change` its ρ, `evaluations` the number of gradients so far.

    Args:
        loss: Returns the mean loss, a scalar tensor; or one `LossTerm` per micro-batch.
        parameters: The tensors to differentiate with respect to: all that are trained, or some of them with
            the others fixed.
        model: The model that the loss evaluates; its ``.grad`` and buffers are restored after each
            evaluation.
        scheme: How differences are taken.
        start: Loss and gradient at the present parameters, from the random numbers that come next; None
            computes them, at 1 F.
        spread: Returns a vector whose sums are over all processes, of the part that this one has of it; None
            if it has all, or for sums by the process groups of the parameters. All must then call the
            operator at the same place.

    Raises:
        TypeError: If the loss is not a tensor.
        ValueError: If the loss is not a scalar, or does not depend on any of `parameters`, or a weight is
            not positive.

    Example:
        >>> x = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> with DifferenceOperator(lambda: (x**3).sum(), [x]) as hessian:
        ...     [round(entry, 3) for entry in hessian(torch.tensor([1.0, 1.0])).tolist()]
        [6.0, 12.0]
    """

    def __init__(
        self,
        loss: Loss,
        parameters: Sequence[Tensor],
        *,
        model: nn.Module | None = None,
        scheme: DifferenceScheme | None = None,
        start: Evaluation | None = None,
        spread: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        scheme = scheme or DifferenceScheme()
        self.products = 0
        self.evaluations = 0
        self.gain = scheme.gain
        self.change = math.nan
        self._used = 0.0
        self._closed = False
        self._central = scheme.central
        self._parameters, self._spread = tuple(parameters), spread
        self._target = scheme.target(self._parameters)
        self._gradient_at = GradientFunction(normalised_terms(loss), self._parameters, model)
        start = start or self._evaluate()
        self.loss, self.gradient = start.loss, start.gradient
        self._gradient_norm = self._norm(self.gradient)
        self._size = self._norm(self._spread_out(flatten(self._parameters, self._parameters))) or 1.0

    @property
    def backend(self) -> str:
        """How products are computed, as written to the log."""
        name = "central differences" if self._central else "one-sided differences"
        return name if self._spread is None else f"{name} of shards"

    @property
    def passes(self) -> float:
        """What was spent so far, in F: each gradient is one, those of the search for h included."""
        return GRADIENT_PASSES * self.evaluations

    @property
    def resolution(self) -> float:
        """The least ‖Hv‖/‖v‖ that the last step could resolve: a twentieth of the one that fits its ρ."""
        return self._target * self._gradient_norm / (20 * self._used) if self._used else 0.0

    def __call__(self, vector: Tensor) -> Tensor:
        """Return H·vector. Cost: 2 F (central) or 1 F; while h is searched for, up to four times as much.

        Args:
            vector: Shape (n,).

        Raises:
            RuntimeError: If the operator was closed.
        """
        if self._closed:
            raise RuntimeError("the operator was closed; build a new one")
        self.products += 1
        norm = self._norm(vector)
        if norm == 0:
            return torch.zeros_like(vector)
        # `distance` is ‖hv‖. The curvature of the last trial predicts the one that gives the wanted ρ.
        distance = self._first_distance()
        for _ in range(_ATTEMPTS):
            used = distance
            product = self._difference(vector, used / norm)
            gain = self._norm(product) / norm
            distance = self._distance(gain) if math.isfinite(gain) else used * 1e-3
            # ρ is near enough to the best, or a limit in `_distance` keeps it where it is.
            if _LEAST_CHANGE <= used / distance <= _LARGEST_CHANGE:
                break
        self._used = used
        self.gain = gain if math.isfinite(gain) else None
        self.change = used * gain / self._gradient_norm if self._gradient_norm else math.inf
        return product

    def close(self) -> None:
        """Free the copies."""
        self._closed = True

    def _difference(self, vector: Tensor, h: float) -> Tensor:
        with displaced(self._parameters, vector, by=h):
            ahead = self._evaluate().gradient
        if not self._central:
            return ahead.sub_(self.gradient).div_(h)
        with displaced(self._parameters, vector, by=-h):
            behind = self._evaluate().gradient
        return ahead.sub_(behind).div_(2 * h)

    def _norm(self, vector: Tensor) -> float:
        if self._spread is not None or not is_sharded(self._parameters):
            return float(torch.linalg.vector_norm(vector))
        # The norm over the shards of all processes, since every process must find the same h.
        return math.sqrt(float(inner_product(vector, vector, self._parameters)))

    def _evaluate(self) -> Evaluation:
        self.evaluations += 1
        found = self._gradient_at()
        return Evaluation(found.loss, self._spread_out(found.gradient))

    def _spread_out(self, vector: Tensor) -> Tensor:
        return vector if self._spread is None else self._spread(vector)

    def _first_distance(self) -> float:
        if self.gain is not None:
            return self._distance(self.gain)
        # No curvature is known yet: √eps·‖θ‖ moves θ by more than rounding and little enough for a trial.
        return 3 * math.sqrt(torch.finfo(vector_dtype(self._parameters)).eps) * self._size

    def _distance(self, gain: float) -> float:
        """Return the ‖hv‖ that changes the gradient by ρ, within what rounding and ‖θ‖ allow."""
        coarsest = max(torch.finfo(parameter.dtype).eps for parameter in self._parameters)
        # Below 8 ε‖θ‖ the displaced parameters would be rounded to something else than θ + hv.
        least, largest = 8 * coarsest * self._size, _LARGEST_DISPLACEMENT * self._size
        distance = self._target * self._gradient_norm / gain if gain > 0 else largest
        return float(min(max(distance, least), max(largest, least)))
