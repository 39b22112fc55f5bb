r"""Act where a spike of mini-batches is probable, whatever it is that makes it so.

The other rules look for one thing each. A probability weighs many, none of which would do alone. That of a
monitor rests on the noise of the curvature, the loss, the spikes so far and the gradients. It says nothing of
a direction. So all of v is raised, a little at each step; and where every step sees the same data nothing is
done, because there a direction shows, along which a raise costs less.

Gradients alone give some of the signs: how far v lags just now and lately, how ‖g‖² rises over ten, twenty
and forty steps, how it is above its usual size. Their points were fitted to the spikes of trainings without a
guard, see `foreshock.forecast.probability`. They find spikes, but can't tell a run near its edge from one
whose v lags though nothing grows, and shorten the steps of both: where Adam never spikes that costs progress.
So this is a choice, and no part of `auto`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from foreshock.dynamics import Burst
from foreshock.forecast import logarithm, probability_of_gradients
from foreshock.guarding.policies.policy import Decision, GuardSignals, Measure, require_threshold
from foreshock.guarding.policies.raise_limit import RaiseLimit
from foreshock.guarding.tracking import batches_differ

_SETTLED = 100  # updates before v means anything
_MEMORY, _STEPS = 5, 50
_LAGS = 2.0  # below, v follows g²
_EPISODE = 400  # steps: for so long gradients of the full batch don't swing as those of batches differ
_LONG, _MOST_IN_LONG = 1000, 4.0  # steps, and the largest product of the factors in these


@dataclass
class ForecastDriven:
    """Raise all of v while a spike of mini-batches is probable.

    The probability is that of a `Monitor`, where one tells it. Else it follows from the gradients alone,
    where v lags and batches differ, unless `gradients` is False. √v grows fourfold at most in 1,000 steps,
    and not in the first hundred updates.

    Attributes:
        probability: That a spike begins within fifty steps, from which to act, in (0, 1).
        largest: Factor on √v in one step, > 1.
        most: Largest product of the factors of 100 steps, > 1: what stays probable is not prevented so.
        gradients: Whether to go by the gradients alone where no monitor tells a probability. It prevents more
            spikes at learning rates near the edge, and slows runs that would not spike.

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
    gradients: bool = True
    name: ClassVar[str] = "forecast"
    needs: ClassVar[frozenset[Measure]] = frozenset({"norm"})
    scales_decay: ClassVar[bool] = True
    _squares: deque[float] = field(
        default_factory=lambda: deque(maxlen=_STEPS + 1), init=False, repr=False, compare=False
    )
    _swings: deque[bool] = field(
        default_factory=lambda: deque(maxlen=_EPISODE), init=False, repr=False, compare=False
    )
    _mean: float = field(default=math.nan, init=False, repr=False, compare=False)
    _sizes: deque[float] = field(
        default_factory=lambda: deque(maxlen=_STEPS), init=False, repr=False, compare=False
    )
    _bursts: Burst = field(default_factory=Burst, init=False, repr=False, compare=False)
    _burst: float = field(default=math.nan, init=False, repr=False, compare=False)
    _soon: RaiseLimit = field(init=False, repr=False, compare=False)
    _long: RaiseLimit = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse impossible options."""
        require_threshold("probability", self.probability, low=0, high=1)
        for name in ("largest", "most"):
            require_threshold(name, getattr(self, name), low=1, high=math.inf)
        self._soon, self._long = RaiseLimit(self.most), RaiseLimit(_MOST_IN_LONG, steps=_LONG)

    @property
    def exact_above(self) -> float:
        """Infinity: the secant is not used."""
        return math.inf

    def follow(self, signals: GuardSignals) -> None:
        """Take ‖g‖² of a step into account; `decide` does it, too.

        Args:
            signals: The step about to be taken.
        """
        square = signals.squared_gradient
        if math.isfinite(square):
            first = math.isnan(self._mean)
            self._mean = square if first else self._mean + (square - self._mean) / _MEMORY
            if self._squares:
                self._swings.append(batches_differ((self._squares[-1], square)))
            self._squares.append(square)
            self._sizes.append(logarithm(self._mean))
            self._burst = self._bursts.update(square)

    def decide(self, signals: GuardSignals) -> Sequence[Decision]:
        """Return a raise of all of v if a spike is probable.

        Args:
            signals: The step about to be taken.
        """
        self.follow(signals)
        if signals.updates <= _SETTLED:
            return ()
        told = signals.probability
        own = math.isnan(told)
        known = self._estimate(signals) if own else told
        if not known >= self.probability or (own and not self._batches_differ()):
            return ()
        factor = self._long.grant(signals.step, self._soon.grant(signals.step, self.largest))
        if factor == 1:
            return ()
        source = "the gradients say" if own else "the forecast says"
        reason = f"{source} that a spike begins soon with a probability of {known:.2g}"
        return (Decision("raise all", factor, reason, known, self.probability),)

    def _estimate(self, signals: GuardSignals) -> float:
        """Return the probability by the gradients; NaN where v follows g², or they don't tell."""
        if not (self.gradients and len(self._squares) > _STEPS and signals.lag > _LAGS):
            return math.nan
        return probability_of_gradients(
            self._sizes, burst=self._burst, second_moment=signals.second_moment, lag=signals.lag
        )

    def _batches_differ(self) -> bool:
        """Return whether ‖g‖² swings as that of batches that differ, now and all the time."""
        return batches_differ(self._squares) and 2 * sum(self._swings) > len(self._swings)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed policy needs, as plain values."""
        return {
            "squares": list(self._squares),
            "swings": list(self._swings),
            "mean": self._mean,
            "sizes": list(self._sizes),
            "burst": self._burst,
            "bursts": self._bursts.state_dict(),
            "soon": self._soon.state_dict(),
            "long": self._long.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`; what an earlier version did not keep is begun anew."""
        self._squares.clear()
        self._squares.extend(state.get("squares", ()))
        self._swings.clear()
        self._swings.extend(map(bool, state.get("swings", ())))
        self._mean = float(state.get("mean", math.nan))
        self._sizes.clear()
        self._sizes.extend(state.get("sizes", ()))
        self._burst = float(state.get("burst", math.nan))
        if "bursts" in state:
            self._bursts.load_state_dict(state["bursts"])
        self._soon.load_state_dict(state.get("soon", ()))
        self._long.load_state_dict(state.get("long", ()))
