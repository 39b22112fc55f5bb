"""What a monitor asks of its recorder: a snapshot now and then, and one on disk when there is trouble."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from foreshock.monitor.agreement import Agreement
from foreshock.monitor.evidence import as_ids
from foreshock.monitor.journal import Journal, process_rank
from foreshock.recorder import Recorder, Snapshot, list_snapshots, load_snapshot
from foreshock.recorder.files import step_of

_APART = 20  # steps from one trouble that is written to the next of the same sort


class Recording:
    """Feed a recorder, and log what it wrote.

    Several processes that agree write the same step, or none.

    Args:
        recorder: The recorder; None does nothing.
        journal: The log, in whose folder snapshots go.
        agreement: What all processes agree upon.
    """

    def __init__(self, recorder: Recorder | None, journal: Journal, agreement: Agreement) -> None:
        self.recorder = recorder
        self._journal, self._agreement = journal, agreement
        self._wanted: tuple[int, str] | None = None
        self._written: dict[str, int] = {}
        self._finite = True
        self._noted: set[str] = set()

    def see(
        self, step: int, loss: Tensor | float, batch: Any, ids: Any, *, dense: bool, note: Callable[[], Any]
    ) -> None:
        """Take a snapshot of a step if one is due.

        Args:
            step: Step number.
            loss: Its loss.
            batch: Its batch.
            ids: What the loader calls its examples; None if unknown.
            dense: Whether there is an alarm.
            note: Returns what the monitor knows of the run.
        """
        if self.recorder is None:
            return
        known = () if ids is None else as_ids(ids)
        self.recorder.take(step, loss=loss, batch=batch, ids=known, dense=dense, note=note)

    def judge(self, step: int, *, finite: bool) -> None:
        """Have a snapshot written where a loss or gradient stops being finite.

        Args:
            step: Step number.
            finite: Whether both are.
        """
        before, self._finite = self._finite, finite
        if before and not finite:
            self.write("non-finite", before=step)

    def write(self, why: str, *, before: int) -> None:
        """Have the newest snapshot from before a step written into the run's folder, off this thread.

        Processes that agree do so at their next meeting.

        Args:
            why: What came at that step, in a word.
            before: The step.
        """
        path, last = self._journal.path, self._written.get(why)
        if self.recorder is None or path is None or (last is not None and before - last < _APART):
            return
        self._written[why] = before
        if self._wanted is None or before < self._wanted[0]:
            self._wanted = before, f"{why} at step {before}"
        if not self._agreement.several or self._agreement.refusal:
            self.write_wanted(self._wanted[0])

    @property
    def wanted(self) -> int | None:
        """Step from before which this process wants a snapshot written; None if it doesn't."""
        return None if self._wanted is None else self._wanted[0]

    def write_wanted(self, before: int) -> None:
        """Have the newest snapshot from before a step written now.

        Args:
            before: The step: `wanted`, or an earlier one of another process.
        """
        reason = f"trouble of another process at step {before}" if self._wanted is None else self._wanted[1]
        self._wanted, path = None, self._journal.path
        if self.recorder is not None and path is not None:
            self.recorder.write(path.parent, reason=reason, before=before, rank=process_rank())

    def newest(self, folder: Path, *, before: int) -> Snapshot:
        """Return the newest snapshot from before a step, in memory or on the disk.

        Args:
            folder: The run's folder.
            before: The step.

        Raises:
            FileNotFoundError: If there is none, with those that there are.
        """
        held = None if self.recorder is None else self.recorder.newest(before)
        written = list_snapshots(folder, rank=process_rank())
        fitting = [one for one in written if step_of(one) < before]
        if fitting and (held is None or step_of(fitting[-1]) > held.step):
            return load_snapshot(fitting[-1])
        if held is not None:
            return held
        steps = sorted({step_of(one) for one in written} | set(self._steps()))
        there = f"there are those of steps {', '.join(map(str, steps))}" if steps else "there is none at all"
        raise FileNotFoundError(
            f"no snapshot was taken before step {before}: {there}. Pass recorder=foreshock.Recorder() to "
            "Monitor; last= keeps more of them in memory, every= takes them more often"
        )

    def _steps(self) -> tuple[int, ...]:
        return () if self.recorder is None else self.recorder.summary().steps

    def tell(self, step: int) -> None:
        """Log what the recorder wrote or could not do since the last call.

        Args:
            step: Step number.
        """
        if self.recorder is None:
            return
        for of, words in self.recorder.news():
            failed = words.startswith("it could not")
            message = f"the snapshot of step {of}: {words}"
            level = logging.WARNING if failed else logging.INFO
            self._journal.event(step, "snapshot failed" if failed else "snapshot", message, level=level)
        for note in self.recorder.summary().notes:
            if note not in self._noted:
                self._noted.add(note)
                self._journal.event(step, "recorder", note, level=None)

    def close(self, step: int) -> None:
        """Wait until what is being written is on the disk.

        Args:
            step: Step number.
        """
        if self.recorder is not None:
            if self._wanted is not None:  # the others are not waited for at the end
                self.write_wanted(self._wanted[0])
            self.recorder.close()
            self.tell(step)
