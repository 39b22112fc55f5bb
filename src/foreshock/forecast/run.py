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
from typing import Any

from foreshock.dynamics import SignalTracker, StageTracker, instant_lag
from foreshock.dynamics.threshold import LearningRates
from foreshock.forecast.alarms import ALARM_AT, Alarm, AlarmBook
from foreshock.forecast.forecaster import Forecaster
from foreshock.forecast.noise import SETTLED, NoiseAverage, judge_noise
from foreshock.forecast.probability import spike_probability
from foreshock.forecast.record import FLAT, NOISY_EDGE, EdgeReading, Forecast, State, unknown
from foreshock.forecast.signs import SPIKE, Signs
from foreshock.forecast.spike import cause_hint, measured_cause, outlook
from foreshock.representation import changed

BURST = 1.5
# On the development runs of SpikeBench one of the last five readings predicted 1.5 × or more before each of
# 150 spikes, and none did on controls; 1.2 to 2 × and three to ten readings serve as well.
VISIBLE = 1.5
_HEIGHTS = 5
_FEWEST_STEPS = 25  # before a probability is told
_LARGEST_ERROR = 5.0  # relative; a bound, about ten times the error
# Horizons. A ratio that is followed between measurements is a few percent off after six of them; the noise
# of mini-batches is averaged over five measurements, of which the last may not be older than four.
_READING_LIVES, _MEASUREMENT_LIVES, _NOISE_LIVES = 2, 6, 4


class RunForecaster:
    """Follow one run.

    Args:
        horizon: Steps that the probability of a spike speaks of, > 0. An edge that is forecast within them
            makes the state ``edge``.
        beta2: Decay of the second moment, in (0, 1), if there is one.
        alarm_at: Probability from which on there is an alarm, in (0, 1).

    Attributes:
        noise_expected: Whether measurements of the noise will come where batches differ. Until then the
            state is unknown there; without any, a batch past its own edge is announced.
        horizon: Steps that the probability speaks of.

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

    def __init__(
        self, *, horizon: float = 50, beta2: float | None = None, alarm_at: float = ALARM_AT
    ) -> None:
        self.noise_expected = True
        self.horizon = horizon
        self._beta2 = beta2
        self._crossing = Forecaster(horizon=horizon, beta2=beta2)
        self._noise = NoiseAverage()
        self._noise_seen: int | None = None  # step of the last measurement of the noise
        self._settled = SETTLED  # step from which v has averaged enough gradients
        self._read: int | None = None  # step of the last reading of the curvature
        self._missing = ""  # why nothing could be measured since the last reading
        self._flat: int | None = None  # step since the last reading at which the curvature was zero
        self._signals = SignalTracker()
        self._stages = StageTracker()
        self._book = AlarmBook(alarm_at)
        self._heights: deque[float] = deque(maxlen=_HEIGHTS)
        self._last = unknown(0, "no probe was made yet")
        self._trigger = ""
        self._landscape_growth = 0.0  # of ln(ratio) a step, when it was last measured
        self._doubt = ""
        self._signs = Signs()
        self._constant: bool | None = None
        self._step: int | None = None  # the last one that was observed

    def record_step(
        self,
        *,
        loss: float,
        squared_gradient: float,
        second_moment: float,
        decay_exponent: float = math.nan,
        step: int | None = None,
    ) -> None:
        """Take the free signals of a step.

        Args:
            loss: Loss of the step.
            squared_gradient: ‖g‖².
            second_moment: Σv̂; NaN without a second moment.
            decay_exponent: log(Σv_t/Σv_{t−1})/log β₂; NaN if unknown, and the stage is too then.
            step: Its number; None if every step is observed.
        """
        before, self._step = self._step, step
        passed = 1 if step is None or before is None else max(step - before, 1)
        statistics = self._signals.update(
            loss=loss, squared_gradient=squared_gradient, second_moment=second_moment
        )
        self._signs.record_step(
            loss=loss,
            squared_gradient=squared_gradient,
            second_moment=second_moment,
            statistics=statistics,
            steady=self._constant is True,
            passed=passed,
        )
        # The stages need a ratio whose edge is one, whichever of the two edges decides.
        ratio = (
            self._noise.typical_ratio / NOISY_EDGE
            if self._noise_seen is not None
            else self._last.stability_ratio
        )
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
        if not reading.relative_error <= _LARGEST_ERROR:
            if reading.stability_ratio == 0:
                self._flat = step
            return  # too far off to say anything; what was known before gets older
        forecast = self._crossing.update(
            step,
            reading.stability_ratio,
            learning_rate=reading.learning_rate,
            relative_error=reading.relative_error,
            learning_rates=learning_rates,
        )
        measured = step if reading.measured is None else reading.measured
        self._last = changed(self._with_outlook(forecast, reading), measured=measured)
        self._read, self._missing, self._flat = step, "", None
        self._signs.record_ratio(step, reading.stability_ratio)
        if math.isfinite(self._last.severity):
            self._heights.append(self._last.severity)
        self._trigger = reading.growing

    def record_noise(self, step: int, *, mean: float, variance: float, noise_factor: float) -> None:
        """Take a measurement of the noisy curvature; see `NoiseAverage.update`."""
        settled = self.is_settled(step)
        self._noise.update(mean=mean, variance=variance, noise_factor=noise_factor, settled=settled)
        self._noise_seen = step
        self._missing = ""

    def count_updates(self, step: int, made: int) -> None:
        """Take note how many updates the optimizer had made before a step.

        v may be older than the run, or younger, as where a run goes on with a new optimizer.

        Args:
            step: Step number.
            made: Updates, ≥ 0. Until they are known each step counts as one, from step 0.
        """
        self._settled = step - made + SETTLED

    def is_settled(self, step: int) -> bool:
        """Return whether v averages enough gradients for the size of a measurement to mean anything.

        Args:
            step: Step number.
        """
        return step >= self._settled

    @property
    def spiking(self) -> bool:
        """Whether the loss has left its level."""
        return self._signs.statistics.loss_ratio > SPIKE

    @property
    def lag(self) -> float:
        """The lag at the last step; NaN before it is known."""
        return self._signs.statistics.lag

    def mark_unavailable(self, step: int, why: str) -> None:
        """Forecast nothing until the next reading; a noise measured at this very step still counts.

        Args:
            step: Step number.
            why: What is missing.
        """
        self._last = unknown(step, why, stability_ratio=math.nan)
        self._missing = "" if self._noise_seen == step else why

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
        forecast, self._constant = self._last.at(step), constant
        if constant is False:
            forecast = self._noisy(step, forecast)
        elif constant is None:
            forecast = _undecided(forecast)
        else:
            forecast = self._expired(forecast)
            if forecast.is_near_edge and max(self._heights, default=math.inf) < VISIBLE:
                forecast = _damped(forecast, max(self._heights))
        state: State = "spike" if self.spiking else forecast.state
        basis = f"{forecast.basis}; doubtful: {self._doubt}" if self._doubt else forecast.basis
        return changed(
            self._with_probability(forecast, spiking=state == "spike"),
            state=state,
            stage=self._stages.stage,
            lag=self._signs.statistics.lag,
            basis=basis,
            doubt=self._doubt,
        )

    def at(self, forecast: Forecast, step: int) -> Forecast:
        """Return a forecast of this run counted from a later step, or that it is too old by then.

        Args:
            forecast: The last forecast.
            step: Step number.
        """
        measured = forecast.measured
        if measured is None or forecast.state == "unknown" or step - measured <= self.horizon:
            return forecast.at(step)
        lives = _NOISE_LIVES if self._noise_seen is not None else _MEASUREMENT_LIVES
        if step - measured <= lives * self.horizon and step - forecast.step <= self.horizon:
            return forecast.at(step)
        basis = f"the last measurement was {step - measured} steps ago, at step {measured}"
        return changed(unknown(step, basis, stability_ratio=forecast.stability_ratio), measured=measured)

    def alarm(self, step: int, forecast: Forecast) -> Alarm | None:
        """Return the alarm that is due at a step, if there is one.

        Args:
            step: Step number.
            forecast: The forecast at that step.
        """
        burst = self._signs.statistics.burst
        failure = self._book.failure(step, forecast, loss=self._signs.loss, burst=burst)
        if failure is not None:
            return failure
        trigger = f"the gradient is {burst:.1f} × its usual size" if burst > BURST else self._trigger
        return self._book.update(step, forecast, trigger=trigger, burst=burst)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to continue the same forecast, as plain values."""
        return {
            "crossing": self._crossing.state_dict(),
            "noise": self._noise.state_dict(),
            "noise_seen": self._noise_seen,
            "read": self._read,
            "missing": self._missing,
            "flat": self._flat,
            "stages": self._stages.state_dict(),
            "heights": list(self._heights),
            "signals": self._signals.state_dict(),
            "book": self._book.state_dict(),
            "last": vars(self._last).copy(),
            "trigger": self._trigger,
            "landscape_growth": self._landscape_growth,
            "doubt": self._doubt,
            "signs": self._signs.state_dict(),
            "constant": self._constant,
            "step": self._step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._crossing.load_state_dict(state["crossing"])
        self._noise.load_state_dict(state["noise"])
        self._signals.load_state_dict(state["signals"])
        self._book.load_state_dict(state["book"])
        self._noise_seen, self._read, self._missing = state["noise_seen"], state["read"], state["missing"]
        self._stages.load_state_dict(state["stages"])
        self._heights = deque(state["heights"], maxlen=_HEIGHTS)
        self._last, self._trigger = Forecast(**state["last"]), str(state["trigger"])
        self._landscape_growth = float(state["landscape_growth"])
        self._doubt, self._flat = str(state.get("doubt", "")), state.get("flat")
        if "signs" in state:  # of this version on
            self._signs.load_state_dict(state["signs"])
            self._constant, self._step = state["constant"], state["step"]

    def _with_probability(self, forecast: Forecast, *, spiking: bool) -> Forecast:
        # Which of the two edges counts must be known, and there must be a level that a spike could leave.
        # Where losses lie below zero there is no multiple of it, and the other signs speak alone.
        known = self._constant is not None and self._signs.observed >= _FEWEST_STEPS
        # Of a run that has failed the signs are those of before.
        if spiking or not known or not math.isfinite(self._signs.loss):
            return changed(forecast, level=self._book.follow(math.nan))
        found = spike_probability(self.signs(forecast), steady=self._constant is True, horizon=self.horizon)
        return changed(
            forecast,
            probability=found.value,
            probability_low=found.low,
            probability_high=found.high,
            probability_within=found.within,
            horizon=self.horizon,
            level=self._book.follow(found.value),
        )

    def signs(self, forecast: Forecast) -> dict[str, float]:
        """Return what the probability of a spike rests on; see `foreshock.forecast.signs`.

        Args:
            forecast: What `forecast` returned at the present step.
        """
        known = forecast.state != "unknown"
        nan = math.nan
        return self._signs.at(
            forecast.step,
            ratio=forecast.stability_ratio if known and self._constant else nan,
            growth=forecast.growth_rate,
            noise=forecast.typical_mean_square_ratio if known else nan,
        )

    def _with_outlook(self, forecast: Forecast, reading: EdgeReading) -> Forecast:
        if reading.measured is not None and reading.measured < forecast.step:
            # Simulating the next spike takes longer than a small step: between measurements it counts down.
            before = self._last.at(forecast.step)
            return changed(
                forecast,
                steps_to_spike=before.steps_to_spike,
                severity=before.severity,
                cause_hint=self._cause(forecast, reading),
            )
        if self._beta2 is None or forecast.state in ("unknown", "recovery"):
            return forecast
        expected = outlook(reading, forecast.growth_rate, beta2=self._beta2)
        return changed(
            forecast,
            steps_to_spike=expected.steps_to_spike,
            severity=expected.height,
            cause_hint=self._cause(forecast, reading),
        )

    def _cause(self, forecast: Forecast, reading: EdgeReading) -> str:
        if self._beta2 is None:
            return ""
        if reading.since is None:
            return cause_hint(forecast.growth_rate, self._beta2)
        if math.isfinite(reading.landscape_growth):
            self._landscape_growth = reading.landscape_growth
        return measured_cause(
            preconditioner=reading.preconditioner_growth,
            landscape=self._landscape_growth,
            since=reading.since,
        )

    def _noisy(self, step: int, forecast: Forecast) -> Forecast:
        if self._missing:
            return forecast  # says what is missing; the noise of long ago would still say "stable"
        seen = self._noise_seen
        if seen is not None and step - seen > _NOISE_LIVES * self.horizon:
            basis = f"the noise of mini-batches was last measured {step - seen} steps ago, at step {seen}"
            return changed(unknown(step, basis), measured=seen)
        if seen is not None:
            judged = judge_noise(forecast, self._noise, step=step, lag=self._signs.statistics.lag)
            return changed(judged, measured=seen)
        if self.noise_expected:
            return changed(forecast, state="unknown", basis="the noise of mini-batches was not measured yet")
        return _qualified(self._expired(forecast))

    def _expired(self, forecast: Forecast) -> Forecast:
        """Return the forecast, or that nothing is known any more if what it rests on is too old."""
        read, measured, step = self._read, forecast.measured, forecast.step
        if read is None or measured is None:
            return forecast
        fresh = step - read <= _READING_LIVES * self.horizon
        if fresh and step - measured <= _MEASUREMENT_LIVES * self.horizon:
            return forecast
        basis = f"the curvature was last measured {step - measured} steps ago, at step {measured}"
        if self._flat is not None:
            basis = f"{FLAT}, as measured {step - self._flat} steps ago, at step {self._flat}"
        return changed(unknown(step, basis, stability_ratio=forecast.stability_ratio), measured=measured)


def _qualified(forecast: Forecast) -> Forecast:
    """Return the forecast of a single batch with what batch noise leaves of it."""
    why = "batches differ, so 2/η of one batch is not the edge: noise can destabilise below it"
    # A single batch overestimates λ_max of the data: an alarm may be false, calm proves nothing.
    state = forecast.state if forecast.is_near_edge else "unknown"
    return changed(forecast, state=state, basis=f"{forecast.basis}; {why}")


def _undecided(forecast: Forecast) -> Forecast:
    """Return the forecast before it is known whether batches differ: which edge counts is open."""
    why = "unknown whether every step sees the same data"
    return changed(forecast, state="unknown", basis=f"{forecast.basis}; {why}")


def _damped(forecast: Forecast, height: float) -> Forecast:
    """Return the forecast where no visible rise of the loss is expected past the edge.

    Args:
        forecast: The forecast.
        height: The highest loss expected, as a multiple of its level.
    """
    why = f"v follows g²: a rise of the loss to {height:.2f} × is all that is expected past the edge"
    return changed(forecast, state="rising", basis=f"{forecast.basis}; {why}")
