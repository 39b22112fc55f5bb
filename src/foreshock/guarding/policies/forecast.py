"""Act where a spike of mini-batches is probable, whatever it is that makes it so.

The other rules look for one thing each. A monitor's probability weighs many, none of which would do alone:
the noise of the curvature, the lag of v, the rise of the gradient, the loss and the spikes so far. It says
nothing of a direction. So all of v is raised, a little at each step; and where every step sees the same data
nothing is done, because there a direction shows, along which a raise costs less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from foreshock.forecast import SETTLED
from foreshock.guarding.policies.policy import Decision, GuardSignals, Measure, require_threshold
from foreshock.guarding.policies.raise_limit import RaiseLimit

_LONG, _MOST_IN_LONG = 1000, 4.0  # steps, and the largest product of the factors in these


@dataclass
class ForecastDriven:
    """Raise all of v while a `Monitor` forecasts that a spike of mini-batches is probable.

    √v grows fourfold at most in 1,000 steps, and not in the first hundred updates.

    Attributes:
        probability: That a spike begins within fifty steps, from which to act, in (0, 1).
        largest: Factor on √v in one step, > 1.
        most: Largest product of the factors of 100 steps, > 1: what stays probable is not prevented so.

    Raises:
        ValueError: If an option lies outside its interval.

    Example:
        >>> [decision] = ForecastDriven().decide(GuardSignals(step=200, updates=201, probability=0.4))
        >>> decision.remedy, decision.factor
        ('raise all', 1.1)
    """

    probability: float = 0.15
    largest: float = 1.1
    most: float = 2.0
    name: ClassVar[str] = "forecast"
    needs: ClassVar[frozenset[Measure]] = frozenset({"forecast"})
    scales_decay: ClassVar[bool] = True
    exact_above: ClassVar[float] = math.inf  # the secant is not used
    _soon: RaiseLimit = field(init=False, repr=False, compare=False)
    _long: RaiseLimit = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse impossible options."""
        require_threshold("probability", self.probability, low=0, high=1)
        for name in ("largest", "most"):
            require_threshold(name, getattr(self, name), low=1, high=math.inf)
        self._soon, self._long = RaiseLimit(self.most), RaiseLimit(_MOST_IN_LONG, steps=_LONG)

    def decide(self, signals: GuardSignals) -> Sequence[Decision]:
        """Return a raise of all of v if a spike is probable.

        Args:
            signals: The step about to be taken.
        """
        known = signals.probability
        if signals.updates <= SETTLED or not known >= self.probability:
            return ()
        factor = self._long.grant(signals.step, self._soon.grant(signals.step, self.largest))
        if factor == 1:
            return ()
        reason = f"the forecast says that a spike begins soon with a probability of {known:.2g}"
        return (Decision("raise all", factor, reason, known, self.probability),)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed policy needs, as plain values."""
        return {"soon": self._soon.state_dict(), "long": self._long.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._soon.load_state_dict(state["soon"])
        self._long.load_state_dict(state["long"])
