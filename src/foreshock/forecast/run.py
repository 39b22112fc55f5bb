"""All that is known of one run, step by step → its forecast and its alarms.

Three kinds of input arrive at their own times: the free signals at every step, readings of the curvature, and
measurements of its noise. Where every step sees the same data the edge is that of the stability ratio, whose
crossing is forecast; where batches differ it is that of the mean-square ratio, whose noise leaves no
date, and what is forecast is that the run is armed.

Past the edge, what grows may be damped before anyone sees it: v rises at once if its memory is short, or the
deviation is small. Neither edge is announced then.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from typing import Any

from foreshock.dynamics.threshold import LearningRates
from foreshock.forecast.alarms import Alarm, AlarmBook, Level
from foreshock.forecast.cycle import Cycle
from foreshock.forecast.forecaster import Forecaster
from foreshock.forecast.judgement import NOISY_EDGE, cause_hint, damped, judge_noise, qualified
from foreshock.forecast.noise import NoiseAverage
from foreshock.forecast.record import Forecast, State, unknown
from foreshock.forecast.signals import SignalTracker, StepSignals
from foreshock.forecast.spike import SpikeSignals, outlook

BURST = 1.5
SPIKE = 3.0
# On the development runs of SpikeBench one of the last five readings foretold 1.5 × or more before each of
# 150 spikes, and none did on controls; 1.2 to 2 × and three to ten readings serve as well.
VISIBLE = 1.5
_HEIGHTS = 5


@dataclass(frozen=True)
class CurvatureSignals:
    """One reading of the curvature, as plain numbers.

    Attributes:
        ratio: Stability ratio, λ_max(Ĥ)·η/2.
        learning_rate: η of the step.
        relative_error: Bound on the relative error of `ratio`.
        gradient_ratio: Gradient-directional curvature ·η/2.
        predicted_change: Change of the loss in this step, by the second-order model.
        alignment: |cos| of the preconditioned gradient and the top eigenvector.
        excess_loss: What of the loss lies along the top eigenvector.
        lag_ratio: Σg²/Σv̂.
        loss: The loss.
        beta1: Decay of the first moment.
        direct_share: Share of the gradient itself in the momentum factor.
    """

    ratio: float
    learning_rate: float
    relative_error: float = 0.0
    gradient_ratio: float = math.nan
    predicted_change: float = math.nan
    alignment: float = math.nan
    excess_loss: float = math.nan
    lag_ratio: float = math.nan
    loss: float = math.nan
    beta1: float = 0.0
    direct_share: float = 0.0


class RunForecaster:
    """Follow one run.

    Args:
        horizon: An instability forecast within so many steps is announced, > 0.
        beta2: Decay of the second moment, in (0, 1), if there is one.

    Attributes:
        noise_expected: Whether measurements of the noise will come where batches differ. Until then nothing
            is said there; without any, a batch past its own edge is announced.

    Example:
        >>> run = RunForecaster(beta2=0.999)
        >>> for step in range(200):
        ...     run.see_step(loss=1.0, squared_gradient=0.01, second_moment=1.0)
        ...     if step % 5 == 0:
        ...         reading = CurvatureSignals(0.9 * 1.0005**step, learning_rate=1e-3)
        ...         run.see_curvature(step, reading)
        >>> forecast = run.forecast(199, constant=True)
        >>> forecast.state, round(forecast.steps_to_instability), round(forecast.lag)
        ('edge', 12, 100)
    """

    def __init__(self, *, horizon: float = 100, beta2: float | None = None) -> None:
        self.noise_expected = True
        self._beta2 = beta2
        self._crossing = Forecaster(horizon=horizon, beta2=beta2)
        self._noise = NoiseAverage()
        self._tracker = SignalTracker()
        self._book = AlarmBook()
        nan = math.nan
        self._signals = StepSignals(nan, nan, nan, nan)
        self._measured = False
        self._cycle = Cycle()
        self._heights: deque[float] = deque(maxlen=_HEIGHTS)
        self._last = unknown(0, "no probe was made yet")
        self._trigger = ""

    def see_step(
        self, *, loss: float, squared_gradient: float, second_moment: float, decay_exponent: float = math.nan
    ) -> None:
        """Take the free signals of a step.

        Args:
            loss: Loss of the step.
            squared_gradient: ‖g‖².
            second_moment: Σv̂; NaN without a second moment.
            decay_exponent: log(Σv_t/Σv_{t−1})/log β₂; NaN if unknown, and no stage is told then.
        """
        self._signals = self._tracker.update(
            loss=loss, squared_gradient=squared_gradient, second_moment=second_moment
        )
        ratio = self._noise.typical_ratio / NOISY_EDGE if self._measured else self._last.stability_ratio
        self._cycle.see(
            loss=loss,
            lag_ratio=self._signals.reverse_lag**2,
            decay_exponent=decay_exponent,
            stability_ratio=ratio,
        )

    def see_curvature(
        self, step: int, seen: CurvatureSignals, *, learning_rates: LearningRates | None = None
    ) -> None:
        """Take a reading of the curvature.

        Args:
            step: Step of the reading; must exceed the last one's.
            seen: The reading.
            learning_rates: Known future of the schedule, η_{t+k}/η_t.

        Raises:
            ValueError: If `step` does not increase.
        """
        forecast = self._crossing.update(
            step,
            seen.ratio,
            learning_rate=seen.learning_rate,
            relative_error=seen.relative_error,
            learning_rates=learning_rates,
        )
        self._last = self._with_outlook(forecast, seen)
        if math.isfinite(self._last.severity):
            self._heights.append(self._last.severity)
        self._trigger = _grown(seen)

    def see_noise(self, *, mean: float, variance: float, noise_factor: float) -> None:
        """Take a measurement of the noisy curvature; see `NoiseAverage.update`."""
        self._noise.update(mean=mean, variance=variance, noise_factor=noise_factor)
        self._measured = True

    @property
    def level(self) -> Level | None:
        """The highest level of alarm in the present episode; None outside of episodes."""
        return self._book.level

    @property
    def lag(self) -> float:
        """The lag at the last step; NaN before it is known."""
        return self._signals.lag

    def cannot_tell(self, step: int, why: str) -> None:
        """Give the curvature forecast up, until the next reading.

        Args:
            step: Step number.
            why: What is missing.
        """
        self._last = unknown(step, why, stability_ratio=math.nan)

    def forecast(self, step: int, *, constant: bool | None) -> Forecast:
        """Return the forecast as it stands at a step.

        Args:
            step: Step number.
            constant: Whether every step sees the same data; None if it can't be told.
        """
        forecast = self._last.at(step)
        if not constant:
            forecast = self._noisy(step, forecast, constant=constant)
        elif forecast.announces and max(self._heights, default=math.inf) < VISIBLE:
            forecast = damped(forecast, max(self._heights))
        signals = self._signals
        state: State = "spike" if signals.loss_ratio > SPIKE else forecast.state
        return replace(
            forecast,
            state=state,
            stage=self._cycle.stage,
            lag=signals.lag,
            reverse_lag=signals.reverse_lag,
        )

    def alarm(self, step: int, forecast: Forecast) -> Alarm | None:
        """Return the alarm that is due at a step, if there is one.

        Args:
            step: Step number.
            forecast: The forecast as it stands at that step.
        """
        burst = self._signals.burst
        trigger = f"the gradient is {burst:.1f} × its usual size" if burst > BURST else self._trigger
        return self._book.update(step, forecast, trigger=trigger, burst=burst)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to continue the same forecast, as plain values."""
        return {
            "crossing": self._crossing.state_dict(),
            "noise": self._noise.state_dict(),
            "measured": self._measured,
            "cycle": self._cycle.state_dict(),
            "heights": list(self._heights),
            "signals": self._tracker.state_dict(),
            "book": self._book.state_dict(),
            "last": vars(self._last).copy(),
            "trigger": self._trigger,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._crossing.load_state_dict(state["crossing"])
        self._noise.load_state_dict(state["noise"])
        self._tracker.load_state_dict(state["signals"])
        self._book.load_state_dict(state["book"])
        self._measured = bool(state["measured"])
        self._cycle.load_state_dict(state["cycle"])
        self._heights = deque(state["heights"], maxlen=_HEIGHTS)
        self._last, self._trigger = Forecast(**state["last"]), str(state["trigger"])

    def _with_outlook(self, forecast: Forecast, seen: CurvatureSignals) -> Forecast:
        if self._beta2 is None or forecast.state in ("unknown", "recovery"):
            return forecast
        signals = SpikeSignals(
            loss=seen.loss,
            excess_loss=seen.excess_loss,
            share=seen.alignment**2,
            lag_ratio=seen.lag_ratio,
            beta1=seen.beta1,
            beta2=self._beta2,
            direct_share=seen.direct_share,
        )
        expected = outlook(seen.ratio, forecast.growth_rate, signals)
        return replace(
            forecast,
            steps_to_spike=expected.steps_to_spike,
            severity=expected.height,
            cause_hint=cause_hint(forecast.growth_rate, self._beta2),
        )

    def _noisy(self, step: int, forecast: Forecast, *, constant: bool | None) -> Forecast:
        if self._measured:
            return judge_noise(forecast, self._noise, step=step, lag=self._signals.lag)
        if constant is False and self.noise_expected:
            return replace(forecast, state="unknown", basis="the noise of mini-batches was not measured yet")
        return qualified(forecast, constant=constant)


def _grown(seen: CurvatureSignals) -> str:
    if seen.gradient_ratio >= 1:
        return f"the curvature along the gradient is {seen.gradient_ratio:.2f} of the edge"
    if seen.predicted_change > 0:
        return "this step raises the loss of its own batch"
    return ""
