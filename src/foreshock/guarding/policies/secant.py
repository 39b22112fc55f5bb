r"""The secant guard: act on v when the curvature along the last displacement nears the edge.

With d the last displacement, Δg the change of the gradient over it, and A = diag(cη/2D) as everywhere,

.. math:: s = \frac{d^\top Δg}{d^\top A^{-1} d} = \frac{cη}{2}\,\frac{d^\top H d}{d^\top D d}

is a Rayleigh quotient of the preconditioned Hessian: one is the edge. It costs dot products and no Hessian
product. It crosses when the displacement itself lies in the unstable direction, which is when a spike is on
its way; v is then raised along the displacement until s is at the threshold. Acting on η instead would cost
progress in all directions, and let v decay further.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from foreshock.guarding.policies.policy import (
    WARM_UP,
    Decision,
    GuardSignals,
    Measure,
    require_threshold,
    secant_reason,
)

# Near the edge a few percent are needed, after a sudden rise of the learning rate a factor of up to two: what
# seems to need more is no curvature, but weights or gradients that were changed between two steps.
_LARGEST_RAISE = 10.0

# Far above the edge ‖g‖² multiplies at every step, see `foreshock.guarding.tracking.Growth`. The secant has
# to show some curvature too: gradients also grow without any, at the start of training or with new data.
_VIOLENT = 2.2
_SOME_CURVATURE = 0.3


@dataclass
class Secant:
    """Raise v along the last displacement when the curvature along it passes the threshold.

    √v grows tenfold at most in one step.

    Attributes:
        threshold: In multiples of the edge, in (0, 1); .8 to .95 is sensible. Nearer to one comes too late,
            below .7 damps what would be harmless.

    Raises:
        ValueError: If the threshold lies outside its interval.

    Example:
        >>> [decision] = Secant().decide(GuardSignals(step=99, updates=100, secant=0.99))
        >>> decision.remedy, round(decision.factor, 6)
        ('raise along', 1.1)
    """

    threshold: float = 0.9
    name: ClassVar[str] = "secant"
    needs: ClassVar[frozenset[Measure]] = frozenset({"secant"})
    scales_decay: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse impossible options."""
        require_threshold("threshold", self.threshold, low=0, high=1)

    @property
    def exact_above(self) -> float:
        """The threshold."""
        return self.threshold

    def decide(self, signals: GuardSignals) -> Sequence[Decision]:
        """Return the raise that brings the secant curvature back to the threshold, if it is above.

        Args:
            signals: The step about to be taken.
        """
        if signals.updates <= WARM_UP:
            return ()
        if signals.secant > self.threshold:
            factor = min(signals.secant / self.threshold, _LARGEST_RAISE)
            return (Decision("raise along", factor, secant_reason(signals), signals.secant, self.threshold),)
        if signals.secant > _SOME_CURVATURE and signals.growth > _VIOLENT:
            factor = min(signals.grown_ratio / self.threshold, _LARGEST_RAISE)
            reason = f"‖g‖² grew {signals.growth:.3g}-fold three times; {secant_reason(signals)}"
            return (Decision("raise along", factor, reason, signals.grown_ratio, self.threshold),)
        return ()

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the policy has no memory."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing."""
