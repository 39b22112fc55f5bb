r"""Growth of the gradient as it is above the edge, and what is done about it.

The gradient shows an unstable direction before the displacement does, because the curvature multiplies its
part: ‖g‖² grows from step to step while g turns round at each (`foreshock.guarding.alternation`). v is then
raised along D⁻¹g, by the ratio that follows from the growth. Where the loss has a wall, ‖g‖² grows a
thousandfold in a step, and what is raised along one gradient soon grows along another: all of v is raised
there as well, and where growth goes on in spite of a raise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from foreshock.guarding.policies.policy import Decision, GuardSignals
from foreshock.guarding.policies.raise_limit import RaiseLimit
from foreshock.guarding.record import Remedy

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
# the few steps that there are before a wall of the loss, and is not needed where the angles are so clear; nor
# do batches make such angles three times in a row.
_CLEARLY_TURNED = -0.6

# Where several directions are unstable, each with a factor of its own, the gradient turns against the last
# one, but does not quite come back to the one before.
_OPPOSITE, _PARTLY_BACK = -0.8, 0.5

# The same turn after a single factor is an instability if the secant shows curvature as well: just below the
# edge the first step after a jump of the gradient, as of new targets, goes 2(1 + β₁)r − 1 times too far.
_OVERSHOT, _OVERSHOT_LAG = 4.0, 3.0

# A gradient that hardly changes from step to step, and then doubles and turns against the last one: that of
# new data would point anywhere. At a wall there is no time for a second look.
_QUIET, _AGAINST = 0.1, -0.3

# The momentum of several steps is on its way by then, and the curvature rises with the amplitude.
_GROWN_TO = 0.7
_LARGEST_RAISE = 30.0
_MOST = 100.0  # product of the raises along gradients in 100 steps; two or three are usual, of 1.5 each

# Of all of v, √v: in 100 steps, at a ratio that only a wall makes or soon after another raise.
_OF_ALL, _MOST_OF_ALL = 2.0, 8.0
_WALL, _SOON = 2.0, 10
_STILL_GROWING = 1.3
# A gradient that stays this far above what it was has met a place where more than one direction is unstable;
# and v does not see it where it lags by as much.
_STAYS = 100.0


def is_growing(signals: GuardSignals) -> bool:
    """Return whether the gradient grows as it does above the edge.

    Args:
        signals: The step about to be taken.
    """
    # A comparison with NaN is false: what is not known shows nothing.
    turned, back = signals.with_last, signals.with_second_last
    alternates = turned < _TURNED and back > _BACK
    clearly, opposite = alternates and turned < _CLEARLY_TURNED, turned < _OPPOSITE
    turns = clearly or (alternates and signals.noise < _NOISE)
    curved = signals.secant > _SOME_CURVATURE
    climb = signals.rise if clearly else signals.climb
    unseen = climb > _CLIMB and signals.lag > _LAG
    surges = signals.surge and climb > _SURGE_CLIMB and signals.lag > _SURGE_LAG
    abrupt = signals.surge and signals.noise < _QUIET and turned < _AGAINST
    overshoots = signals.surge and opposite and curved
    lasting = (turns and (unseen or curved)) or (opposite and back > _PARTLY_BACK and unseen)
    return (
        (abrupt and signals.rise > _CLIMB and signals.lag > _LAG)
        or (surges and (turns or curved))
        or (overshoots and signals.rise > _OVERSHOT and signals.lag > _OVERSHOT_LAG)
        or (signals.growth > _GROWING and lasting)
    )


class AgainstGrowth:
    """Raise v where the gradient grows: along it, and all of v where that does not do.

    √v grows thirtyfold at most in one step along the gradient, and a hundredfold in 100 steps; all of it
    twofold, and eightfold in 100 steps.

    Example:
        >>> against = AgainstGrowth()
        >>> seen = GuardSignals(step=99, updates=100, grown_ratio=1.05)
        >>> [(one.remedy, round(one.factor, 6)) for one in against.decide(seen)]
        [('raise along', 1.5)]
        >>> [one.remedy for one in against.decide(seen)]
        ['raise along', 'raise all']
    """

    def __init__(self) -> None:
        self._along, self._all = RaiseLimit(_MOST), RaiseLimit(_MOST_OF_ALL)
        self._last, self._ratio = -math.inf, math.nan  # of the last step on which the gradient grew
        self._lasting = -math.inf  # the last one on which it had grown three times in a row

    def decide(self, signals: GuardSignals) -> Sequence[Decision]:
        """Return the raises of a step on which the gradient grows, as far as the limits leave some.

        Args:
            signals: The step about to be taken; `is_growing` holds of it.
        """
        step, ratio = signals.step, signals.grown_ratio
        # From both sides: after a return to an earlier checkpoint, the last one was of another run. A ratio
        # that falls to the edge is what the momentum still makes of a growth that a raise has ended.
        goes_on = ratio > _STILL_GROWING or not ratio < self._ratio
        again = 0 <= step - self._last < _SOON and goes_on
        self._last, self._ratio = step, ratio
        if signals.growth > _GROWING:
            self._lasting = step
        wanted = min(max(ratio / _GROWN_TO, 1.0), _LARGEST_RAISE)
        raises: list[tuple[Remedy, float]] = [("raise along", self._along.grant(step, wanted))]
        if again or ratio > _WALL:
            raises.append(("raise all", self._all.grant(step, _OF_ALL)))
        return [
            Decision(remedy, factor, _reason(signals), ratio, _GROWN_TO, "gradient")
            for remedy, factor in raises
            if factor > 1
        ]

    def settle(self, signals: GuardSignals) -> Sequence[Decision]:
        """Return a raise of all of v where the gradient grew and stays large, as far as the limit leaves one.

        After the raise along one direction another one that is unstable may hold ‖g‖² at a hundred times what
        it was for some steps, and meet a wall of the loss then. What data make large, as new targets, grows
        in one step; it must have grown three times in a row.

        Args:
            signals: The step about to be taken; `is_growing` does not hold of it.
        """
        step = signals.step
        if not (0 < step - self._lasting < _SOON and signals.rise > _STAYS and signals.lag > _STAYS):
            return ()
        self._lasting = -math.inf  # once a growth: v that is raised too far costs progress until it forgets
        factor = self._all.grant(step, _OF_ALL)
        if factor == 1:
            return ()
        return (Decision("raise all", factor, _reason(signals), signals.rise, _STAYS),)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed policy needs, as plain values."""
        last = (self._last, self._ratio) if math.isfinite(self._last) else None
        lasting = self._lasting if math.isfinite(self._lasting) else None
        return {
            "factors": self._along.state_dict(),
            "all": self._all.state_dict(),
            "last": last,
            "lasting": lasting,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`, also of versions that kept less."""
        self._along.load_state_dict(state.get("factors", ()))
        self._all.load_state_dict(state.get("all", ()))
        last, ratio = state.get("last") or (-math.inf, math.nan)
        self._last, self._ratio = last, float(ratio)
        lasting = state.get("lasting")
        self._lasting = -math.inf if lasting is None else int(lasting)


def _reason(signals: GuardSignals) -> str:
    return f"‖g‖² is {signals.rise:.3g} × what it was within eight steps, and v is {signals.lag:.3g} × g²"
