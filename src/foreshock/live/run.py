"""One run as it grows: its columns, what it announced and did, and a state in words."""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foreshock.explain import History, explain_event
from foreshock.live.charts import CHARTS, COLUMNS
from foreshock.live.curve import Curve
from foreshock.live.happened import Happened
from foreshock.live.headline import Headline, Situation, headline
from foreshock.live.log import KEPT, Log, columns_of, ratios
from foreshock.live.speed import Speed
from foreshock.live.tail import CHUNK, LogTail
from foreshock.representation import short_line
from foreshock.runlog.decoding import is_count
from foreshock.runlog.numbers import as_number, as_share
from foreshock.runlog.reader import check_readable, joined, rows_of, run_of, up_to
from foreshock.runlog.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from numpy.typing import NDArray

    from foreshock.explain import Explanation
    from foreshock.report.ranks import Departure
    from foreshock.runlog import Run
    from foreshock.spikes import LossEvent

_KNOWN_AFTER = 60  # steps after an event: what comes later says no more of its cause
_FEWEST = 2  # values that make a line


class LiveRun:
    """A run whose log is followed.

    Everything but the constructor may be called from any thread.

    Args:
        path: The log.
        name: Name to show until the log says another.
        only: Fields of step records to keep, as far as that saves time; None for all.

    Attributes:
        key: What stands for the run in a request: it says nothing of where the log is.
        lock: Held while anything below is read together, or changed.
        version: Changes whenever anything does.
        generation: Changes whenever what was drawn is no longer true: the log was replaced, or a session
            resumed from an earlier step.
        curves: Columns by kind of record.
        log: What the run recorded besides numbers.
        error: Why the log can't be read; empty if it can.
        first_step: First step in this log, without those of a run that it goes on from; None before it.
        label: What tells the run apart from others that are watched; its name where there is no other of it.
    """

    def __init__(self, path: Path, *, name: str, only: Collection[str] | None = None) -> None:
        self.path = path
        self.key = hashlib.sha256(str(path).encode(errors="surrogateescape")).hexdigest()[:12]
        self.lock = threading.RLock()
        self.version = self.generation = 0
        self.curves = {kind: Curve(names) for kind, names in COLUMNS.items()}
        self.curves["step"] = Curve((*COLUMNS["step"], "measured"))
        self.curves["forecast"] = Curve((*COLUMNS["forecast"], "said"))
        self.log = Log()
        self.error = ""
        self.first_step: int | None = None
        self.label = ""
        self._place = name
        self._departing: tuple[int, ...] = ()
        self._tail = LogTail(path, only=only)
        self._begun = self._starts = 0
        self._before: Run | None = None
        self._before_at: object = None
        self._seen: dict[str, int] = {}
        self._drawn: Counter[str] = Counter()
        self._happened, self._speed = Happened(), Speed()
        self._news: tuple[tuple[int, bool, bool] | None, Explanation | None] = (None, None)

    # ------------------------------------------------------------------ what the threads do

    def look(self, *, most: int = CHUNK) -> bool:
        """Read what was added to the log; return whether there is more to read at once.

        Args:
            most: Bytes to read at most.
        """
        with self.lock:
            try:
                changed = self._tail.look(most=most)
            except OSError as error:
                self._fail(f"the log can't be read: {error.strerror or error}")
                return False
            if self._tail.begun != self._begun:
                changed, self._begun, self._starts = True, self._tail.begun, 0
                self._before, self._before_at = None, None
                self._restart()
            if changed:
                self._take_new()
                self.version += 1
            return self._tail.behind

    def read_whole(self) -> None:
        """Read the log to its end."""
        while self.look():
            pass

    def scan_whole(self) -> None:
        """Look for spikes in all losses that were read."""
        while self.scan():
            pass

    def go_on_from(self, before: LiveRun | None) -> None:
        """Have the records of an earlier run before one's own: the training was resumed under a new monitor.

        Args:
            before: The run, wholly read; None for none.
        """
        at = None if before is None else before.extent
        with self.lock:
            if at == self._before_at:
                return
        snapshot = None if before is None else before.snapshot()  # never two locks at once
        with self.lock:
            self._before, self._before_at = snapshot, at
            self._restart()
            self._take_all()
            self.version += 1

    def scan(self) -> bool:
        """Look for spikes in losses that were not looked at yet; return whether there are more."""
        with self.lock:
            changed, more = self._happened.look(self.curves["step"])
            self.version += changed
            return more

    def explain_news(self) -> None:
        """Find out why the last event of the loss happened: when it begins, when it is over, and once more.

        Slow: the log is read as a whole, outside of the lock.
        """
        with self.lock:
            events = self.events
            if not events or self._tail.behind or self.last_step is None:
                return
            event, generation, after = events[-1], self.generation, self._happened.end_before(events[-1])
            over = self._happened.going_on is None
            version = (event.onset, over, self.last_step >= event.end + _KNOWN_AFTER)
            if version == self._news[0]:
                return
            self._news = version, self._news[1]
            snapshot = self.snapshot()
        with np.errstate(all="ignore"):
            found = explain_event(History(snapshot), event, after=after)
        with self.lock:
            if generation == self.generation:
                self._news = version, found
                self.version += 1

    def note_departing(self, departures: Sequence[Departure]) -> None:
        """Have the headline name the ranks that depart from the others: who compared them says so.

        Args:
            departures: In what they depart; empty if they agree.
        """
        with self.lock:
            found = tuple(sorted({one.rank for one in departures}))
            self.version += found != self._departing
            self._departing = found

    def call(self, label: str) -> None:
        """Give the run a label.

        Args:
            label: What tells it apart from others.
        """
        with self.lock:
            self.version += label != self.label
            self.label = label

    def snapshot(self) -> Run:
        """Return the run as it is now, for another thread to read at leisure.

        Raises:
            ValueError: If the log has no header, or was written by a newer schema.
        """
        with self.lock:
            own = replace(run_of(self.path, self._tail.sessions, copy=True), skipped=self._tail.skipped)
            return own if self._before is None else joined(self._before, own)

    # ------------------------------------------------------------------ what the page asks

    @property
    def events(self) -> list[LossEvent]:
        """What happened to the loss as far as it was looked at, the one that goes on last."""
        with self.lock:
            return self._happened.events

    def events_by_now(self) -> list[LossEvent]:
        """Return what happened to the loss if the run ended now: what goes on may have diverged already."""
        with self.lock:
            return self._happened.by_now()

    def lead_of(self, event: LossEvent) -> int | None:
        """Return how many steps before an event the alarm began that was on, as the report counts them.

        Args:
            event: One of the `events`.

        Returns:
            Steps from that alarm to the first step of the event; None if it was not announced.
        """
        with self.lock:
            return self._happened.lead_of(event, self.curves["forecast"])

    @property
    def skipped(self) -> int:
        """Lines of the log that could not be read; one that is being written is none of them."""
        return self._tail.skipped + (0 if self._before is None else self._before.skipped)

    @property
    def records(self) -> Mapping[str, Rows]:
        """All records by kind in the order of the log, also those that a resumed session did again."""
        own, before = self._tail.sessions.kinds, self._before
        if before is None:
            return own
        kinds = {**before.records, **own}
        return {kind: rows_of(before, kind).followed_by(own.get(kind, Rows(kind))) for kind in kinds}

    @property
    def created(self) -> str:
        """When the first session began, ISO 8601; empty if the log doesn't say."""
        if self._before is not None:
            return short_line(self._before.created)
        headers = self._tail.sessions.headers
        return short_line(str(headers[0].get("created") or "")) if headers else ""

    @property
    def starts(self) -> int:
        """Number of sessions that recorded something."""
        return self._tail.sessions.starts + (0 if self._before is None else self._before.starts)

    @property
    def number(self) -> int:
        """Which run of its folder it is, as its header says: 1 but where a folder has several."""
        headers = self._tail.sessions.headers
        number: Any = headers[-1].get("number") if headers else None
        return int(number) if is_count(number) else 1

    @property
    def extent(self) -> object:
        """Stands for what has been read: it changes whenever that does."""
        return self.key, self._tail.begun, self._tail.position, self._before_at

    @property
    def written(self) -> float:
        """When the log was last written, seconds since 1970; 0 before the first look."""
        return self._tail.written

    @property
    def read_share(self) -> float:
        """How much of the log was read by now, from 0 to 1."""
        return self._tail.position / self._tail.size if self._tail.size else 1.0

    @property
    def meta(self) -> Mapping[str, Any]:
        """What the last header says of the run."""
        headers = self._tail.sessions.headers
        return headers[-1]["meta"] if headers else {}

    @property
    def name(self) -> str:
        """Name of the run: that of its header, or its place in the folder."""
        return short_line(str(self.meta.get("name") or self._place))

    @property
    def place(self) -> str:
        """Where it is in the watched folder."""
        return short_line(self._place)

    @property
    def last_step(self) -> int | None:
        """The last step with a record of its own; None before the first."""
        steps = self.curves["step"].steps
        return int(steps[-1]) if len(steps) else None

    @property
    def reached(self) -> int | None:
        """How far the run got: its last step, or in a log without steps that of a forecast or an alarm."""
        if self.last_step is not None:
            return self.last_step
        found = [*([self.log.forecast] if self.log.forecast else []), *self.log.alarms[-1:]]
        return max((int(row["step"]) for row in found), default=None)

    def headline(self) -> Headline:
        """Return the state of the run in words, and what to do."""
        with self.lock:
            if self.error:
                return Headline("unreadable", self.error[:1].upper() + self.error[1:], "")
            losses, measured = (self.curves["step"].column(name) for name in ("loss", "measured"))
            happened, alarms = self._happened, self.log.alarms
            return headline(
                Situation(
                    last_step=self.reached,
                    losses=losses[-100:].copy(),
                    events=happened.over,
                    going_on=happened.going_on,
                    explained=self._news[1],
                    forecast=self.log.forecast,
                    lead=self.lead_of(happened.events[-1]) if happened.events else None,
                    alarm=alarms[-1]["step"] if alarms else None,
                    measured=bool(measured.any()),
                    horizon=as_number(self.meta.get("horizon")),
                    guarded=bool(self.meta.get("guard")) or bool(self.log.actions),
                    steps_a_second=self.steps_a_second,
                    imported="imported_from" in self.meta,
                    departing=self._departing,
                )
            )

    @property
    def steps_a_second(self) -> float:
        """Steps that came a second of late; NaN if none did while the log was watched."""
        return self._speed.now(time.monotonic())

    def status(self) -> dict[str, Any]:
        """Return what the list of runs shows of this one: plain JSON values."""
        with self.lock:
            words, step = self.headline(), self.curves["step"]
            ratio = self.curves["ratio"].column("stability_ratio")
            forecast = self.log.forecast or {}
            tail = self._tail
            return {
                "id": self.key,
                "name": self.name,
                "label": self.label or self.name,
                "place": self.place,
                "description": short_line(str(self.meta.get("description") or "")),
                "version": self.version,
                "generation": self.generation,
                "state": words.state,
                "words": words.words,
                "advice": words.advice,
                "step": self.last_step,
                "steps": _plain(as_number(self.meta.get("steps"))),
                "loss": _plain(step.column("loss")[-1]) if len(step) else None,
                "ratio": _plain(ratio[-1]) if len(ratio) else None,
                "probability": _plain(as_share(forecast.get("probability"))),
                "alarm_at": _plain(as_number(self.meta.get("alarm_at"))),
                "speed": _plain(self.steps_a_second),
                "written": tail.written,
                "read": tail.position / tail.size if tail.size else 1.0,
                "charts": [chart.name for chart in CHARTS if self._drawn[chart.name] >= _FEWEST],
                "layers": len(self.log.readings) + len(self.log.tables),
            }

    # ------------------------------------------------------------------ inside

    def _fail(self, why: str) -> None:
        if why != self.error:
            self.error = why
            self.version += 1

    def _restart(self) -> None:
        """Forget what was drawn: it is read again from the sessions."""
        for curve in self.curves.values():
            curve.clear()
        self.log, self._drawn, self._seen = Log(), Counter(), {}
        self.first_step = None
        self._happened, self._speed = Happened(), Speed()
        self._news, self._departing = (None, None), ()
        self.generation += 1

    def _take_new(self) -> None:
        sessions = self._tail.sessions
        try:
            check_readable(self.path, sessions)
        except ValueError as error:
            self._fail(str(error))
            return
        if sessions.starts != self._starts and self._starts:
            # Another session makes obsolete what those before it have of its steps.
            self._restart()
            self._take_all()
        else:
            self._take(sessions.kinds)
            self._note_seen()
        self.error = ""
        if self.last_step is not None and not self._tail.behind:
            self._speed.note(time.monotonic(), self.last_step)

    def _note_seen(self) -> None:
        sessions = self._tail.sessions
        self._starts = sessions.starts
        self._seen = {kind: len(rows) for kind, rows in sessions.kinds.items()}

    def _take_all(self) -> None:
        """Take what is not obsolete: the records of the run that this one goes on from, then its own."""
        own = self._tail.sessions.records()[0]
        first = own["step"].numbers("step").min(initial=math.inf)
        if self._before is not None and math.isfinite(first):
            self._take(
                {kind: up_to(rows_of(self._before, kind), int(first)) for kind in self._before.records}
            )
        self.first_step = None
        self._take(own)
        self._note_seen()

    def _take(self, records: Mapping[str, Rows]) -> None:
        """Take the records that were not seen yet."""
        known: list[NDArray[np.float64]] = []
        for kind, rows in records.items():
            start = self._seen.get(kind, 0)
            if start == len(rows):
                continue
            if kind in KEPT:
                self.log.take(kind, rows, start)
                known += ratios(kind, rows, start)
            if kind in COLUMNS:
                columns, steps = columns_of(kind, rows, start), rows.numbers("step", start=start)
                if kind == "step":
                    lowest = int(steps.min())
                    self.first_step = lowest if self.first_step is None else min(lowest, self.first_step)
                self._extend(kind, steps, columns)
        if known:
            steps, values = np.concatenate(known, axis=1)
            order = np.argsort(steps, kind="stable")
            self._extend("ratio", steps[order], [values[order]])

    def _extend(self, kind: str, steps: NDArray[np.float64], columns: Sequence[NDArray[np.float64]]) -> None:
        known = zip(COLUMNS[kind], columns, strict=False)
        finite = {name: int(np.isfinite(column).sum()) for name, column in known}
        for chart in CHARTS:
            if chart.kind == kind:
                self._drawn[chart.name] += finite[chart.lines[0][2]]
        if not self.curves[kind].extend(steps, columns):
            self.generation += 1
            if kind == "step":
                self._happened = Happened()
            elif kind == "forecast":
                self._happened.forget_announced()


def _plain(value: float) -> float | str | None:
    """Return a number as JSON has it: NaN as null, infinity in words."""
    value = float(value)
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else "∞" if value > 0 else "−∞"
