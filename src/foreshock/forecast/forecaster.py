"""Readings of one run, one by one → `Forecast`: its times and its state."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshock.dynamics import Drift
from foreshock.dynamics.threshold import LearningRates
from foreshock.forecast.crossing import AHEAD, Crossing, CrossingModel
from foreshock.forecast.record import Forecast, State, unknown

_ENOUGH_AFTER_FALL = 2  # readings: the lasting slope is known from before


class Forecaster:
    """Follow ln(ratio) through its readings and forecast when it will reach zero.

    Readings may come at any spacing. A reading that falls below the prediction, by more than `drop` and by
    more than four standard deviations, restarts the level: a spike has lifted v. What is known of the
    slope between spikes stays.

    Args:
        horizon: An instability forecast within this many steps makes the state ``edge``, > 0.
        fewest: The first forecast, and the end of a recovery, need this many readings, ≥ 3.
        drop: Fall of ln(ratio) that restarts the level, > 0.
        beta2: Decay of the second moment, in (0, 1), if known. The slope under pure decay of v, −½ ln β₂ a
            step, is then the first guess, to be corrected by the readings.

    Raises:
        ValueError: If an argument lies outside its interval.

    Example:
        >>> forecaster = Forecaster()
        >>> for step in range(0, 100, 5):
        ...     ratio = 0.9 * 1.0005**step
        ...     forecast = forecaster.update(step, ratio, learning_rate=1e-3)
        >>> forecast.state, round(forecast.steps_to_instability)
        ('rising', 116)
    """

    def __init__(
        self, *, horizon: float = 100, fewest: int = 5, drop: float = 0.02, beta2: float | None = None
    ) -> None:
        if not horizon > 0:
            raise ValueError(f"horizon is {horizon!r}; it must be a positive number of steps")
        if not fewest >= 3:
            raise ValueError(f"fewest is {fewest!r}; a line and its error need at least 3 readings")
        if not drop > 0:
            raise ValueError(f"drop is {drop!r}; it must be positive")
        if beta2 is not None and not 0 < beta2 < 1:
            raise ValueError(
                f"beta2 is {beta2!r}; it must lie in (0, 1), or be None if there is no such decay"
            )
        self.horizon = horizon
        self.fewest = fewest
        self._model = CrossingModel(drop=drop, beta2=beta2)

    def update(
        self,
        step: int,
        ratio: float,
        *,
        learning_rate: float,
        relative_error: float = 0.0,
        learning_rates: LearningRates | None = None,
    ) -> Forecast:
        """Take one reading and return the forecast.

        Args:
            step: Step of the reading; must exceed the last one's.
            ratio: Stability ratio, λ_max(Ĥ)·η/2.
            learning_rate: η of that step. A change of η scales the ratio at once, so the model follows
                ratio/η.
            relative_error: Bound on the relative error of `ratio`, 0 if exact.
            learning_rates: Known future of the schedule, η_{t+k}/η_t for k = 1, 2, …: a sequence, whose last
                entry holds from its end on, or a function of k. ``None``: η stays.

        Raises:
            ValueError: If `step` does not increase, or a future learning rate is negative or NaN.
        """
        last = self._model.step
        if last is not None and step <= last:
            raise ValueError(f"step {step} follows step {last}; steps must increase")
        if not (math.isfinite(ratio) and learning_rate > 0):
            return unknown(step, "no finite stability ratio was measured")
        if ratio <= 0:
            return unknown(step, "the curvature is nowhere positive", stability_ratio=ratio)
        error = relative_error if math.isfinite(relative_error) else 1.0
        self._model.update(step, math.log(ratio / learning_rate), error=error)
        fell, readings = self._model.falls > 0, self._model.readings
        basis = f"{readings} readings since the last fall" if fell else f"{readings} readings"
        if readings < (_ENOUGH_AFTER_FALL if fell else self.fewest):
            return self._too_few(step, ratio, f"{readings} of {self.fewest} readings for a line")
        crossing = self._model.forecast(_logarithms(learning_rate, learning_rates))
        if ratio >= 1:
            return Forecast(step, ratio, 0.0, 0.0, 0.0, crossing.growth, "armed", basis)
        ahead = crossing.steps, crossing.low, crossing.high
        return Forecast(step, ratio, *ahead, crossing.growth, self._state(crossing), basis)

    def state_dict(self) -> dict[str, Any]:
        """Return what is known, as plain values."""
        return self._model.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()` of another forecaster."""
        self._model.load_state_dict(state)

    def _state(self, crossing: Crossing) -> State:
        if self._model.falls and self._model.readings < self.fewest:
            return "recovery"
        if crossing.steps <= self.horizon:
            return "edge"
        return "rising" if crossing.growth > crossing.growth_deviation else "stable"

    def _too_few(self, step: int, ratio: float, basis: str) -> Forecast:
        nan = math.nan
        if ratio >= 1:
            return Forecast(step, ratio, 0.0, 0.0, 0.0, nan, "armed", basis)
        state: State = "recovery" if self._model.falls else "unknown"
        return Forecast(step, ratio, nan, nan, nan, nan, state, basis)


def _logarithms(present: float, future: LearningRates | None) -> NDArray[np.float64] | float:
    """Return ln η at each of the steps `AHEAD`."""
    if future is None:
        return math.log(present)
    drift = Drift(0.5, learning_rates=future)  # only its schedule is used, not the decay of v
    return math.log(present) + np.array([drift.decoupled(int(k)) for k in AHEAD])
