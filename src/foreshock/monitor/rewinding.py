"""What a monitor does with its recorder: take and write snapshots, and put one back in all processes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from foreshock.monitor.agreement import ASKED, NONE, TROUBLE, Agreement, earliest
from foreshock.monitor.evidence import as_ids
from foreshock.monitor.journal import Journal, process_rank
from foreshock.monitor.ladder import Ladder
from foreshock.monitor.observation import StepObservation
from foreshock.monitor.prospect import what_stays
from foreshock.monitor.recovery import IdsBetween, Recovery
from foreshock.monitor.rewinder import Rewind, Rewinder
from foreshock.monitor.subject import Subject
from foreshock.recorder import Recorder, Snapshot, list_snapshots, load_snapshot
from foreshock.recorder.files import step_of

_APART = 20  # steps from one trouble that is written to the next of the same sort
_LATELY = 200  # steps after a trouble from which on `rewind` does not go back behind it


class Rewinding:
    """Note troubles, and go back where a ladder or the user asks for it.

    Args:
        recorder: The recorder; None does nothing.
        ladder: What to do about troubles; None leaves that to the user.
        subject: What is watched.
        journal: The log.
        every: Steps from one meeting of several processes to the next.

    Attributes:
        recording: Has the recorder.
        recovery: What acts on troubles; None without a ladder.
    """

    def __init__(
        self,
        recorder: Recorder | None,
        ladder: Ladder | None,
        *,
        subject: Subject,
        journal: Journal,
        every: int,
    ) -> None:
        self._subject, self._journal = subject, journal
        # Without a recorder nobody meets: there would be nothing to agree upon.
        self._agreement = Agreement(f"{ladder}, {every}", every=every)
        self.recording = Recording(recorder, journal, self._agreement)
        self._rewinder: Rewinder | None = None
        self.recovery: Recovery | None = None
        optimizers = subject.optimizers
        if recorder is not None:
            self._rewinder = Rewinder(recorder, optimizers, journal, self._agreement)
            if ladder is not None:
                self.recovery = Recovery(
                    ladder, rewinder=self._rewinder, optimizers=optimizers, journal=journal
                )
        self._apart_noted = False
        self._onset: int | None = None  # of the last trouble, for `go_back`

    @property
    def done(self) -> tuple[Rewind, ...]:
        """What was put back so far."""
        return () if self._rewinder is None else tuple(self._rewinder.done)

    @property
    def acts_at_alarms(self) -> bool:
        """Whether a ladder acts at alarms already."""
        return self.recovery is not None and self.recovery.ladder.at == "alarm"

    def judge(self, seen: StepObservation, *, spiking: bool) -> None:
        """Take the numbers of a step into account.

        Args:
            seen: Its free signals.
            spiking: Whether the loss is above its level.
        """
        if not spiking and self._onset is not None and seen.step - self._onset > _LATELY:
            self._onset = None
        if self.recovery is not None:
            self.recovery.judge(seen)
        self.recording.judge(seen.step, finite=math.isfinite(seen.loss + seen.gradient_norm))

    def trouble(self, step: int, what: str, *, seen: int | None = None, finite: bool = True) -> None:
        """Note a trouble.

        Args:
            step: Step at which it began.
            what: What it is, in words.
            seen: Step of the loss that showed it; None for a forecast.
            finite: Whether that loss is finite.
        """
        self._onset = step if self._onset is None else self._onset
        if self.recovery is not None:
            self.recovery.trouble(step, what, seen=seen, finite=finite)

    def changed(self, step: int) -> None:
        """Note that options of the optimizer, or what it trains, are others from a step on.

        Args:
            step: The step.
        """
        if self.recovery is not None:
            self.recovery.changed(step)

    def lost(self, step: int, words: str) -> None:
        """Note that there is nothing to go back to.

        Args:
            step: Step number.
            words: Why.
        """
        if self.recovery is not None:
            self.recovery.lost(step, words)

    def meets(self, step: int, *, deciding: bool) -> bool:
        """Return whether all processes are at a place where they may act on a trouble.

        Args:
            step: Step number.
            deciding: Whether the numbers of this process are read back at this step.
        """
        if self.recording.recorder is None:
            return False
        agreeing = self._agreement.meets(step)
        if self._agreement.refusal and not self._apart_noted:
            self._apart_noted = True
            self._note_apart(step)
        in_doubt = self.recovery is not None and self.recovery.in_doubt
        return agreeing and (deciding or self._agreement.several or in_doubt)

    def act(self, step: int, batch: Any, ids: IdsBetween) -> Snapshot | None:
        """Do what a trouble asks for; return the snapshot that was put back, if one was.

        Args:
            step: The present step, at which all processes are here.
            batch: Its batch.
            ids: Returns the ids of the examples from one step to another.
        """
        if not self._agreement.several and self.recovery is None:
            return None  # nothing to agree upon, and its snapshots are written already
        onset, before = None if self.recovery is None else self.recovery.onset, self.recording.wanted
        own = (float(step), *(NONE if one is None else one for one in (onset, before)))
        rows = self._agreement.exchange(TROUBLE, *own)
        if rows is None or any(row[0] != step for row in rows):
            return None
        onset, before = (earliest([row[place] for row in rows]) for place in (1, 2))
        if before is not None:
            self.recording.write_wanted(before)
        if onset is None or self.recovery is None:
            return None
        stays = None if self._subject.loss_fn is None else partial(self._what_stays, step, batch)
        snapshot = self.recovery.act(step, onset, ids=ids, stays=stays)
        self._onset = None if snapshot is not None else self._onset
        return snapshot

    def _what_stays(self, step: int, batch: Any, snapshot: Snapshot, bar: float) -> str:
        return what_stays(snapshot, step, batch, self._subject, bar=bar)

    def go_back(self, step: int, before: int | None, ids: IdsBetween) -> tuple[Rewind, Snapshot]:
        """Put the newest snapshot from before the last trouble back, see `foreshock.Monitor.rewind`.

        Args:
            step: The present step.
            before: Step of the trouble; None for that of the last one.
            ids: Returns the ids of the examples from one step to another.

        Raises:
            ValueError: If it can't be done.
        """
        rewinder, recorder = self._rewinder, self.recording.recorder
        if rewinder is None or recorder is None:
            raise ValueError("there is nothing to rewind to: pass recorder=foreshock.Recorder() to Monitor")
        before = self._onset if before is None else before
        rows = self._agreement.exchange(ASKED, NONE if before is None else before)
        if rows is None:
            raise ValueError(_not_together(self._agreement))
        before = earliest([row[0] for row in rows])
        snapshot = rewinder.find(before)
        if snapshot is None:
            where = "" if before is None else f" from before step {before}"
            whose = ", in all processes" if self._agreement.several else ""
            raise ValueError(
                f"there is no snapshot in memory{where} whose numbers are finite{whose}; it has steps "
                f"{list(recorder.summary().steps)}: keep more with last=, or more often with every="
                f"{rewinder.failure}"
            )
        factor = 1.0 if self.recovery is None else self.recovery.rate_factor
        done = rewinder.back(snapshot, step, ids=ids(snapshot.step + 1, step), rate_factor=factor)
        self._onset = None
        if self.recovery is not None:
            self.recovery.went_back(snapshot.step, step)
        return done, snapshot

    def close(self, step: int) -> None:
        """Wait until what is being written is on the disk, and take part in nothing any more.

        Args:
            step: Step number.
        """
        self.recording.close(step)
        self._agreement.close()

    def state_dict(self) -> dict[str, Any] | None:
        """Return where the run stands on its ladder; None without one."""
        return None if self.recovery is None else self.recovery.state_dict()

    def load_state_dict(self, state: Mapping[str, Any] | None, step: int) -> None:
        """Go on from `state_dict`.

        Args:
            state: What `state_dict` returned.
            step: Step number.
        """
        if state is None:
            return
        if self.recovery is not None:
            self.recovery.load_state_dict(state)
        elif state["rate_factor"] != 1:
            factor = state["rate_factor"]
            self._journal.event(
                step,
                "rate no longer lowered",
                f"when its state was saved, a ladder of recovery had the learning rate multiplied by "
                f"{factor:g}; this monitor has none, and the rate is what you set: pass the same recovery=, "
                "or lower it yourself",
            )

    def _note_apart(self, step: int) -> None:
        """Say that this process is not rewound, as the others do not take part."""
        if self.recording.wanted is not None:
            self.recording.write_wanted(self.recording.wanted)
        level = logging.INFO if self.recovery is None else logging.WARNING
        self._journal.event(step, "no joint rewind", _not_together(self._agreement), level=level)


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
        """Return the newest whole snapshot from before a step, in memory or on the disk.

        Args:
            folder: The run's folder.
            before: The step.

        Raises:
            FileNotFoundError: If there is none, with those that there are.
        """
        held = None if self.recorder is None else self.recorder.newest(before)
        written = list_snapshots(folder, rank=process_rank())
        damaged = set[int]()
        for one in reversed(written):
            if step_of(one) >= before or (held is not None and step_of(one) <= held.step):
                continue
            try:
                return load_snapshot(one)
            except ValueError as error:
                damaged.add(step_of(one))
                logging.getLogger("foreshock").warning("%s: it is passed over", error)
        if held is not None:
            return held
        steps = sorted({step_of(one) for one in written} - damaged | set(self._steps()))
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


def ladder_of(word: str) -> Ladder:
    """Return the ladder that a word passed as ``on_alarm`` stands for.

    Args:
        word: The word.

    Raises:
        ValueError: If it stands for none.
    """
    if word != "rewind":
        raise ValueError(f"on_alarm is {word!r}; pass a function of an Alarm, 'rewind', or None")
    return Ladder(at="alarm")


def _not_together(agreement: Agreement) -> str:
    why = agreement.refusal or "they have not met yet: that takes the first steps of a run"
    return (
        f"one of several processes is not rewound by itself, and these do not agree ({why}). Let each rank "
        "observe the same steps with a monitor of the same options; or stop the run, and on every rank "
        "restore load_snapshot(run, before=STEP, rank=RANK) of the same STEP"
    )
