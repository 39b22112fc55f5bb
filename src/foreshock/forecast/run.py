"""All that is known of one run, step by step → its forecast and its alarms.

Three types of input arrive at their own times: the free signals at every step, readings of the curvature, and
measurements of its noise. Where every step sees the same data the edge is that of the stability ratio, whose
crossing is forecast; where batches differ it is that of the mean-square ratio, whose noise leaves no
date, and what is forecast is that the run is armed.

Past the edge, what grows may be damped before anyone sees it: v rises at once if its memory is short, or the
deviation is small. Neither edge is announced then.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from typing import Any

from foreshock.dynamics import SignalTracker, StageTracker, StepStatistics, instant_lag
from foreshock.dynamics.threshold import LearningRates
from foreshock.forecast.forecaster import Forecaster
from foreshock.forecast.noise import NOISY_EDGE, NoiseAverage, judge_noise
from foreshock.forecast.record import Alarm, AlarmBook, EdgeReading, Forecast, Level, State, unknown
from foreshock.forecast.spike import cause_hint, outlook

BURST = 1.5
SPIKE = 3.0
# On the development runs of SpikeBench one of the last five readings predicted 1.5 × or more before each of
# 150 spikes, and none did on controls; 1.2 to 2 × and three to ten readings serve as well.
VISIBLE = 1.5
_HEIGHTS = 5


class RunForecaster:
    """Follow one run.

    Args:
        horizon: An instability forecast within so many steps is announced, > 0.
        beta2: Decay of the second moment, in (0, 1), if there is one.

    Attributes:
        noise_expected: Whether measurements of the noise will come where batches differ. Until then the
            state is unknown there; without any, a batch past its own edge is announced.

    Example:
        >>> run = RunForecaster(beta2=0.999)
        >>> for step in range(200):
        ...     run.record_step(loss=1.0, squared_gradient=0.01, second_moment=1.0)
        ...     if step % 5 == 0:
        ...         reading = EdgeReading(0.9 * 1.0005**step, learning_rate=1e-3)
        ...         run.record_curvature(step, reading)
        >>> forecast = run.forecast(199, constant=True)
        >>> forecast.state, round(forecast.steps_to_instability), round(forecast.lag)
        ('edge', 12, 100)
    """

    def __init__(self, *, horizon: float = 100, beta2: float | None = None) -> None:
        self.noise_expected = True
        self._beta2 = beta2
        self._crossing = Forecaster(horizon=horizon, beta2=beta2)
        self._noise = NoiseAverage()
        self._noise_seen = self._noise_is_new = False
        self._missing = ""  # why nothing could be measured since the last reading
        self._signals = SignalTracker()
        self._statistics = StepStatistics(math.nan, math.nan, math.nan)
        self._stages = StageTracker()
        self._book = AlarmBook()
        self._heights: deque[float] = deque(maxlen=_HEIGHTS)
        self._last = unknown(0, "no probe was made yet")
        self._trigger = ""
        self._doubt = ""

    def record_step(
        self, *, loss: float, squared_gradient: float, second_moment: float, decay_exponent: float = math.nan
    ) -> None:
        """Take the free signals of a step.

        Args:
            loss: Loss of the step.
            squared_gradient: ‖g‖².
            second_moment: Σv̂; NaN without a second moment.
            decay_exponent: log(Σv_t/Σv_{t−1})/log β₂; NaN if unknown, and the stage is too then.
        """
        self._noise_is_new = False
        self._statistics = self._signals.update(
            loss=loss, squared_gradient=squared_gradient, second_moment=second_moment
        )
        # The stages need a ratio whose edge is one, whichever of the two edges decides.
        ratio = self._noise.typical_ratio / NOISY_EDGE if self._noise_seen else self._last.stability_ratio
        self._stages.update(
            loss=loss,
            instant_lag=instant_lag(second_moment, squared_gradient),
            decay_exponent=decay_exponent,
            stability_ratio=ratio,
        )

    def record_curvature(
        self, step: int, reading: EdgeReading, *, learning_rates: LearningRates | None = None
    ) -> None:
        """Take a reading of the curvature.

        Args:
            step: Step of the reading; must exceed the last one's.
            reading: The reading.
            learning_rates: Known future of the schedule, η_{t+k}/η_t.

        Raises:
            ValueError: If `step` does not increase.
        """
        forecast = self._crossing.update(
            step,
            reading.stability_ratio,
            learning_rate=reading.learning_rate,
            relative_error=reading.relative_error,
            learning_rates=learning_rates,
        )
        self._last, self._missing = self._with_outlook(forecast, reading), ""
        if math.isfinite(self._last.severity):
            self._heights.append(self._last.severity)
        self._trigger = reading.growing

    def record_noise(self, *, mean: float, variance: float, noise_factor: float) -> None:
        """Take a measurement of the noisy curvature; see `NoiseAverage.update`."""
        self._noise.update(mean=mean, variance=variance, noise_factor=noise_factor)
        self._noise_seen = self._noise_is_new = True
        self._missing = ""

    @property
    def level(self) -> Level | None:
        """The highest level of alarm in the present episode; None outside of episodes."""
        return self._book.level

    @property
    def lag(self) -> float:
        """The lag at the last step; NaN before it is known."""
        return self._statistics.lag

    def mark_unavailable(self, step: int, why: str) -> None:
        """Forecast nothing until the next reading; a noise measured at this very step still counts.

        Args:
            step: Step number.
            why: What is missing.
        """
        self._last = unknown(step, why, stability_ratio=math.nan)
        self._missing = "" if self._noise_is_new else why

    def mark_doubtful(self, text: str) -> None:
        """Add to each forecast from now on why the readings may be wrong.

        Args:
            text: Why, in words; empty where nothing speaks against them any more.
        """
        self._doubt = text

    def forecast(self, step: int, *, constant: bool | None) -> Forecast:
        """Return the forecast at a step, from all that was measured so far.

        Args:
            step: Step number.
            constant: Whether every step sees the same data; None if unknown.
        """
        forecast = self._last.at(step)
        if not constant:
            forecast = self._noisy(step, forecast, constant=constant)
        elif forecast.announces and max(self._heights, default=math.inf) < VISIBLE:
            forecast = _damped(forecast, max(self._heights))
        state: State = "spike" if self._statistics.loss_ratio > SPIKE else forecast.state
        basis = f"{forecast.basis}; doubtful: {self._doubt}" if self._doubt else forecast.basis
        return replace(
            forecast,
            state=state,
            stage=self._stages.stage,
            lag=self._statistics.lag,
            basis=basis,
            doubt=self._doubt,
        )

    def alarm(self, step: int, forecast: Forecast) -> Alarm | None:
        """Return the alarm that is due at a step, if there is one.

        Args:
            step: Step number.
            forecast: The forecast at that step.
        """
        burst = self._statistics.burst
        trigger = f"the gradient is {burst:.1f} × its usual size" if burst > BURST else self._trigger
        return self._book.update(step, forecast, trigger=trigger, burst=burst)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to continue the same forecast, as plain values."""
        return {
            "crossing": self._crossing.state_dict(),
            "noise": self._noise.state_dict(),
            "noise_seen": self._noise_seen,
            "missing": self._missing,
            "stages": self._stages.state_dict(),
            "heights": list(self._heights),
            "signals": self._signals.state_dict(),
            "book": self._book.state_dict(),
            "last": vars(self._last).copy(),
            "trigger": self._trigger,
            "doubt": self._doubt,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._crossing.load_state_dict(state["crossing"])
        self._noise.load_state_dict(state["noise"])
        self._signals.load_state_dict(state["signals"])
        self._book.load_state_dict(state["book"])
        self._noise_seen, self._missing = bool(state["noise_seen"]), str(state.get("missing", ""))
        self._stages.load_state_dict(state["stages"])
        self._heights = deque(state["heights"], maxlen=_HEIGHTS)
        self._last, self._trigger = Forecast(**state["last"]), str(state["trigger"])
        self._doubt = str(state.get("doubt", ""))

    def _with_outlook(self, forecast: Forecast, reading: EdgeReading) -> Forecast:
        if self._beta2 is None or forecast.state in ("unknown", "recovery"):
            return forecast
        expected = outlook(reading, forecast.growth_rate, beta2=self._beta2)
        return replace(
            forecast,
            steps_to_spike=expected.steps_to_spike,
            severity=expected.height,
            cause_hint=cause_hint(forecast.growth_rate, self._beta2),
        )

    def _noisy(self, step: int, forecast: Forecast, *, constant: bool | None) -> Forecast:
        if self._missing:
            return forecast  # says what is missing; the noise of long ago would still say "stable"
        if self._noise_seen:
            return judge_noise(forecast, self._noise, step=step, lag=self._statistics.lag)
        if constant is False and self.noise_expected:
            return replace(forecast, state="unknown", basis="the noise of mini-batches was not measured yet")
        return _qualified(forecast, constant=constant)


def _qualified(forecast: Forecast, *, constant: bool | None) -> Forecast:
    """Return the forecast of a single batch with what batch noise leaves of it."""
    why = (
        "unknown whether every step sees the same data"
        if constant is None
        else "batches differ, so 2/η of one batch is not the edge: noise can destabilise below it"
    )
    # A single batch overestimates λ_max of the data: an alarm may be false, calm proves nothing.
    state = forecast.state if forecast.announces else "unknown"
    return replace(forecast, state=state, basis=f"{forecast.basis}; {why}")


def _damped(forecast: Forecast, height: float) -> Forecast:
    """Return the forecast where no visible rise of the loss is expected past the edge.

    Args:
        forecast: The forecast.
        height: The highest loss expected, as a multiple of its level.
    """
    why = f"v follows g²: a rise of the loss to {height:.2f} × is all that is expected past the edge"
    return replace(forecast, state="rising", basis=f"{forecast.basis}; {why}")
