r"""The secant guard: act on v when the curvature along the last displacement nears the edge.

With d the last displacement, Δg the change of the gradient over it, and A = diag(cη/2D) as everywhere,

.. math:: s = \frac{d^\top Δg}{d^\top A^{-1} d} = \frac{cη}{2}\,\frac{d^\top H d}{d^\top D d}

is a Rayleigh quotient of the preconditioned Hessian: one is the edge. It costs dot products and no Hessian
product. It crosses when the displacement itself lies in the unstable direction, which is when a spike is on
its way; v is then raised along the displacement until s is at the threshold. Acting on η instead would cost
progress in all directions, and let v decay further.

The gradient shows an unstable direction before the displacement does, because the curvature multiplies its
part: where ‖g‖² grows from step to step while g turns round at each (`foreshock.guarding.alternation`), v is
raised along D⁻¹g, by the ratio that follows from the growth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from foreshock.guarding.policies.policy import (
    WARM_UP,
    Decision,
    Direction,
    GuardSignals,
    Measure,
    require_threshold,
    secant_reason,
)
from foreshock.guarding.record import Remedy
from foreshock.guarding.policies.raise_limit import RaiseLimit

# Near the edge a few percent are needed, after a sudden rise of the learning rate a factor of up to two: what
# seems to need more is no curvature, but weights or gradients that were changed between two steps.
_LARGEST_RAISE = 10.0

# Above the edge ‖g‖² multiplies at every step, see `foreshock.guarding.tracking.Growth`, and by more and more
# where the loss has a wall a step or two away. Gradients also grow without any curvature, at the start of
# training or with new data: the secant has to show some, or the gradient to turn round at each step while v
# lags so far that it does not see the growth.
_GROWING = 1.25
_SOME_CURVATURE = 0.3
_CLIMB, _LAG = 6.0, 6.0
_SURGE_CLIMB, _SURGE_LAG = 20.0, 10.0  # of a single factor that is large

# Cosines to the last gradient and to the one before. Those of batches take such values by chance: where ‖g‖²
# changes by more than this from step to step, in its logarithm, they are not asked.
_TURNED, _BACK = -0.4, 0.8
_NOISE = 0.55

# What comes back from a dip rises as well, and is asked about only above twice what was usual. Waiting costs
# the few steps that there are before a wall of the loss, and is not needed where the angles are so clear.
_CLEARLY_TURNED = -0.6

# A gradient that hardly changes from step to step, and then doubles and turns against the last one: of new data
# it would point anywhere. At a wall of the loss there is no time for a second look.
_QUIET, _AGAINST = 0.1, -0.3

_MOST = 100.0  # product of the raises by growth in 100 steps; two or three are usual, of 1.5 each
_LARGEST_GROWN = 30.0  # at a wall ‖g‖² grows a thousandfold in a step
import os
_AGAIN=int(os.environ.get("AGAIN","10")); _VIOLENT=float(os.environ.get("VIOL","2")); _ALL=float(os.environ.get("ALLF","2")); _MOST_OF_ALL=float(os.environ.get("MALL","8"))

# The momentum of several steps is on its way by then, and the curvature rises with the amplitude.
_GROWN_TO = 0.7


@dataclass
class Secant:
    """Raise v when the curvature along the last displacement passes the threshold, or the gradient grows.

    √v grows tenfold at most in one step, and by the growth of the gradient tenfold at most in 100 steps.

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
    _limit: RaiseLimit = field(
        default_factory=lambda: RaiseLimit(_MOST), init=False, repr=False, compare=False
    )
    _all: RaiseLimit = field(
        default_factory=lambda: RaiseLimit(_MOST_OF_ALL), init=False, repr=False, compare=False
    )
    _grew: float = field(default=-math.inf, init=False, repr=False, compare=False)

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
        growing = _is_growing(signals)
        if growing and not signals.grown_ratio < signals.secant:
            decisions = self._against_growth(signals)
            if decisions:
                return decisions
        if not signals.secant > self.threshold:
            return ()
        factor, reason = min(signals.secant / self.threshold, _LARGEST_RAISE), secant_reason(signals)
        along: Direction = "gradient" if growing else "displacement"
        return (Decision("raise along", factor, reason, signals.secant, self.threshold, along),)

    def _against_growth(self, signals: GuardSignals) -> Sequence[Decision]:
        """Return raises for a gradient that grows, as far as the limits leave some."""
        step, ratio = signals.step, signals.grown_ratio
        again = 0 <= step - self._grew < _AGAIN
        self._grew = step
        asked: list[tuple[Remedy, float]] = []
        along = min(max(ratio / _GROWN_TO, 1.0), _LARGEST_GROWN)
        asked.append(("raise along", self._limit.grant(step, along)))
        if again or ratio > _VIOLENT:
            asked.append(("raise all", self._all.grant(step, _ALL)))
        return [
            Decision(remedy, factor, _reason(signals), ratio, _GROWN_TO, "gradient")
            for remedy, factor in asked
            if factor > 1
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed policy needs, as plain values."""
        return {"factors": self._limit.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._limit.load_state_dict(state.get("factors", ()))  # earlier versions had none


def _reason(signals: GuardSignals) -> str:
    where = f"‖g‖² is {signals.rise:.3g} × what it was within eight steps"
    return f"{where}, and v is {signals.lag:.3g} × g²"


def _is_growing(signals: GuardSignals) -> bool:
    """Return whether the gradient grows as it does above the edge."""
    # A comparison with NaN is false: what is not known shows nothing.
    alternates = signals.with_last < _TURNED and signals.with_second_last > _BACK
    turns = alternates and signals.noise < _NOISE
    curved = signals.secant > _SOME_CURVATURE
    climb = signals.rise if alternates and signals.with_last < _CLEARLY_TURNED else signals.climb
    surges = signals.surge and climb > _SURGE_CLIMB and signals.lag > _SURGE_LAG
    unseen = climb > _CLIMB and signals.lag > _LAG
    abrupt = signals.surge and signals.noise < _QUIET and signals.with_last < _AGAINST
    if abrupt and signals.rise > _CLIMB and signals.lag > _LAG:
        return True
    return (surges and (turns or curved)) or (signals.growth > _GROWING and turns and (unseen or curved))
