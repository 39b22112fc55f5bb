"""The monitor: it watches one training run, and is the only long-lived mutable object."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn
from torch.optim import Optimizer

from foreshock.batches import BatchWatch
from foreshock.curvature import LossFunction
from foreshock.forecast import Alarm, Forecast, RunForecaster
from foreshock.guarding import Guard, GuardAction, Policy, as_guard
from foreshock.monitor.explanation import unusable_loss
from foreshock.monitor.journal import Journal
from foreshock.monitor.observation import FreeSignals
from foreshock.monitor.probing import ProbeRunner, ProbeSchedule
from foreshock.monitor.subject import Subject
from foreshock.preconditioner import as_optimizers
from foreshock.runlog import RunLogWriter


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
        horizon: An instability that is forecast within so many steps is announced.
        full_batch: Whether every step sees the same data, so that 2/η is the edge of stability: batches that
            differ move it. None to find out from the batches.
        examples: Size of the training set, if it is seen again and again: batches drawn from few examples
            differ less. None if it is large or unknown.
        learning_rate_at: The schedule's learning rate at a step number, in any unit, so that the forecast
            knows the future of the threshold; None for a rate that stays.
        on_alarm: Called with each `Alarm`. An exception that it raises ends the training step: raise one to
            stop training.
        guard: A guard of the optimizer, or the policy of one to be made: it gets the readings of the probes,
            and its actions go to the log.
        meta: Description of the run for the log: plain JSON values.

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
        self._subject = Subject(model, as_optimizers(optimizer), loss_fn, examples, learning_rate_at)
        schedule = ProbeSchedule(budget=budget, every=probe_every)
        self._run = RunForecaster(horizon=horizon, beta2=self._subject.beta2)
        self._batches = BatchWatch(constant=full_batch)
        self._signals = FreeSignals(self._subject.optimizers)
        self._guard = None if guard is None else as_guard(guard, self._subject.optimizers)
        header = self._subject.describe() | dict(meta or {})
        if self._guard is not None:
            header["guard"] = self._guard.policy.name
        try:
            self._journal = Journal(None if run is None else RunLogWriter(run, meta=header))
        except BaseException:
            # A guard that nobody can reach must not stay on the optimizer; one that was passed in may.
            if self._guard is not None and self._guard is not guard:
                self._guard.detach()
            raise
        self._probes = ProbeRunner(
            self._subject, schedule=schedule, run=self._run, guard=self._guard, journal=self._journal
        )
        self._on_alarm = on_alarm
        self._step = 0
        self._last = self._run.forecast(0, constant=self._batches.constant)
        if self._guard is not None:
            self._guard.add_callback(self._log_action)
            # The guard then doesn't remark that nobody measures for it.
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
        step, value = self._step, _as_number(batch, loss)
        self._step += 1
        seen = self._signals.observe(step=step, loss=value, gradient_scale=gradient_scale)
        # Before anything that may fail or raise: a log without the last step hides what ended the run.
        self._journal.write("step", seen)
        self._run.record_step(
            loss=value,
            squared_gradient=seen.squared_gradient,
            second_moment=seen.second_moment,
            decay_exponent=seen.decay_exponent,
        )
        self._batches.see(batch)
        constant = self._batches.constant
        measured = self._probes.measure_if_due(
            seen, batch, constant=constant, forecast=self._last, gradient_scale=gradient_scale
        )
        self._last = self._run.forecast(step, constant=constant)
        # In between a forecast only counts down: the log needs those that rest on something new.
        if measured:
            self._journal.write("forecast", self._last)
        self._give_alarm(step)
        return self._last

    def close(self) -> None:
        """Close the run log."""
        self._journal.close()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to continue the same forecast."""
        return {
            "step": self._step,
            "batches": self._batches.state_dict(),
            "run": self._run.state_dict(),
            "probes": self._probes.state_dict(),
            "guard": None if self._guard is None else self._guard.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()` of a monitor of the same model and optimizer.

        Args:
            state: What `state_dict` returned.

        Raises:
            ValueError: If it belongs to a model of another size.
        """
        # First what may refuse the state, so that a refused one changes nothing.
        self._probes.load_state_dict(state["probes"])
        self._step = int(state["step"])
        self._batches.load_state_dict(state["batches"])
        self._run.load_state_dict(state["run"])
        if self._guard is not None and state.get("guard") is not None:
            self._guard.load_state_dict(state["guard"])
        self._last = self._run.forecast(max(self._step - 1, 0), constant=self._batches.constant)

    def __repr__(self) -> str:
        """Return one line: what is watched, for how long, and the last forecast."""
        watched = ", ".join(type(one).__name__ for one in self._subject.optimizers)
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

    def _log_action(self, action: GuardAction) -> None:
        self._signals.refresh()  # v, or what it decays with, is no longer what it was
        # The guard counts updates since it was attached, the log those of the run.
        self._journal.write("guard", replace(action, step=self._step - 1))

    def _give_alarm(self, step: int) -> None:
        if step == 0 and self._batches.constant is None:
            return  # Only the second batch shows which edge counts.
        alarm = self._run.alarm(step, self._last)
        if alarm is None:
            return
        self._journal.write("alarm", alarm)
        if self._on_alarm is not None:
            self._on_alarm(alarm)


def _as_number(batch: Any, loss: Tensor | float) -> float:
    value = loss.detach() if isinstance(loss, Tensor) else loss
    if (isinstance(value, Tensor) and value.numel() != 1) or not hasattr(value, "__float__"):
        raise unusable_loss(batch, value)
    return float(value)
