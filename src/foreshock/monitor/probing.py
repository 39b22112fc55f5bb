"""The probes of a run: the budget says how often, the forecast where it matters; what is due is measured.

Readings are handed to the forecast, the guard and the log.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import Any

from foreshock.batches import count_examples, split_batch
from foreshock.curvature import NoiseReading, Prober
from foreshock.dynamics import population_factor
from foreshock.failures import Failures
from foreshock.forecast import Forecast, RunForecaster, noise_interval
from foreshock.guarding import Guard
from foreshock.monitor.consistency import ConsistencyCheck
from foreshock.monitor.journal import Journal
from foreshock.monitor.observation import StepObservation, edge_reading
from foreshock.monitor.subject import Subject
from foreshock.preconditioner import Preconditioner, read_preconditioner

_MISMATCH = 0.01
_SHARE_OF_TIME_LEFT = 0.1
_LONGEST_WAIT = 200
CURVATURE_PROBE_INTERVAL = 50
"""Where batches differ: measurements of the noise from one probe of the curvature, expensive, to the next."""


class ProbeSchedule:
    """Decide whether to probe at a step.

    With `every`, probes come at fixed steps. Otherwise the wall time of probes is kept below `budget` of all
    wall time since the first step, and within that a probe is due after a tenth of the forecast time to
    instability, as an adaptive integrator picks its step: rarely far from the edge, densely near it.
    What is not spent far away is left for then.

    Args:
        budget: Share of wall time that probes may take, in (0, 1).
        every: Probe every so many steps instead, ≥ 1, whatever it costs.

    Raises:
        ValueError: If an argument lies outside its interval.

    Example:
        >>> schedule = ProbeSchedule(budget=0.05)
        >>> schedule.due(0, now=0.0, forecast=None)
        True
        >>> schedule.spent(0, seconds=1.0, now=1.0)
        >>> schedule.due(1, now=1.1, forecast=None), schedule.due(400, now=41.0, forecast=None)
        (False, True)
    """

    def __init__(self, *, budget: float = 0.05, every: int | None = None) -> None:
        if not 0 < budget < 1:
            raise ValueError(
                f"budget is {budget!r}; it is the share of wall time for probes, in (0, 1): 0.05 is 5 %"
            )
        if every is not None and not every >= 1:
            raise ValueError(f"probe_every is {every!r}; probe every 1 step or more, or None for a budget")
        self.budget = budget
        self.every = every
        self._began: float | None = None
        self._total = 0.0
        self._last_cost = 0.0
        self._last_step: int | None = None

    def due(
        self, step: int, *, now: float, forecast: Forecast | None, noise_lag: float | None = None
    ) -> bool:
        """Return whether to probe at this step.

        Args:
            step: Step number.
            now: Wall clock, seconds.
            forecast: The last forecast, if there is one.
            noise_lag: Where the noise of mini-batches decides, the lag of v: measurements are due after
                `noise_interval` steps. None where the forecast has a date.
        """
        if self.every is not None:
            return step % self.every == 0
        if self._began is None:
            self._began = now
        if self._last_step is None:
            return True
        wait = _wait(forecast) if noise_lag is None else noise_interval(noise_lag)
        if step - self._last_step < wait:
            return False
        return self._total + self._last_cost <= self.budget * (now - self._began)

    def spent(self, step: int, *, seconds: float, now: float) -> None:
        """Account for a probe.

        Args:
            step: Step it was made at.
            seconds: Wall time it took.
            now: Wall clock after it, seconds.
        """
        if self._began is None:
            self._began = now - seconds
        # The last cost stands for the next: the first probe, which chooses a backend, is the most expensive.
        self._total += seconds
        self._last_cost = seconds
        self._last_step = step

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed schedule needs, as plain values; the clock restarts."""
        return {"last_step": self._last_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._last_step = state["last_step"]


def _wait(forecast: Forecast | None) -> float:
    # Without a date more readings are needed first. With one its lower end counts too: a crossing that comes
    # early must not be missed.
    if forecast is None or math.isnan(forecast.steps_to_instability):
        return 1
    ahead = min(forecast.steps_to_instability, forecast.interval_low)
    return min(max(_SHARE_OF_TIME_LEFT * ahead, 1), _LONGEST_WAIT)


class ProbeRunner:
    """Probe the curvature where every step sees the same data, and mostly its noise where batches differ.

    A failure of a probe becomes an event in the log; after three in a row there are no more probes.

    Args:
        subject: What is watched.
        schedule: When to probe.
        run: The forecast, which gets the readings.
        guard: The guard, if there is one, which gets them too.
        journal: The log.
    """

    def __init__(
        self,
        subject: Subject,
        *,
        schedule: ProbeSchedule,
        run: RunForecaster,
        guard: Guard | None,
        journal: Journal,
    ) -> None:
        self._subject, self._schedule = subject, schedule
        self._run, self._guard, self._journal = run, guard, journal
        loss_fn = subject.loss_fn
        self._prober = None if loss_fn is None else Prober(subject.model, loss_fn)
        self._failures = Failures("monitor")
        self._measurements = 0
        self._consistency = None if loss_fn is None else ConsistencyCheck(subject, run, journal)

    def measure_if_due(
        self,
        seen: StepObservation,
        batch: Any,
        *,
        constant: bool | None,
        forecast: Forecast,
        gradient_scale: float,
    ) -> bool:
        """Measure what is due at a step; return whether anything was measured.

        Args:
            seen: The free signals of the step.
            batch: Its batch.
            constant: Whether every step sees the same data; None if unknown.
            forecast: The last forecast.
            gradient_scale: What ``.grad`` still has to be divided by.
        """
        step = seen.step
        if self._consistency is not None and self._consistency.sampling:
            self._consistency.sample(step)
        if not math.isfinite(seen.loss):
            self._journal.event(step, "non-finite loss", f"the loss is {seen.loss}; no probe was made")
            self._run.mark_unavailable(step, f"the loss is {seen.loss}")
            return False
        if self._prober is None:
            self._run.mark_unavailable(step, "no loss_fn was given, so no curvature is measured")
            return False
        # Noise decides only where batches surely differ; until two of them were seen the curvature is probed.
        noisy = constant is False and self._run.noise_expected
        lag = self._run.lag if noisy else None
        now = time.perf_counter()
        if self._failures.given_up or not self._schedule.due(step, now=now, forecast=forecast, noise_lag=lag):
            return False
        # The first step of many warmups: nothing moves, so there is no ratio. It must not count as a failure.
        if not seen.learning_rate > 0:
            self._run.mark_unavailable(step, "every learning rate is 0: nothing moves")
            self._journal.event(step, "no probe", "every learning rate is 0: nothing moves")
            return False
        measured = self._measure(self._prober, seen, batch, noisy=noisy, gradient_scale=gradient_scale)
        # A failed probe is charged too: otherwise failures would come as fast as steps.
        end = time.perf_counter()
        self._schedule.spent(step, seconds=end - now, now=end)
        return measured

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to go on probing as before."""
        return {
            "measurements": self._measurements,
            "prober": None if self._prober is None else self._prober.state_dict(),
            "schedule": self._schedule.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`.

        Raises:
            ValueError: If it belongs to a model of another size.
        """
        if self._prober is not None and state["prober"] is not None:
            self._prober.load_state_dict(state["prober"], size=self._subject.size)
        self._measurements = int(state["measurements"])
        self._schedule.load_state_dict(state["schedule"])

    def _measure(
        self, prober: Prober, seen: StepObservation, batch: Any, *, noisy: bool, gradient_scale: float
    ) -> bool:
        # Where noise decides, the curvature is of interest only now and then, and costs several times more.
        measures = [self._measure_noise] if noisy else []
        if not noisy or self._measurements % CURVATURE_PROBE_INTERVAL == 0:
            measures.append(self._measure_curvature)
        self._measurements += 1
        try:
            preconditioner = read_preconditioner(self._subject.optimizers, gradient_scale=gradient_scale)
            for measure in measures:
                measure(prober, seen, batch, preconditioner)
        except Exception as error:  # noqa: BLE001 - a probe must never end a training run
            self._record_failure(seen.step, self._explained(seen.step, error, batch))
            return False
        self._failures.succeeded()
        if self._consistency is not None:
            self._consistency.after_probe(
                prober.take_evaluation(),
                preconditioner.parameters,
                batch,
                step=seen.step,
                loss=seen.loss,
                gradient_scale=gradient_scale,
                whole=self._measure_curvature in measures,
            )
        return True

    def _measure_curvature(
        self, prober: Prober, seen: StepObservation, batch: Any, preconditioner: Preconditioner
    ) -> None:
        known = prober.backend
        reading = prober.probe(batch, preconditioner, step=seen.step)
        choice = prober.backend
        if known is None and choice is not None:
            level = logging.INFO if choice.verified else logging.WARNING
            self._journal.event(seen.step, "backend", f"{choice.name}: {choice.reason}", level=level)
        self._journal.write("curvature", reading)
        if self._guard is not None and prober.top_vector is not None:
            self._guard.record_curvature(reading.stability_ratio, prober.top_vector)
        self._run.record_curvature(
            seen.step,
            edge_reading(seen, reading, preconditioner),
            learning_rates=self._subject.future_rates(seen.step),
        )

    def _measure_noise(
        self, prober: Prober, seen: StepObservation, batch: Any, preconditioner: Preconditioner
    ) -> None:
        try:
            parts = split_batch(batch)
            factor = population_factor(sum(map(count_examples, parts.batches)), self._subject.examples)
        except ValueError as error:
            # From then on the forecast rests on single batches, and says so.
            self._run.noise_expected = False
            self._journal.event(seen.step, "no noise", f"the noise of batches can't be measured: {error}")
            return
        reading = prober.probe_noise(parts, preconditioner, step=seen.step, loss=seen.loss)
        self._journal.write("noise", reading)
        self._warn_of_mismatch(reading)
        for receiver in (self._run, self._guard):
            if receiver is not None:
                receiver.record_noise(
                    mean=reading.mean, variance=factor * reading.variance, noise_factor=reading.noise_factor
                )

    def _warn_of_mismatch(self, reading: NoiseReading) -> None:
        if reading.loss_mismatch > _MISMATCH:
            self._journal.event(
                reading.step,
                "no parts",
                "the loss of a batch is not the mean of that of its parts (batch normalisation, or no mean "
                "over examples): the noise is overestimated",
            )

    def _explained(self, step: int, error: Exception, batch: Any) -> Exception:
        return error if self._consistency is None else self._consistency.explain(step, error, batch)

    def _record_failure(self, step: int, error: Exception) -> None:
        self._failures.failed(f"the probe of step {step} failed", error)
        message = f"{type(error).__name__}: {error}"
        if self._failures.given_up:
            message += f" ({self._failures.in_a_row} failures in a row: no more probes in this run)"
        self._run.mark_unavailable(step, f"the probe failed: {message}")
        # `Failures` has logged it, once a cause; the run log gets each one.
        self._journal.event(step, "probe failed", message, level=None)
