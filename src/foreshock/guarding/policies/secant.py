r"""The secant guard: act on v when the curvature along the last displacement nears the edge.

With d the last displacement, Δg the change of the gradient over it, and A = diag(cη/2D) as everywhere,

.. math:: s = \frac{d^\top Δg}{d^\top A^{-1} d} = \frac{cη}{2}\,\frac{d^\top H d}{d^\top D d}

is a Rayleigh quotient of the preconditioned Hessian: one is the edge. It costs dot products and no Hessian
product. It crosses when the displacement itself lies in the unstable direction, which is when a spike is on
its way; v is then raised along the displacement until s is at the threshold. Acting on η instead would cost
progress in all directions, and let v decay further.

Where the gradient grows as it does above the edge, v is raised before the displacement shows the direction
(`foreshock.guarding.policies.growing`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from foreshock.guarding.policies.growing import AgainstGrowth, is_growing
from foreshock.guarding.policies.policy import (
    WARM_UP,
    Decision,
    Direction,
    GuardSignals,
    Measure,
    require_threshold,
    secant_reason,
)

# Near the edge a few percent are needed, after a sudden rise of the learning rate a factor of up to two: what
# seems to need more is no curvature, but weights or gradients that were changed between two steps.
_LARGEST_RAISE = 10.0


@dataclass
class Secant:
    """Raise v when the curvature along the last displacement passes the threshold, or the gradient grows.

    √v grows tenfold at most in one step; for a gradient that grows see `AgainstGrowth`.

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
    scales_decay: ClassVar[bool] = True
    _growth: AgainstGrowth = field(default_factory=AgainstGrowth, init=False, repr=False, compare=False)

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
        growing = is_growing(signals)
        if growing and not signals.grown_ratio < signals.secant:
            decisions = self._growth.decide(signals)
            if decisions:
                return decisions
        settling = () if growing else self._growth.settle(signals)
        if settling:
            return settling
        if not signals.secant > self.threshold:
            return ()
        factor, reason = min(signals.secant / self.threshold, _LARGEST_RAISE), secant_reason(signals)
        along: Direction = "gradient" if growing else "displacement"
        return (Decision("raise along", factor, reason, signals.secant, self.threshold, along),)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed policy needs, as plain values."""
        return self._growth.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._growth.load_state_dict(state)
