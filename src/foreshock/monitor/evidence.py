"""What the log has to hold beyond losses and readings, so that a spike can be explained afterwards."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from foreshock.curvature import name_parameters
from foreshock.dynamics.signals import RunningMedian
from foreshock.explain import TensorTable
from foreshock.explain.changed import lost_second_moment
from foreshock.failures import Failures
from foreshock.isolation import kept_options, several_processes
from foreshock.monitor.changes import Change, ChangeWatch
from foreshock.monitor.journal import Journal
from foreshock.monitor.observation import FreeSignals, StepObservation
from foreshock.monitor.overflow import locate_overflow
from foreshock.monitor.subject import Subject
from foreshock.monitor.tensors import TensorReader

_USUAL, _FEWEST = 50, 10  # steps whose gradients set what is usual, at most and at least
_JUMP = 4.0  # gradient over its median: what is worth a record
_REST = 10  # steps from one such record to the next
_TABLES_APART = 20  # steps from one table of tensors to the next
_MOST = 200  # records of each type in a run
_ROWS, _IDS = 20, 1000
_KEPT_IDS = 200  # steps
_OVERFLOWS = 3  # that are located in a run

Id = int | str


class EvidenceRecorder:
    """Write down what changes, which tensors' gradients jump, and where numbers stop being finite.

    Args:
        subject: What is watched.
        journal: The log.
        signals: The free signals, which have the gradient norms of single tensors.
    """

    def __init__(self, subject: Subject, journal: Journal, signals: FreeSignals) -> None:
        self._subject, self._journal, self._signals = subject, journal, signals
        self._changes = ChangeWatch(subject.model, subject.optimizers)
        self._tensors = TensorReader(subject.model, subject.optimizers)
        self._failures = Failures("evidence")
        self._norms = RunningMedian(_USUAL)
        self._ids: deque[tuple[int, tuple[Id, ...]]] = deque(maxlen=_KEPT_IDS)
        self._jumped = self._tabled = -math.inf
        self._counts = {"gradients": 0, "tensors": 0, "overflow": 0, "data": 0}
        self._last: StepObservation | None = None
        self._before: Mapping[str, Any] | None = None  # of the session that is resumed
        self._updates: int | None = None  # number of an update, less its step
        self._wanted = ""  # why a table is made as soon as gradients are at hand
        self._same = False  # whether the last batch was that of the step before

    def see(self, step: int, ids: Any, *, gradient_scale: float, same_data: bool) -> bool:
        """Take into account what the host knows of a step before anything is read back.

        Args:
            step: Step number.
            ids: What the loader calls the examples of the batch; None if it does not say.
            gradient_scale: What ``.grad`` still has to be divided by.
            same_data: Whether the batch is that of the step before, for certain.

        Returns:
            Whether options of the optimizer, or what it trains, are others from this step on.
        """
        changes = self._changes.compare(step, gradient_scale=gradient_scale)
        for change in changes:
            self._journal.write("change", change)
        if same_data != self._same and self._counts["data"] <= _MOST:
            # The last of many says that nothing more is known.
            same_data = same_data and self._may("data")
            self._journal.write("change", Change(step, "data", {"same": self._same}, {"same": same_data}))
            self._same = same_data
        if ids is not None:
            self._ids.append((step, as_ids(ids)))
        return bool(changes) and any(change.what in ("options", "parameters") for change in changes)

    def judge(self, seen: StepObservation) -> str:
        """Take the numbers of a step into account.

        Args:
            seen: Its free signals.

        Returns:
            What of the optimizer's state was not loaded in a resume at this step, in words; empty if nothing.
        """
        lost = "" if self._before is None else self._write_resume(self._before, seen)
        norm, finite = seen.gradient_norm, math.isfinite(seen.gradient_norm)
        known = len(self._norms.values) >= _FEWEST
        jumps = known and finite and norm > _JUMP * self._norms.median > 0
        if (jumps and seen.step - self._jumped >= _REST) or not finite:
            self._jumped = seen.step if finite else self._jumped
            self._write_gradients(seen.step)
        if not (finite and math.isfinite(seen.loss)):
            self._wanted = "non-finite"
        if finite:
            self._norms.append(norm)
        self._last = seen
        return lost

    def ids_between(self, first: int, last: int) -> tuple[Id, ...]:
        """Return the ids of the examples of some of the last 200 steps, as far as they are known.

        Args:
            first: First step.
            last: Last step.
        """
        return tuple(one for step, ids in self._ids if first <= step <= last for one in ids)

    def want_table(self, reason: str) -> None:
        """Make a table of tensors as soon as gradients are at hand.

        Args:
            reason: Why, see `foreshock.explain.TensorTable`.
        """
        self._wanted = self._wanted or reason

    def write_wanted(self, step: int, batch: Any, *, gradient_scale: float, vector: Tensor | None) -> None:
        """Write the table that is wanted, and where a step stopped being finite; gradients are at hand.

        Args:
            step: Step number.
            batch: The batch of the step.
            gradient_scale: What ``.grad`` still has to be divided by.
            vector: The top eigenvector that was measured last; None if there is none.
        """
        reason, self._wanted = self._wanted, ""
        if self._failures.given_up:
            return
        try:
            self._tensors.remember(step)
            if not reason:
                return
            if step - self._tabled >= _TABLES_APART and self._may("tensors"):
                self._tabled = step
                table = self.table(step, reason, gradient_scale=gradient_scale, vector=vector)
                self._journal.write("tensors", table.shortened())
            if reason == "non-finite" and self._counts["overflow"] < _OVERFLOWS and not several_processes():
                self._counts["overflow"] += 1
                with kept_options(self._subject.optimizers):
                    found = locate_overflow(step, self._subject.model, self._subject.loss_fn, batch)
                self._journal.write("overflow", found)
        except Exception as error:  # noqa: BLE001 - evidence must never end a training run
            self._failures.failed(f"the evidence at step {step} could not be written", error)
            message = f"{type(error).__name__}: {error}"
            self._journal.event(step, "evidence failed", message, level=logging.INFO)

    def table(
        self, step: int, reason: str, *, gradient_scale: float = 1.0, vector: Tensor | None = None
    ) -> TensorTable:
        """Return the table of tensors of the update about to be taken.

        Args:
            step: Step number.
            reason: Why it is made.
            gradient_scale: What ``.grad`` still has to be divided by.
            vector: The top eigenvector that was measured last; None if there is none.
        """
        return self._tensors.read(step, reason, gradient_scale=gradient_scale, vector=vector)

    def note_updates(self, step: int, updates: int | None) -> None:
        """Note which update the optimizer is about to make.

        Args:
            step: Step number.
            updates: Its number t, if it was just read.
        """
        # Read now and then, and one more at each step in between.
        self._updates = self._updates if updates is None else updates - step

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run compares with, as plain values."""
        last = self._last
        before = {} if last is None else _of(last) | {"updates": self._update_of(last.step)}
        return {"before": before, "tensors": self._tensors.state_dict(), "norms": list(self._norms.values)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`; the first step is compared with the last one of then."""
        self._before, self._updates = state["before"] or None, None
        self._tensors.load_state_dict(state["tensors"])
        self._norms = RunningMedian(_USUAL, state["norms"])

    def _write_resume(self, before: Mapping[str, Any], seen: StepObservation) -> str:
        """Write both sides of a resume; return what of the optimizer's state was lost, in words."""
        self._before = None
        after = _of(seen) | {"updates": self._update_of(seen.step)}
        self._journal.write("change", Change(seen.step, "resume", before, after))
        if not lost_second_moment({"before": before, "after": after}):
            return ""
        return (
            f"the second moment of the first step is {after['second_moment']:.3g}, and it was "
            f"{before['second_moment']:.3g} when the monitor's state was saved: v was not loaded, so that "
            "the next steps are far larger than they were; load optimizer.load_state_dict() from the same "
            "checkpoint"
        )

    def _update_of(self, step: int) -> int | None:
        return None if self._updates is None else self._updates + step

    def _write_gradients(self, step: int) -> None:
        """Write which tensors' gradients jumped at a step, and which examples it saw."""
        if not self._may("gradients"):
            return
        record: dict[str, Any] = {"step": step}
        found = self._signals.tensor_norms(step)
        if found is not None:
            parameters, norms, usual = found
            names = [name for name, _ in name_parameters(self._subject.model, parameters)]
            record |= _jumps(names, norms, usual)
        ids = next((ids for at, ids in self._ids if at == step), None)
        if ids is not None:
            record["ids"] = ids
        self._journal.write("gradients", record)

    def _may(self, kind: str) -> bool:
        self._counts[kind] += 1
        return self._counts[kind] <= _MOST


def _of(seen: StepObservation) -> dict[str, Any]:
    names = ("step", "loss", "learning_rate", "second_moment", "instant_lag", "gradient_norm")
    return {name: getattr(seen, name) for name in names}


def _jumps(names: Sequence[str], norms: Sequence[float], usual: Sequence[float]) -> dict[str, Any]:
    rows = [
        {"name": name, "norm": norm, "usual": before}
        for name, norm, before in zip(names, norms, usual, strict=True)
        if math.isfinite(norm)
    ]
    rows.sort(key=lambda row: -row["norm"] / row["usual"] if row["usual"] > 0 else 0.0)  # type: ignore[operator]
    lost = [name for name, norm in zip(names, norms, strict=True) if not math.isfinite(norm)]
    return {"rows": rows[:_ROWS], "non_finite": lost[:_ROWS]}


def as_ids(ids: Any) -> tuple[Id, ...]:
    """Return ids as plain values: of a tensor its entries, of anything else what it holds.

    Args:
        ids: What the loader calls the examples of a batch.
    """
    plain = ids.tolist() if hasattr(ids, "tolist") else ids
    listed = list(plain) if isinstance(plain, (list, tuple, range, set)) else [plain]
    return tuple(one if isinstance(one, (int, str)) else str(one) for one in listed[:_IDS])
