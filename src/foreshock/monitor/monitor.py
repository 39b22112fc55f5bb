"""The monitor: it watches one training run, and is the only long-lived mutable object."""

from __future__ import annotations

import logging
import math
import os
import time
import weakref
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from foreshock.batches import BatchWatch
from foreshock.cards import Card
from foreshock.curvature import LossFunction, ProductMethod, name_parameters, require_method
from foreshock.distributed import Together, training_peers
from foreshock.explain import Explanation, TensorTable, choose, explain_run
from foreshock.forecast import ALARM_AT, Alarm, Forecast, RunForecaster
from foreshock.guarding import Guard, GuardAction, Policy, as_guard
from foreshock.monitor.clock import StepClock
from foreshock.monitor.evidence import EvidenceRecorder
from foreshock.monitor.explanation import unusable_loss
from foreshock.monitor.following import GradientSize
from foreshock.monitor.journal import Journal
from foreshock.monitor.ladder import Ladder
from foreshock.monitor.observation import SUMS, FreeSignals, StepObservation
from foreshock.monitor.probing import ProbedStep, ProbeRunner
from foreshock.monitor.recovery import BEFORE_SPIKE
from foreshock.monitor.rewinder import Rewind
from foreshock.monitor.rewinding import Rewinding, ladder_of
from foreshock.monitor.schedule import OPENING, Measure, ProbeSchedule
from foreshock.monitor.subject import Subject, copy_weights
from foreshock.preconditioner import as_optimizers, moving_parameters
from foreshock.recorder import Recorder, Snapshot
from foreshock.replay.examination import suspected_step, the_event
from foreshock.replay.examining import Batches, Build, examine_event
from foreshock.runlog import read_run
from foreshock.sinks import Sink

_LOGGER = logging.getLogger("foreshock")
_TELLING = 20  # steps after which it is said what is lacking
_LONGEST_SILENCE = 0.5  # seconds after which what has gathered goes to the log
_TOLD, _HOLDS = 50, 25  # steps that the guard is told a probability for, and for how many it holds
_NEWS, _NEWS_RATIO = 0.05, 1.5  # change of the probability, and of its ratio, that is logged
_OPENING_DECISIONS = 5  # steps from one decision to the next at the start, where nothing is known yet


class Monitor:
    """Watch a training run: forecast its next instability, and keep a log of it.

    Unless a guard acts, training is left exactly as it would be without: parameters, optimizer state,
    buffers, ``.grad``, train mode and random numbers are the same bit by bit. A probe that fails becomes an
    event in the log.

    Where every step sees the same data the curvature of the batch is probed. Where batches differ, so does
    its noise, from the two halves of a batch or from `MicroBatches`.

    A step leaves its numbers on the device. They are read back, logged and judged every `log_every` steps,
    and where something is measured: in between `observe` returns the last forecast, counted down. What
    ``kill -9`` can lose is what was observed in the half second before the last call.

    Args:
        model: The model that is trained.
        optimizer: Its optimizer, of a registered class; or several that share the parameters between them,
            as Muon and AdamW do.
        loss_fn: ``loss_fn(model, batch)`` → mean loss, as a scalar tensor. Without it the free signals are
            logged, and no curvature is measured.
        run: Folder of the run log; None keeps none.
        budget: Forward-backward passes of the batch that measurements may cost a step, in [0, 1]: .05 is one
            pass in twenty steps, and about 5 % of the time. They are counted, not timed, so that a run can be
            repeated. 0 measures nothing but the free signals.
        probe_every: Probe every so many steps instead, whatever it costs.
        hvp: How Hessian products are made: ``"exact"`` by double backward, ``"difference"`` by differences of
            gradients, which need no more memory than a training step and a few vectors – shards of them where
            ``fully_shard`` shares the parameters. ``"auto"`` is exact where that works and fits into memory,
            as far as it can be known, and differences otherwise; the log says which, and why.
        log_every: Steps from one reading back of their numbers to the next, ≥ 1.
        horizon: Steps that the probability of a spike speaks of, > 0.
        alarm_at: Probability of a spike within the horizon from which on there is an alarm, in (0, 1). Less
            misses fewer spikes, and is in alarm for more of the steps; the documentation has both in figures.
        full_batch: Whether every step sees the same data, so that 2/η is the edge of stability: batches that
            differ move it. None to find out from the batches.
        examples: Size of the training set, if it is seen again and again: batches drawn from few examples
            differ less. None if it is large or unknown.
        learning_rate_at: The schedule's learning rate at a step number, in any unit, so that the forecast
            knows the future of the threshold; None for a rate that stays.
        on_alarm: Called with each `Alarm`. An exception that it raises ends the training step: raise one to
            stop training. ``"rewind"`` is ``recovery=Ladder(at="alarm")``.
        guard: A guard of the optimizer, or the policy of one to be made: it gets the readings of the probes
            and, where batches differ, the probability of a spike within fifty steps, whatever `horizon` is;
            it holds until the next forecast, for 25 steps at most. Its actions go to the log.
        recorder: Keeps snapshots of the training in memory, and writes the newest from before an alarm, a
            spike or a loss that is not finite into the run's folder.
        recovery: What to do about spikes: see `foreshock.Ladder`. It needs a recorder; one is made if there
            is none. Then, as with a guard, training is no longer what it would be without.
        meta: Description of the run for the log: plain JSON values.
        sinks: Where the records go besides the log, see `foreshock.sinks`: TensorBoard, W&B, a webhook …

    Raises:
        TypeError: If the optimizer's class is not registered, or `loss_fn` can't be called with a model
            and a batch.
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

    _forecasts_by = RunForecaster  # a subclass may listen to what it is told

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        loss_fn: LossFunction | None = None,
        *,
        run: str | os.PathLike[str] | None = None,
        budget: float = 0.05,
        probe_every: int | None = None,
        hvp: ProductMethod = "auto",
        log_every: int = 10,
        horizon: float = 50,
        alarm_at: float = ALARM_AT,
        full_batch: bool | None = None,
        examples: int | None = None,
        learning_rate_at: Callable[[int], float] | None = None,
        on_alarm: Callable[[Alarm], None] | Literal["rewind"] | None = None,
        guard: Guard | Policy | str | None = None,
        recorder: Recorder | None = None,
        recovery: Ladder | None = None,
        meta: Mapping[str, Any] | None = None,
        sinks: Sequence[Sink] = (),
    ) -> None:
        if not log_every >= 1:
            raise ValueError(f"log_every is {log_every!r}; it is a number of steps, 1 or more")
        self._subject = Subject(model, as_optimizers(optimizer), loss_fn, examples, learning_rate_at)
        schedule = ProbeSchedule(budget=budget, every=probe_every)
        method = require_method(hvp)
        self._run = self._forecasts_by(horizon=horizon, beta2=self._subject.beta2, alarm_at=alarm_at)
        self._batches = BatchWatch(constant=full_batch)
        self._signals = FreeSignals(self._subject.optimizers, copy_weights(self._subject))
        header = self._subject.describe() | {"alarm_at": alarm_at, "probability_horizon": horizon}
        header |= dict(meta or {})
        if on_alarm is not None and not callable(on_alarm):
            recovery = recovery or ladder_of(on_alarm)
        if recovery is not None:
            recorder = recorder or Recorder()
        if recorder is not None:
            recorder.attach(model, self._subject.optimizers)
        # Last of what may be refused: a guard that nobody can reach must not stay on the optimizer.
        self._guard = None
        try:
            self._guard = None if guard is None else as_guard(guard, self._subject.optimizers)
            if self._guard is not None:
                header["guard"] = self._guard.policy.name
            self._journal = Journal(run, meta=header, sinks=sinks)
        except BaseException:
            if recorder is not None:
                recorder.detach()  # the same one is passed again once the cause is mended
            # A guard that nobody can reach must not stay on the optimizer; one that was passed in may.
            if self._guard is not None and self._guard is not guard:
                self._guard.detach()
            raise
        self._probes = ProbeRunner(
            self._subject,
            schedule=schedule,
            run=self._run,
            guard=self._guard,
            journal=self._journal,
            company=_company(self._subject, schedule, log_every, header | {"hvp": method}),
            hvp=method,
        )
        self._evidence = EvidenceRecorder(self._subject, self._journal, self._signals)
        self._rewinding = Rewinding(
            recorder, recovery, subject=self._subject, journal=self._journal, every=log_every
        )
        self._log_path: Path | None = None  # once the journal is closed
        self._on_alarm = on_alarm if callable(on_alarm) else None
        self._log_every = log_every
        self._clock = StepClock()
        self._began: int | None = None
        self._decided = 0
        self._unjudged: list[StepObservation] = []
        self._rows = 0  # how many of them are in the log
        self._told, self._told_at = math.nan, 0  # to the guard: a probability, and of which step
        self._written = time.monotonic()
        self._norm_noted = self._batch_noted = self._capture_noted = self._closed = False
        self._to_give: list[Alarm] = []
        self._updates: int | None = None  # number of the last update of the optimizer that was read
        self._updates_before: int | None = None  # that of the session which is resumed, until compared
        # A monitor that is never closed still writes what has gathered, when it is collected or at exit.
        self._finish = weakref.finalize(self, _write_rest, self._signals, self._journal, os.getpid())
        if self._probes.unavailable:
            self._run.mark_unavailable(0, self._probes.unavailable)
        self._last = self._logged = self._run.forecast(0, constant=self._batches.constant)
        if self._guard is not None:
            self._guard.add_callback(self._log_action)
            # The guard then doesn't remark that nobody measures for it.
            self._guard.monitored = True

    @property
    def forecast(self) -> Forecast:
        """The last forecast, counted from the last step."""
        return self._last.at(max(self._clock.step, self._last.step))

    @property
    def recorder(self) -> Recorder | None:
        """The recorder, if there is one."""
        return self._rewinding.recording.recorder

    @property
    def rewinds(self) -> tuple[Rewind, ...]:
        """What was put back so far, by `rewind` or by the ladder."""
        return self._rewinding.done

    @property
    def guard(self) -> Guard | None:
        """The guard, if there is one."""
        return self._guard

    def observe(
        self,
        batch: Any,
        loss: Tensor | float,
        *,
        gradient_scale: float = 1.0,
        gradient_norm: Tensor | float | None = None,
        max_norm: float = math.inf,
        step: int | None = None,
        ids: Any = None,
    ) -> Forecast:
        """Take one training step into account. Call it between ``backward()`` and ``optimizer.step()``.

        Args:
            batch: What `loss_fn` gets; the batch of this step. Of an accumulation, `MicroBatches`.
            loss: Loss of this step, a scalar, not scaled.
            gradient_scale: What ``.grad`` still has to be divided by: ``scaler.get_scale()`` before
                ``scaler.unscale_(optimizer)``, one after it.
            gradient_norm: What ``clip_grad_norm_`` returned for all parameters, which is ‖g‖ before clipping,
                so that it needn't be computed again. None to compute it.
            max_norm: What the gradients were clipped to after that norm was taken.
            step: The run's own step number, if steps are counted elsewhere or not each one is observed; it
                must increase. None: steps are counted by the optimizer, or else by calls.
            ids: What the data set calls the examples of this batch – indices, file names – so that a batch
                that does harm can be named. Of the last 200 steps those of a jump are logged.

        Returns:
            The forecast, counted from this step. Its state is that of the last step that was read back.

        Raises:
            ValueError: If the loss is no scalar, or `step` does not increase.
        """
        if self._closed:
            self._closed = False  # said once; an error would end the training
            _LOGGER.warning("the monitor was closed: what is observed from here on is not logged")
        if _is_captured():
            # Numbers can't be read inside a capture, and trying to would end the training.
            self._note_capture()
            return self.forecast
        value = _as_scalar(batch, loss)
        step = self._clock.next(step)
        self._batches.see(batch)
        if self._batches.constant is None and step >= _TELLING and not self._batch_noted:
            self._batch_noted = True
            self._journal.event(
                step,
                "batch unknown",
                "the batches given to observe hold no tensor, so that it can't be found out whether every "
                "step sees the same data, and the state stays unknown: pass full_batch=True or False to "
                "Monitor",
            )
        if self._batches.change:
            self._journal.event(step, "batch size", self._batches.change, level=None)
        size = GradientSize(gradient_scale, gradient_norm, max_norm)
        meeting = self._probes.meets(step)
        deciding = self._decides(step) if meeting is None else meeting
        self._signals.take(
            value,
            step=step,
            size=size,
            batch_size=self._batches.examples,
            batch_elements=self._batches.elements,
            reading=deciding,
        )
        step = self._count(step)
        changed = self._evidence.see(
            step, ids, gradient_scale=gradient_scale, same_data=self._batches.same_tensors
        )
        if changed:
            self._rewinding.changed(step)
        dense = self._last.level == "alarm" and self._probes.is_shared  # or none else has these steps
        self._rewinding.recording.see(step, value, batch, ids, dense=dense, note=self._run.state_dict)
        self._probes.sample(step)
        constant = self._batches.constant
        what = self._probes.due(step, constant=constant, forecast=self._last, deciding=deciding)
        acting = self._rewinding.meets(step, deciding=deciding or what is not None)
        if what is None and not deciding:
            if time.monotonic() - self._written > _LONGEST_SILENCE and not self._probes.has_parts:
                self._write_steps()
            if acting:
                if not self._probes.has_parts:
                    self._judge_rest()  # or what is undone would be taken for trouble later
                self._recover(step, batch)
            self._warn_guard(step)
            return self._run.at(self._last, step)
        if meeting:
            what = self._meet(batch)
        self._write_steps()
        self._judge(batch, what=what, gradient_scale=gradient_scale)
        self._evidence.write_wanted(
            step, batch, gradient_scale=gradient_scale, vector=self._probes.top_vector
        )
        self._rewinding.recording.tell(step)
        if acting:
            self._recover(step, batch)
        self._take_forecast()
        self._warn_guard(step)
        self._give_alarms()
        return self._last

    def tensor_table(self, *, gradient_scale: float = 1.0) -> TensorTable:
        """Return what each parameter tensor is about to do. Call it where `observe` is called.

        The same table is logged at each alarm and at the start of each spike. Cost: about one optimizer step.

        Args:
            gradient_scale: What ``.grad`` still has to be divided by.

        Example:
            >>> import torch
            >>> model = nn.Linear(2, 1)
            >>> monitor = Monitor(model, torch.optim.Adam(model.parameters(), lr=0.1))
            >>> model(torch.ones(4, 2)).mean().backward()
            >>> sorted((row.name, round(row.update_rms, 3)) for row in monitor.tensor_table().rows)
            [('bias', 0.1), ('weight', 0.1)]
        """
        step = max(self._clock.step, 0)
        return self._evidence.table(
            step, "asked", gradient_scale=gradient_scale, vector=self._probes.top_vector
        )

    def rewind(self, *, before: int | None = None) -> Rewind:
        """Put the newest snapshot from before the last trouble back into the running training.

        Parameters, buffers, optimizer, gradient scaler and schedule are what they were at that step, and so
        are its gradients: the loop goes on as it would, with ``optimizer.step()`` or the next batch. Random
        numbers and data go on too, past the batches that the result names. In several processes all call it
        at the same place, and go back to the same step.

        Args:
            before: Step of the trouble; None for that of the last spike or loss that was not finite, or the
                newest snapshot of all if there was none lately.

        Returns:
            What was put back, and which batches are passed over.

        Raises:
            ValueError: If there is no recorder, no such snapshot, a training of another shape, or one of
                several processes that does not call it, too.

        Example:
            >>> import torch
            >>> from foreshock.recorder import Recorder
            >>> model = nn.Linear(2, 1)
            >>> optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
            >>> monitor = Monitor(model, optimizer, recorder=Recorder(every=1))
            >>> for value in (1.0, 1.0, float("nan")):
            ...     optimizer.zero_grad()
            ...     loss = (model(torch.full((4, 2), value)) ** 2).mean()
            ...     loss.backward()
            ...     _ = monitor.observe(torch.ones(4, 2), loss)
            ...     optimizer.step()
            >>> print(monitor.rewind())
            back to step 1 from step 2 (asked for): the batches of steps 2 – 2 are passed over
            >>> bool(model.weight.isfinite().all())
            True
        """
        self._judge_rest()
        step = self._clock.step
        done, snapshot = self._rewinding.go_back(step, before, self._evidence.ids_between)
        self._went_back(snapshot, step)
        return done

    def explain(
        self,
        step: int | None = None,
        *,
        build: Build | None = None,
        batches: Batches | None = None,
        start: int | None = None,
    ) -> tuple[Explanation, ...]:
        """Return what happened at each spike so far, from the run log, in order.

        With `build` and `batches` one event is also tested, as by ``foreshock explain --model … --data …``:
        it is trained again from a snapshot as it was, with the batch replaced, with v held, and in float64,
        and what follows is its `examination`. The running training is left as it is; that takes as long as
        five times the steps from the snapshot to a hundred after the peak.

        Args:
            step: Only the event at this step, or nearest to it; None for all.
            build: Builds the training as it was at its start, anew at each call: returns a
                `foreshock.replay.Loop`, or (model, loss_fn, optimizer).
            batches: All batches of the run from its first step on, in its order: a function that returns an
                iterable, or a list.
            start: Begin at the last snapshot that is not after this step; None for the last from before the
                event. The older it is, the more it says about v.

        Raises:
            ValueError: If no run log is kept, there is no event near `step`, or there are several and one
                is to be tested; only one of `build` and `batches` is given, or what is built is the running
                training.
            TypeError: If `build` or `batches` is something else.
            FileNotFoundError: If there is no snapshot from before the event.

        Example:
            >>> import tempfile
            >>> from foreshock import Recorder
            >>> from foreshock.replay import Loop
            >>> loss_fn = lambda model, x: (model(x) - x.sum(1, keepdim=True)).square().mean()
            >>> def build():
            ...     torch.manual_seed(0)
            ...     model = nn.Linear(2, 1)
            ...     return Loop(model, loss_fn, torch.optim.Adam(model.parameters(), lr=0.01))
            >>> data = [torch.ones(4, 2) * (900 if step == 90 else step % 3) for step in range(200)]
            >>> loop = build()
            >>> with Monitor(
            ...     loop.model, loop.optimizer, loss_fn, run=tempfile.mkdtemp(), recorder=Recorder(every=10)
            ... ) as monitor:
            ...     for batch in data[:120]:
            ...         loss = loop.backward(batch)
            ...         _ = monitor.observe(batch, loss)
            ...         loop.update()
            ...     [found] = monitor.explain(step=90, build=build, batches=data)
            >>> found.cause, found.examination.comes["swap=90"]
            ('bad batch', False)
        """
        self._judge_rest()
        self._journal.flush()
        path = self._journal.path or self._log_path
        if path is None:
            raise ValueError("no run log is kept, or it can't be written: pass run=… to Monitor")
        run = read_run(path)
        found = choose(explain_run(run), step=step)
        if build is None and batches is None:
            return found
        if build is None or batches is None:
            raise ValueError("only one of build and batches was passed; a replay needs both, or neither")
        event = the_event(found)
        before = suspected_step(event) if start is None else start + 1
        snapshot = self._rewinding.recording.newest(path.parent, before=before)
        live = self._subject.tensors()
        examined = examine_event(run, event, snapshot, build, batches, live=live)
        return (replace(event, examination=examined),)

    def show(self) -> Card:
        """Return how the run is doing, as a card that notebooks show and ``print`` prints.

        In the middle of a cell: ``display(monitor.show())``. Cost: none. ``foreshock.runlog.read_run`` has
        the run so far, and shows its loss.

        Example:
            >>> import torch
            >>> model = torch.nn.Linear(2, 1)
            >>> print(Monitor(model, torch.optim.Adam(model.parameters())).show())
            Run: unknown
              forecast: nothing measured: no loss_fn was given, ...
        """
        rows = [("forecast", str(self.forecast)), ("doubt", self.forecast.doubt)]
        if self._guard is not None:
            rows.append(("guard", str(self._guard.summary())))
        if self.rewinds:
            rows.append(("rewinds", ", ".join(map(str, self.rewinds))))
        return Card(f"Run: {self.forecast.level or self.forecast.state}", tuple(rows))

    def close(self) -> None:
        """Write what has gathered, and close the run log."""
        self._judge_rest()
        self._log_path = self._journal.path or self._log_path
        self._rewinding.close(max(self._clock.step, 0))
        self._probes.close()
        self._finish()
        self._closed = True
        self._give_alarms()

    def state_dict(self, *, vectors: bool = True) -> dict[str, Any]:
        """Return what a resumed run needs to continue the same forecast.

        Args:
            vectors: Whether to keep what is as long as the parameters, from which the next probe starts warm.
                Without it the state is a few kilobytes, and fits any number of processes; see
                `foreshock.Checkpointed`.
        """
        self._judge_rest()
        self._journal.flush()  # a run is resumed in the log that got as far as its state
        return {
            "clock": self._clock.state_dict(),
            "updates": self._updates,
            "began": self._began,
            "decided": self._decided,
            "batches": self._batches.state_dict(),
            "run": self._run.state_dict(),
            "probes": self._probes.state_dict(vectors=vectors),
            "guard": None if self._guard is None else self._guard.state_dict(vectors=vectors),
            "evidence": self._evidence.state_dict(),
            "recovery": self._rewinding.state_dict(),
            "told": [self._told, self._told_at],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()` of a monitor of the same model and optimizer.

        Where other parameters are trained now, the next probe starts without the vectors of the last one.

        Args:
            state: What `state_dict` returned.

        Raises:
            ValueError: If its guard is of another policy.
        """
        # First what may refuse the state, so that a refused one changes nothing.
        self._probes.load_state_dict(state["probes"])
        self._clock.load_state_dict(state["clock"])
        self._updates_before = state["updates"]
        self._began, self._decided = state["began"], state["decided"]
        self._journal.resume(self._clock.step + 1)
        self._batches.load_state_dict(state["batches"])
        if "evidence" in state:
            self._evidence.load_state_dict(state["evidence"])
        self._run.load_state_dict(state["run"])
        if self._guard is not None and state.get("guard") is not None:
            self._guard.load_state_dict(state["guard"])
        self._rewinding.load_state_dict(state.get("recovery"), max(self._clock.step, 0))
        self._last = self._logged = self._run.forecast(self._clock.step, constant=self._batches.constant)
        self._told, self._told_at = state.get("told", (math.nan, 0))

    def __reduce__(self) -> tuple[Any, ...]:
        """Refuse to be copied or pickled: a copy would write to the same run log.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            "a Monitor can't be copied or pickled, since its run log is open: save monitor.state_dict(), "
            "and pass it to load_state_dict() of a Monitor made in the new process"
        )

    def __repr__(self) -> str:
        """Return one line: what is watched, for how long, and the last forecast."""
        watched = ", ".join(type(one).__name__ for one in self._subject.optimizers)
        guarded = "" if self._guard is None else f", guard {self._guard.policy.name!r}"
        return f"<Monitor of {watched}{guarded}: {self._clock.calls + 1} steps; {self._last}>"

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
        if kind is not None:
            self._on_alarm = None  # what ended the block must not be replaced by what a callback raises
        self.close()

    def _count(self, step: int) -> int:
        """Compare calls with the optimizer's updates; return the step, which they may have put right."""
        self._compare_with_session_before(step)
        odd = self._clock.compare(self._signals.updates)
        if odd:
            step = self._clock.step
            self._signals.renumber(step)
            self._journal.event(step, "calls", odd)
        if self._signals.updates is not None:
            self._run.count_updates(step, self._signals.updates - 1)
        if self._signals.wrong_norm is not None and not self._norm_noted:
            self._norm_noted = True
            own, given = self._signals.wrong_norm
            self._journal.event(
                step,
                "misuse: gradient_norm",
                f"the norm of .grad is {own:.4g}, and gradient_norm and max_norm say {given:.4g}: pass what "
                "clip_grad_norm_ returned for all parameters of the optimizer, and what it clipped to as "
                "max_norm. It is computed from here on",
            )
        return step

    def _compare_with_session_before(self, step: int) -> None:
        updates, before = self._signals.updates, self._updates_before
        self._evidence.note_updates(step, updates)
        if updates is None:
            return
        self._updates, self._updates_before = updates, None
        if before is not None and updates < before:
            self._journal.event(
                step,
                "misuse: cold resume",
                f"the optimizer begins at update {updates}, and the run was at {before} when the monitor's "
                "state was saved: its own state was not loaded, so that v starts anew and the first steps "
                "are as large as in a new run; load optimizer.load_state_dict() from the same checkpoint",
            )
            self._rewinding.lost(step, "the state of the optimizer was not loaded when it was resumed")

    def _note_capture(self) -> None:
        if not self._capture_noted:
            self._capture_noted = True
            self._journal.event(
                max(self._clock.step, 0),
                "misuse: captured",
                "observe was called while a CUDA graph is captured, and replays don't call it: capture "
                "forward and backward only, and call observe and optimizer.step() after each replay",
            )

    def _decides(self, step: int) -> bool:
        """Return whether numbers are read back at a step, so that something may be measured."""
        if self._began is None:
            # Not at the first: it isn't known yet which edge counts, and v is the first gradient squared.
            self._began = self._decided = step
            return False
        opening = step <= self._began + OPENING
        if step - self._decided < (min(self._log_every, _OPENING_DECISIONS) if opening else self._log_every):
            return False
        self._decided = step
        return True

    def _write_steps(self) -> None:
        """Read back what has gathered on the device, and log it. What it means is judged later."""
        self._written = time.monotonic()
        self._unjudged.extend(map(self._probes.completed, self._signals.fetch()))
        # Before anything that may fail or raise: a log without the last step hides what ended the run.
        for one in self._unjudged[self._rows :]:
            self._journal.add("step", one)
        self._journal.flush()
        self._rows = len(self._unjudged)

    def _judge_rest(self) -> None:
        """Take into account what has gathered, between two calls of `observe`."""
        self._write_steps()
        self._judge(None, what=None, gradient_scale=1.0)

    def _judge(self, batch: Any, *, what: Measure | None, gradient_scale: float) -> None:
        """Take the steps that were read back into account, measure what is due, and forecast."""
        unjudged, self._unjudged, self._rows = self._unjudged, [], 0
        for place, seen in enumerate(unjudged):
            spiking = self._run.spiking
            lost = self._evidence.judge(seen)
            if lost:
                self._journal.event(seen.step, "misuse: cold resume", lost)
                self._rewinding.lost(seen.step, lost)
            self._run.record_step(
                loss=seen.loss,
                squared_gradient=seen.squared_gradient,
                # Without the guard's raises: a lag that they made announces no spike.
                second_moment=seen.second_moment / (1.0 if self._guard is None else self._guard.raised),
                decay_exponent=seen.decay_exponent,
                step=seen.step,
            )
            self._rewinding.judge(seen, spiking=spiking)
            if not math.isfinite(seen.loss):
                message = f"the loss is {seen.loss}; no probe is made"
                self._journal.event(seen.step, "non-finite loss", message)
                self._run.mark_unavailable(seen.step, f"the loss is {seen.loss}")
                words = f"loss of {seen.loss} at step {seen.step}"
                self._rewinding.trouble(seen.step, words, seen=seen.step, finite=False)
            if self._run.spiking and not spiking:
                self._evidence.want_table("spike")
                self._rewinding.recording.write("spike", before=seen.step)
                words = f"spike at step {seen.step}"
                self._rewinding.trouble(seen.step - BEFORE_SPIKE, words, seen=seen.step)
            last = place == len(unjudged) - 1
            measured = last and what is not None and self._measure(what, seen, batch, gradient_scale)
            # A forecast for each step would say the same again and again: one at the end, and where the loss
            # leaves its level or fails in between.
            if last or spiking != self._run.spiking or not math.isfinite(seen.loss):
                self._forecast(seen.step, measured=measured)

    def _meet(self, batch: Any) -> Measure | None:
        """Agree with the other processes on what is measured now, and on the losses since the last time."""
        if not self._probes.has_parts:
            self._write_steps()  # a log without the last step hides what ended the run
        self._unjudged.extend(self._signals.fetch())
        known = self._batches.constant
        constant = self._batches.confirm(batch)
        what, self._unjudged = self._probes.agree(
            self._unjudged, constant=constant, forecast=self._last, same=constant is known
        )
        return what

    def _measure(self, what: Measure, seen: StepObservation, batch: Any, gradient_scale: float) -> bool:
        # Made sure of before something rests on it; what is due may be something else then.
        known = self._batches.constant
        constant = self._batches.confirm(batch)
        if constant is not known:
            return False
        at = ProbedStep(
            seen, batch, gradient_scale, differ=constant is False, usual_examples=self._batches.usual_examples
        )
        return self._probes.measure(what, at)

    def _forecast(self, step: int, *, measured: bool) -> None:
        if self._probes.unavailable:
            self._run.mark_unavailable(step, self._probes.unavailable)
        self._last = self._run.forecast(step, constant=self._batches.constant)
        # In between a forecast only counts down: the log needs those that rest on something new.
        if measured or _is_news(self._last, self._logged):
            self._logged = self._last
            self._journal.write("forecast", self._last)
        self._probes.check_budget(step, constant=self._batches.constant)
        alarm = self._run.alarm(step, self._last)
        if alarm is None:
            return
        self._journal.write("alarm", alarm)
        self._evidence.want_table("alarm")
        self._rewinding.recording.write(alarm.level, before=step)
        if self._rewinding.acts_at_alarms and alarm.level == "alarm":
            self._rewinding.trouble(step, f"alarm at step {step}")
        self._to_give.append(alarm)

    def _recover(self, step: int, batch: Any) -> None:
        """Do what a trouble asks for: what all processes do, at a step at which all are here."""
        snapshot = self._rewinding.act(step, batch, self._evidence.ids_between)
        if snapshot is not None:
            self._went_back(snapshot, step)

    def _went_back(self, snapshot: Snapshot, step: int) -> None:
        """Forget what was known of steps that are undone."""
        self._signals.refresh()  # v is no longer what it was
        self._told = math.nan
        if snapshot.note is not None:
            self._run.load_state_dict(snapshot.note)
        self._last = self._logged = self._run.forecast(step, constant=self._batches.constant)

    def _give_alarms(self) -> None:
        # After all was judged: what a callback raises, to end the training, must not cost the log a step.
        while self._to_give and self._on_alarm is not None:
            self._on_alarm(self._to_give.pop(0))

    def _take_forecast(self) -> None:
        """Take over what the guard is told from now on, if noise was measured and all forecast the same."""
        tells = self._batches.constant is False and self._probes.is_shared and self._last.state != "unknown"
        self._told = self._last.probability_within.get(_TOLD, math.nan) if tells else math.nan
        self._told_at = self._last.step

    def _warn_guard(self, step: int) -> None:
        """Tell the guard how probable a spike is, as long as that is news."""
        if self._guard is not None and not math.isnan(self._told) and step - self._told_at < _HOLDS:
            self._guard.record_forecast(self._told)

    def _log_action(self, action: GuardAction) -> None:
        self._signals.refresh()  # v, or what it decays with, is no longer what it was
        # The guard counts updates since it was attached, the log those of the run.
        self._journal.write("guard", replace(action, step=self._clock.step))


def _is_news(forecast: Forecast, before: Forecast) -> bool:
    """Return whether a forecast says something else than the one that was logged before it."""
    if (forecast.state, forecast.level) != (before.state, before.level):
        return True
    now, then = forecast.probability, before.probability
    if math.isnan(now) or math.isnan(then):
        return math.isnan(now) != math.isnan(then)
    return abs(now - then) > _NEWS or not 1 / _NEWS_RATIO < now / then < _NEWS_RATIO


def _company(
    subject: Subject, schedule: ProbeSchedule, log_every: int, header: Mapping[str, Any]
) -> Together | None:
    """Return the processes that train with this one, if a monitor in each could measure together."""
    peers = training_peers(subject.model) if subject.loss_fn is not None and schedule.measures else None
    if peers is None or subject.is_parted:
        return None
    options = {name: header.get(name) for name in ("optimizer", "parameters", "groups", "guard", "hvp")}
    options |= {"budget": schedule.budget.passes_per_step, "every": schedule.every, "log_every": log_every}
    # Ranks may train other parameters of the same number.
    names = name_parameters(subject.model, moving_parameters(subject.optimizers))
    options["names"] = zlib.crc32(repr([name for name, _ in names]).encode())
    options |= {"horizon": header.get("probability_horizon"), "alarm_at": header.get("alarm_at")}
    choices = ("noise", "curvature", "refresh", "follow")
    return Together(
        peers,
        "monitor",
        signature=repr(options),
        every=log_every,
        fixed=schedule.every,
        choices=choices,
        sums=0 if peers.grid is None else SUMS,
    )


def _write_rest(signals: FreeSignals, journal: Journal, owner: int) -> None:
    if os.getpid() != owner:
        return  # a forked child leaves it alone
    for one in signals.fetch():
        journal.add("step", one)
    journal.close()


def _is_captured() -> bool:
    started: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return started and torch.cuda.is_current_stream_capturing()


def _as_scalar(batch: Any, loss: Tensor | float) -> Tensor | float:
    value = loss.detach() if isinstance(loss, Tensor) else loss
    if (isinstance(value, Tensor) and value.numel() != 1) or not hasattr(value, "__float__"):
        raise unusable_loss(batch, value)
    return value if isinstance(value, Tensor) else float(value)
