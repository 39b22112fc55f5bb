"""The monitor: it watches one training run, and is the only long-lived mutable object."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn
from torch.optim import Optimizer

from foreshock.batches import BatchWatch
from foreshock.dynamics import second_moment_lag
from foreshock.forecast import Forecast, Forecaster, unknown
from foreshock.measurement import LossFunction
from foreshock.preconditioner import (
    as_optimizers,
    find_reader,
    live_groups,
    read_gradient_norm,
    read_preconditioner,
    read_second_moment_sums,
)
from foreshock.prober import Prober
from foreshock.runlog import RunLogWriter
from foreshock.schedule import ProbeSchedule
from foreshock.subject import as_number, check_parameters, describe, trained_size

_FAILURES_ALLOWED = 3
_LOGGER = logging.getLogger("foreshock")


@dataclass(frozen=True)
class StepObservation:
    """The free signals of one training step.

    Attributes:
        step: Number of updates before this one.
        loss: The training loss.
        gradient_norm: ‖g‖ over all parameters of the optimizer.
        learning_rate: η of the first parameter group.
        lag_ratio: Σg²/Σv̂.
        decay_exponent: log(Σv_t/Σv_{t−1})/log β₂.
    """

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float
    lag_ratio: float
    decay_exponent: float


class Monitor:
    """Watch a training run: forecast its next instability, and keep a log of it.

    Training is left exactly as it would be without: parameters, optimizer state, buffers, ``.grad``, train
    mode and random numbers are the same bit by bit. A probe that fails becomes an event in the log.

    Args:
        model: The model that is trained.
        optimizer: Its optimizer, of a registered class; or several that share the parameters between them,
            as Muon and AdamW do.
        loss_fn: ``loss_fn(model, batch)`` → mean loss, as a scalar tensor. Without it the free signals are
            logged, and no curvature is measured.
        run: Folder of the run log; None keeps none.
        budget: Share of wall time for curvature probes, in (0, 1).
        probe_every: Probe every so many steps instead, whatever it costs.
        horizon: An instability forecast within so many steps is announced.
        full_batch: Whether every step sees the same data; None to find out from the batches. 2/η is the edge
            of stability only then: a noisy batch moves it, and the forecast says so.
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
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        if loss_fn is not None and not callable(loss_fn):
            raise TypeError(f"loss_fn is {loss_fn!r}; pass a function loss_fn(model, batch) -> loss")
        self._optimizers = as_optimizers(optimizer)
        for one in self._optimizers:
            find_reader(one)
        check_parameters(model, self._optimizers)
        self._prober = None if loss_fn is None else Prober(model, loss_fn)
        self._schedule = ProbeSchedule(budget=budget, every=probe_every)
        self._forecaster = Forecaster(horizon=horizon)
        self._batches = BatchWatch(constant=full_batch)
        self._step = 0
        self._failures = 0
        self._last = unknown(0, "no probe was made yet")
        self._told: set[str] = set()
        self._log = (
            None
            if run is None
            else RunLogWriter(run, meta=describe(model, self._optimizers) | dict(meta or {}))
        )

    @property
    def forecast(self) -> Forecast:
        """The last forecast."""
        return self._last

    def observe(self, batch: Any, loss: Tensor | float, *, gradient_scale: float = 1.0) -> Forecast:
        """Take one training step into account. Call it between ``backward()`` and ``optimizer.step()``.

        Args:
            batch: What `loss_fn` gets; the batch of this step. Of an accumulation, `MicroBatches`.
            loss: Loss of this step, a scalar, not scaled.
            gradient_scale: What ``.grad`` still has to be divided by: ``scaler.get_scale()`` before
                ``scaler.unscale_(optimizer)``, one after it.

        Returns:
            The forecast, counted from this step. It is as old as the last probe: see `Forecast.step`.
        """
        step, value = self._step, as_number(loss)
        self._step += 1
        self._write("step", self._observation(step, value, gradient_scale))
        self._batches.see(batch)
        if not math.isfinite(value):
            self._event(step, "non-finite loss", f"the loss is {value}; no probe was made")
            self._last = unknown(step, f"the loss is {value}")
        elif self._may_probe(step):
            self._probe(step, batch, gradient_scale)
        return self._last.at(step)

    def close(self) -> None:
        """Close the run log."""
        if self._log is not None:
            self._log.close()
            self._log = None

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to continue the same forecast."""
        return {
            "step": self._step,
            "prober": None if self._prober is None else self._prober.state_dict(),
            "forecaster": self._forecaster.state_dict(),
            "schedule": self._schedule.state_dict(),
            "forecast": dataclasses.asdict(self._last),
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
        self._step = int(state["step"])
        self._forecaster.load_state_dict(state["forecaster"])
        self._schedule.load_state_dict(state["schedule"])
        self._last = Forecast(**state["forecast"])

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

    def _observation(self, step: int, loss: float, gradient_scale: float) -> StepObservation:
        sums = read_second_moment_sums(self._optimizers, gradient_scale=gradient_scale)
        lag = second_moment_lag(sums)
        norm = read_gradient_norm(self._optimizers, gradient_scale=gradient_scale)
        rate = max(float(group["lr"]) for group in self._groups())
        return StepObservation(step, loss, norm, rate, lag.lag_ratio, lag.decay_exponent)

    def _groups(self) -> Iterator[Mapping[str, Any]]:
        for optimizer in self._optimizers:
            yield from live_groups(optimizer)

    def _may_probe(self, step: int) -> bool:
        if self._prober is None:
            self._last = unknown(step, "no loss_fn was given, so no curvature is measured")
            return False
        if self._failures >= _FAILURES_ALLOWED:
            return False
        return self._schedule.due(step, now=time.perf_counter(), forecast=self._last.at(step))

    def _probe(self, step: int, batch: Any, gradient_scale: float) -> None:
        if self._prober is None:
            return
        if not any(float(group["lr"]) > 0 for group in self._groups()):
            self._last = unknown(step, "every learning rate is 0: nothing moves")
            self._event(step, "no probe", self._last.basis)
            return
        began = time.perf_counter()
        known = self._prober.backend
        try:
            preconditioner = read_preconditioner(self._optimizers, gradient_scale=gradient_scale)
            reading = self._prober.probe(batch, preconditioner, step=step)
        except Exception as error:  # noqa: BLE001 - a probe must never end a training run
            self._failed(step, error)
        else:
            if known is None:
                self._tell_backend(step)
            self._failures = 0
            self._write("curvature", reading)
            forecast = self._forecaster.update(
                step,
                reading.stability_ratio,
                learning_rate=preconditioner.largest_rate,
                relative_error=reading.relative_error,
            )
            self._last = _qualified(forecast, constant=self._batches.constant)
            self._write("forecast", self._last)
        now = time.perf_counter()
        self._schedule.spent(step, seconds=now - began, now=now)

    def _tell_backend(self, step: int) -> None:
        choice = None if self._prober is None else self._prober.backend
        if choice is None:
            return
        message = f"{choice.name}: {choice.reason}"
        self._write("event", {"step": step, "name": "backend", "message": message})
        level = logging.INFO if choice.verified else logging.WARNING
        _LOGGER.log(level, "step %d: Hessian products by %s", step, message)

    def _failed(self, step: int, error: Exception) -> None:
        self._failures += 1
        message = f"{type(error).__name__}: {error}"
        if self._failures == _FAILURES_ALLOWED:
            message += f" ({_FAILURES_ALLOWED} failures in a row: no more probes in this run)"
        self._last = unknown(step, f"the probe failed: {message}")
        self._event(step, "probe failed", message)

    def _event(self, step: int, name: str, message: str) -> None:
        self._write("event", {"step": step, "name": name, "message": message})
        if message not in self._told:
            self._told.add(message)
            _LOGGER.warning("step %d: %s: %s", step, name, message)

    def _write(self, kind: str, record: Any) -> None:
        if self._log is None:
            return
        try:
            self._log.write(kind, record)
        except OSError as error:
            self._log = None
            _LOGGER.warning("the run log ends here, training goes on: %s", error)


def _qualified(forecast: Forecast, *, constant: bool | None) -> Forecast:
    """Return the forecast with what batch noise leaves of it."""
    if constant:
        return forecast
    why = (
        "it can't be told whether every step sees the same data"
        if constant is None
        else "batches differ, so 2/η of one batch is not the edge: noise can destabilise below it"
    )
    # A single batch overestimates λ_max of the data: an alarm may be false, calm proves nothing.
    state = forecast.state if forecast.announces else "unknown"
    return dataclasses.replace(forecast, state=state, basis=f"{forecast.basis}; {why}")
