"""The monitor: it watches one training run, and is the only long-lived mutable object."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn
from torch.optim import Optimizer

from foreshock.batches import BatchWatch, count_examples, split_batch
from foreshock.curvature import LossFunction, NoiseReading, Prober
from foreshock.dynamics import population_factor
from foreshock.forecast import Alarm, Forecast, RunForecaster
from foreshock.guarding import Guard, GuardAction, Policy, as_guard
from foreshock.monitor.journal import Journal
from foreshock.monitor.observation import (
    StepObservation,
    curvature_signals,
    largest_rate,
    observe_step,
    second_moment_decay,
)
from foreshock.monitor.schedule import CURVATURE_PROBE_INTERVAL, ProbeSchedule
from foreshock.monitor.subject import as_number, check_parameters, describe, trained_size
from foreshock.preconditioner import Preconditioner, as_optimizers, find_reader, read_preconditioner
from foreshock.runlog import RunLogWriter

_FAILURES_ALLOWED = 3
_MISMATCH = 0.01


class Monitor:
    """Watch a training run: forecast its next instability, and keep a log of it.

    Unless a guard acts, training is left exactly as it would be without: parameters, optimizer state,
    buffers, ``.grad``, train mode and random numbers are the same bit by bit. A probe that fails becomes an
    event in the log.

    Where every step sees the same data the curvature of the batch is probed. Where batches differ, so does
    its noise, from the two halves of a batch or from `MicroBatches`.

    Args:
        model: The model that is trained.
        optimizer: Its optimizer, of a registered class; or several that share the parameters between them,
            as Muon and AdamW do.
        loss_fn: ``loss_fn(model, batch)`` → mean loss, as a scalar tensor. Without it the free signals are
            logged, and no curvature is measured.
        run: Folder of the run log; None keeps none.
        budget: Share of wall time for probes, in (0, 1).
        probe_every: Probe every so many steps instead, whatever it costs.
        horizon: An instability forecast within so many steps is announced.
        full_batch: Whether every step sees the same data; None to find out from the batches. 2/η is the edge
            of stability only then: a noisy batch moves it.
        examples: Size of the training set, if it is seen again and again: batches drawn from few examples
            differ less. None if it is large or unknown.
        learning_rate_at: The schedule's learning rate at a step number, in any unit, so that the forecast
            knows the future of the threshold; None for a rate that stays.
        on_alarm: Called with each `Alarm`. What it raises ends the training step: that is how to stop.
        guard: A guard of the optimizer, or the policy of one to be made: it gets what the probes measure, and
            its actions go to the log.
        meta: What the run is, for the log: plain JSON values.

    Raises:
        TypeError: If the optimizer's class is not registered, or `loss_fn` is not callable.
        ValueError: If the optimizer has parameters that are not the model's, or an argument lies outside
            its interval.
        OSError: If the run folder can't be written.

    Example:
        >>> import torch, foreshock
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        >>> loss_fn = lambda model, batch: (model(batch) ** 2).mean()
        >>> batch = torch.ones(8, 3)
        >>> with foreshock.Monitor(model, optimizer, loss_fn, probe_every=1) as monitor:
        ...     for _ in range(20):
        ...         optimizer.zero_grad()
        ...         loss = loss_fn(model, batch)
        ...         loss.backward()
        ...         forecast = monitor.observe(batch, loss)
        ...         optimizer.step()
        >>> forecast.stability_ratio > 0
        True
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        loss_fn: LossFunction | None = None,
        *,
        run: str | os.PathLike[str] | None = None,
        budget: float = 0.05,
        probe_every: int | None = None,
        horizon: float = 100,
        full_batch: bool | None = None,
        examples: int | None = None,
        learning_rate_at: Callable[[int], float] | None = None,
        on_alarm: Callable[[Alarm], None] | None = None,
        guard: Guard | Policy | str | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        if loss_fn is not None and not callable(loss_fn):
            raise TypeError(f"loss_fn is {loss_fn!r}; pass a function loss_fn(model, batch) -> loss")
        if examples is not None and not examples >= 1:
            raise ValueError(f"examples is {examples!r}; pass the size of the training set, or None")
        self._optimizers = as_optimizers(optimizer)
        for one in self._optimizers:
            find_reader(one)
        check_parameters(model, self._optimizers)
        self._prober = None if loss_fn is None else Prober(model, loss_fn)
        self._schedule = ProbeSchedule(budget=budget, every=probe_every)
        self._run = RunForecaster(horizon=horizon, beta2=second_moment_decay(self._optimizers))
        self._batches = BatchWatch(constant=full_batch)
        self._examples, self._learning_rate_at, self._on_alarm = examples, learning_rate_at, on_alarm
        self._step, self._measurements, self._failures = 0, 0, 0
        self._last = self._run.forecast(0, constant=self._batches.constant)
        self._guard = None if guard is None else as_guard(guard, self._optimizers)
        described = describe(model, self._optimizers) | dict(meta or {})
        if self._guard is not None:
            described["guard"] = self._guard.policy.name
        self._journal = Journal(None if run is None else RunLogWriter(run, meta=described))
        if self._guard is not None:
            self._guard.add_callback(self._log_action)
            self._guard.monitored = True

    @property
    def forecast(self) -> Forecast:
        """The last forecast."""
        return self._last

    @property
    def guard(self) -> Guard | None:
        """The guard, if there is one."""
        return self._guard

    def observe(self, batch: Any, loss: Tensor | float, *, gradient_scale: float = 1.0) -> Forecast:
        """Take one training step into account. Call it between ``backward()`` and ``optimizer.step()``.

        Args:
            batch: What `loss_fn` gets; the batch of this step. Of an accumulation, `MicroBatches`.
            loss: Loss of this step, a scalar, not scaled.
            gradient_scale: What ``.grad`` still has to be divided by: ``scaler.get_scale()`` before
                ``scaler.unscale_(optimizer)``, one after it.

        Returns:
            The forecast, counted from this step.
        """
        step, value = self._step, as_number(loss)
        self._step += 1
        seen = observe_step(self._optimizers, step=step, loss=value, gradient_scale=gradient_scale)
        self._journal.write("step", seen)
        self._run.see_step(
            loss=value,
            squared_gradient=seen.squared_gradient,
            second_moment=seen.second_moment,
            decay_exponent=seen.decay_exponent,
        )
        self._batches.see(batch)
        measured = False
        if not math.isfinite(value):
            self._journal.event(step, "non-finite loss", f"the loss is {value}; no probe was made")
            self._run.cannot_tell(step, f"the loss is {value}")
        elif self._prober is None:
            self._run.cannot_tell(step, "no loss_fn was given, so no curvature is measured")
        elif self._may_probe(step):
            measured = self._measure(self._prober, seen, batch, gradient_scale)
        self._last = self._run.forecast(step, constant=self._batches.constant)
        if measured:
            self._journal.write("forecast", self._last)
        self._tell_alarm(step)
        return self._last

    def close(self) -> None:
        """Close the run log."""
        self._journal.close()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to continue the same forecast."""
        return {
            "step": self._step,
            "measurements": self._measurements,
            "batches": self._batches.state_dict(),
            "prober": None if self._prober is None else self._prober.state_dict(),
            "run": self._run.state_dict(),
            "schedule": self._schedule.state_dict(),
            "guard": None if self._guard is None else self._guard.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()` of a monitor of the same model and optimizer.

        Args:
            state: What `state_dict` returned.

        Raises:
            ValueError: If it belongs to a model of another size.
        """
        if self._prober is not None and state["prober"] is not None:
            self._prober.load_state_dict(state["prober"], size=trained_size(self._optimizers))
        self._step, self._measurements = int(state["step"]), int(state["measurements"])
        self._batches.load_state_dict(state["batches"])
        self._run.load_state_dict(state["run"])
        self._schedule.load_state_dict(state["schedule"])
        if self._guard is not None and state.get("guard") is not None:
            self._guard.load_state_dict(state["guard"])
        self._last = self._run.forecast(max(self._step - 1, 0), constant=self._batches.constant)

    def __repr__(self) -> str:
        """Return one line: what is watched, for how long, and the last forecast."""
        watched = ", ".join(type(one).__name__ for one in self._optimizers)
        guarded = "" if self._guard is None else f", guard {self._guard.policy.name!r}"
        return f"<Monitor of {watched}{guarded}: {self._step} steps; {self._last}>"

    def __enter__(self) -> Self:
        """Return the monitor itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the run log."""
        self.close()

    def _may_probe(self, step: int) -> bool:
        if self._failures >= _FAILURES_ALLOWED:
            return False
        lag = self._run.lag if self._noisy else None
        return self._schedule.due(step, now=time.perf_counter(), forecast=self._last, noise_lag=lag)

    @property
    def _noisy(self) -> bool:
        return self._run.noise_expected and self._batches.constant is False

    def _measure(self, prober: Prober, seen: StepObservation, batch: Any, gradient_scale: float) -> bool:
        """Measure what is due; return whether anything was."""
        step = seen.step
        if not largest_rate(self._optimizers) > 0:
            self._run.cannot_tell(step, "every learning rate is 0: nothing moves")
            self._journal.event(step, "no probe", "every learning rate is 0: nothing moves")
            return False
        began = time.perf_counter()
        kinds = [self._measure_noise] if self._noisy else []
        if not self._noisy or self._measurements % CURVATURE_PROBE_INTERVAL == 0:
            kinds.append(self._measure_curvature)
        self._measurements += 1
        try:
            preconditioner = read_preconditioner(self._optimizers, gradient_scale=gradient_scale)
            for measure in kinds:
                measure(prober, seen, batch, preconditioner)
        except Exception as error:  # noqa: BLE001 - a probe must never end a training run
            self._failed(step, error)
        else:
            self._failures = 0
        now = time.perf_counter()
        self._schedule.spent(step, seconds=now - began, now=now)
        return self._failures == 0

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
        signals = curvature_signals(seen, reading, preconditioner)
        self._run.see_curvature(seen.step, signals, learning_rates=self._future_rates(seen.step))

    def _measure_noise(
        self, prober: Prober, seen: StepObservation, batch: Any, preconditioner: Preconditioner
    ) -> None:
        try:
            parts = split_batch(batch)
            factor = population_factor(sum(map(count_examples, parts.batches)), self._examples)
        except ValueError as error:
            self._run.noise_expected = False
            self._journal.event(seen.step, "no noise", f"the noise of batches can't be measured: {error}")
            return
        reading = prober.probe_noise(parts, preconditioner, step=seen.step, loss=seen.loss)
        self._journal.write("noise", reading)
        self._warn_of_mismatch(reading)
        seen_by = (
            [self._run.see_noise] if self._guard is None else [self._run.see_noise, self._guard.record_noise]
        )
        for see_noise in seen_by:
            see_noise(
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

    def _future_rates(self, step: int) -> Callable[[int], float] | None:
        rate_at = self._learning_rate_at
        if rate_at is None:
            return None
        present = float(rate_at(step))
        if not 0 < present < math.inf:
            return None
        return lambda ahead: float(rate_at(step + ahead)) / present

    def _log_action(self, action: GuardAction) -> None:
        self._journal.write("guard", replace(action, step=self._step - 1))

    def _failed(self, step: int, error: Exception) -> None:
        self._failures += 1
        message = f"{type(error).__name__}: {error}"
        if self._failures == _FAILURES_ALLOWED:
            message += f" ({_FAILURES_ALLOWED} failures in a row: no more probes in this run)"
        self._run.cannot_tell(step, f"the probe failed: {message}")
        self._journal.event(step, "probe failed", message)

    def _tell_alarm(self, step: int) -> None:
        if step == 0 and self._batches.constant is None:
            return  # Only the second batch tells which edge counts.
        alarm = self._run.alarm(step, self._last)
        if alarm is None:
            return
        self._journal.write("alarm", alarm)
        if self._on_alarm is not None:
            self._on_alarm(alarm)
