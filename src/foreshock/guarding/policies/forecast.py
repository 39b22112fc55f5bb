"""Act where a spike of mini-batches is probable, whatever it is that makes it so.

The other rules look for one thing each. A monitor's probability weighs many, none of which would do alone:
the noise of the curvature, the lag of v, the rise of the gradient, the loss and the spikes so far. It says
nothing of a direction. So all of v is raised, a little at each step; and where every step sees the same data
nothing is done, because there a direction shows, along which a raise costs less.

What the data do is probable as well, as where targets are renewed at each hundredth step or outliers come now
and then, and a larger v prevents none of it: it only slows what is learned in between. The loss came to forty
times Adam's where that was not left alone. So the noise must have been measured, and be past half of the
edge; and for some steps after a jump of the gradient, which new data made, nothing is done.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from foreshock.forecast import SETTLED
from foreshock.guarding.policies.policy import Decision, GuardSignals, Measure, require_threshold
from foreshock.guarding.policies.raise_limit import RaiseLimit
from foreshock.guarding.tracking import lately

_LONG, _MOST_IN_LONG = 1000, 4.0  # steps, and the largest product of the factors in these
_JUMP, _AFTER = 8.0, 50  # ‖g‖² over that of eight steps before, as new data make it; steps left alone then


@dataclass
class ForecastDriven:
    """Raise all of v while a `Monitor` forecasts that a spike of mini-batches is probable.

    √v grows fourfold at most in 1,000 steps, and not in the first hundred updates.

    Attributes:
        probability: That a spike begins within fifty steps, from which to act, in (0, 1).
        mean_square: Mean-square ratio from which to act, > 0; the edge is one.
        largest: Factor on √v in one step, > 1.
        most: Largest product of the factors of 100 steps, > 1: what stays probable is not prevented so.

    Raises:
        ValueError: If an option lies outside its interval.

    Example:
        >>> signals = GuardSignals(step=200, updates=201, probability=0.4, mean_square=0.8)
        >>> [decision] = ForecastDriven().decide(signals)
        >>> decision.remedy, decision.factor
        ('raise all', 1.1)
    """

    probability: float = 0.15
    mean_square: float = 0.5
    largest: float = 1.1
    most: float = 2.0
    name: ClassVar[str] = "forecast"
    needs: ClassVar[frozenset[Measure]] = frozenset({"forecast"})
    scales_decay: ClassVar[bool] = True
    exact_above: ClassVar[float] = math.inf  # the secant is not used
    _soon: RaiseLimit = field(init=False, repr=False, compare=False)
    _long: RaiseLimit = field(init=False, repr=False, compare=False)
    _jumped: int | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse impossible options."""
        require_threshold("probability", self.probability, low=0, high=1)
        require_threshold("mean_square", self.mean_square, low=0, high=math.inf)
        for name in ("largest", "most"):
            require_threshold(name, getattr(self, name), low=1, high=math.inf)
        self._soon, self._long = RaiseLimit(self.most), RaiseLimit(_MOST_IN_LONG, steps=_LONG)

    def decide(self, signals: GuardSignals) -> Sequence[Decision]:
        """Return a raise of all of v if a spike is probable.

        Args:
            signals: The step about to be taken.
        """
        known, step = signals.probability, signals.step
        if signals.leap > _JUMP:
            self._jumped = step
        if signals.updates <= SETTLED or not known >= self.probability:
            return ()
        if not signals.mean_square >= self.mean_square or lately(self._jumped, step, _AFTER):
            return ()
        factor = self._long.grant(step, self._soon.grant(step, self.largest))
        if factor == 1:
            return ()
        reason = f"the forecast says that a spike begins soon with a probability of {known:.2g}"
        return (Decision("raise all", factor, reason, known, self.probability),)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed policy needs, as plain values."""
        return {"soon": self._soon.state_dict(), "long": self._long.state_dict(), "jumped": self._jumped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._soon.load_state_dict(state["soon"])
        self._long.load_state_dict(state["long"])
        jumped = state.get("jumped")
        self._jumped = None if jumped is None else int(jumped)
