"""The reader of a run log: what it can't read costs one line, and is counted."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshock.runlog.bulk import STEP, StepLines
from foreshock.runlog.decoding import LAST_STEP, Header, RowDecoder, is_count
from foreshock.runlog.encoding import SCHEMA
from foreshock.runlog.folders import has_records, last_created, numbered, rank_files, runs_of
from foreshock.runlog.rows import Rows, Shape

_AT_ONCE = 1 << 20  # bytes read from a log at once
_LINES = 256  # lines that are taken at once: where one of them is odd, all are taken one by one
_MOST_SKIPPED = 64  # lots of lines that are not tried at once after several could not be
_GAP = 100  # steps that an interrupted run may lack at its end, of which another still goes on from it


class _Records(dict[str, Any]):
    """Records by kind; there are none of a kind that never occurred."""

    def __missing__(self, kind: str) -> Rows:
        return Rows(kind)


@dataclass(frozen=True)
class Run:
    """A run as read from its log.

    Attributes:
        path: The file it was read from.
        meta: `meta` of the last header.
        created: Time of the first header, ISO 8601.
        version: Version of Foreshock that wrote the last session.
        schema: Schema that the last session was written with; `records` are of the present one.
        starts: Number of sessions that recorded something: one, and one more for each time it was resumed.
        records: Records by kind, ordered by step; ``records["alarm"]`` of a run without alarms has none.
        skipped: Lines that could not be read: a torn last line, for instance, or a loss that is no number.
        number: Which run of its folder it is: the folder may have several, see `foreshock.runlog`.
        obsolete: Records that are left out because a resumed session did their steps again.
        earlier: Logs of the other runs in the same folder, from the one that was started first. Pass one to
            `read_run` to read it.
        joined: Logs of earlier runs whose records are among these, because this one began at a step that they
            got to.
        resumed: First step of each session but the first, as far as it is known.
    """

    path: Path
    meta: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""
    version: str = ""
    schema: int = SCHEMA
    starts: int = 1
    records: Mapping[str, Sequence[dict[str, Any]]] = field(default_factory=dict)
    skipped: int = 0
    number: int = 1
    obsolete: int = 0
    earlier: tuple[Path, ...] = ()
    joined: tuple[Path, ...] = ()
    resumed: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Name of the run: that of its description, or of its folder."""
        folder = self.path.parent
        place = folder.name if self.number == 1 else f"{folder.parent.name}/{folder.name}"
        return str(self.meta.get("name") or place or self.path.stem)

    def __repr__(self) -> str:
        """Return one line: the file, the steps, the sessions, and how many records there are of each kind."""
        counts = ", ".join(f"{len(rows)} {kind}" for kind, rows in self.records.items() if rows)
        steps = [row["step"] for rows in self.records.values() if rows for row in (rows[0], rows[-1])]
        span = f"steps {min(steps)}–{max(steps)}" if steps else "no steps"
        sessions = "1 session" if self.starts == 1 else f"{self.starts} sessions"
        return f"<Run {self.path}: {span}, {sessions}, records: {counts or 'none'}>"

    def _repr_html_(self) -> str:
        from foreshock.cards import Card, Curve
        from foreshock.runlog.values import recorded_losses

        steps, losses = recorded_losses(self)
        kinds = ", ".join(f"{len(rows):,} {kind}" for kind, rows in self.records.items() if rows)
        failed = int((~np.isfinite(losses)).sum())
        rows = (
            ("file", str(self.path)),
            ("steps", f"{steps[0]:,} to {steps[-1]:,}" if len(steps) else "none"),
            ("sessions", str(self.starts)),
            ("records", kinds or "none"),
            ("not finite", f"{failed:,} losses" if failed else ""),
        )
        curve = Curve(steps, losses, "loss", "step") if len(steps) else None
        return Card(f"Run {self.name}", rows, curve)._repr_html_()

    def column(self, kind: str, name: str) -> NDArray[np.float64]:
        """Return one field of all records of a kind, shape (n,); missing and null become NaN.

        Args:
            kind: Kind of the records, as in the table of this module; of one that has none, n is zero.
            name: Name of a field that holds numbers, for instance ``"loss"`` of ``"step"``.

        Raises:
            ValueError: If the field holds something else than numbers.
        """
        rows = self.records.get(kind, [])
        if isinstance(rows, Rows):
            return rows.numbers(name)
        values = (row.get(name) for row in rows)
        return np.array([math.nan if v is None else float(v) for v in values], dtype=np.float64)

    def steps(self, kind: str) -> NDArray[np.int64]:
        """Return the steps of all records of a kind, shape (n,).

        Args:
            kind: Kind of the records; of one that has none, n is zero.
        """
        rows = self.records.get(kind, [])
        if isinstance(rows, Rows):  # floats have every integer up to the largest step
            return rows.numbers("step").astype(np.int64)
        return np.array([row["step"] for row in rows], dtype=np.int64)


def read_run(run: str | os.PathLike[str], *, rank: int | None = None) -> Run:
    """Read a run, also while it is being written.

    Args:
        run: Folder of the run, or a ``.jsonl`` file of it. Of several runs in one folder the one is read that
            was started or resumed last.
        rank: Which rank's file to read from a folder; None for the first that there is, which is rank 0 but
            where that one could not write.

    Returns:
        The run, its records by kind.

    Raises:
        FileNotFoundError: If there is no log, with what is there instead.
        ValueError: If the log was written by a newer schema, or has no header.

    Example:
        >>> import foreshock, tempfile
        >>> folder = tempfile.mkdtemp()
        >>> log = foreshock.runlog.RunLogWriter(folder)
        >>> for step in range(3):
        ...     log.write("step", {"step": step, "loss": 0.5**step})
        >>> run = read_run(folder)  # also while it is still being written
        >>> run.column("step", "loss").tolist(), run.steps("step").tolist()
        ([1.0, 0.5, 0.25], [0, 1, 2])
        >>> log.close()
    """
    path, earlier = find_log(Path(run), rank)
    found = _read(path, earlier)
    for before in reversed(earlier):
        if not _may_go_on(found):
            break
        try:
            found = joined(_read(before), found)
        except (OSError, ValueError):  # one that can't be read is none that this one goes on from
            continue
    return found


def _read(path: Path, earlier: tuple[Path, ...] = ()) -> Run:
    sessions = Sessions()
    with path.open("rb") as lines:
        # Not further than this: a writer may be faster than the reader.
        left = os.fstat(lines.fileno()).st_size
        while left > 0 and (some := lines.readlines(min(left, _AT_ONCE))):
            for line in some:
                left -= len(line)
            sessions.take_many(some)
    return run_of(path, sessions, earlier=earlier)


def _may_go_on(run: Run) -> bool:
    """Return whether a run begins with a step that another one must have led up to."""
    steps = run.steps("step")
    return run.number > 1 and bool(len(steps)) and int(steps[0]) > 0


def goes_on(first: int, *, old_first: int, old_last: int) -> bool:
    """Return whether a run that begins at a step goes on from one that has some steps.

    Args:
        first: First step of the later run.
        old_first: First step of the earlier run.
        old_last: Its last step.
    """
    return old_first < first <= old_last + _GAP


def joined(before: Run, after: Run) -> Run:
    """Return two runs of one folder as one, if the later begins at a step that the earlier got to.

    That is a training which was resumed under a monitor whose state was not: its steps are numbered by the
    user, and its first records are in a log of their own.

    Args:
        before: The run that was started earlier.
        after: The run that was started later; returned as it is where it does not go on from the other.
    """
    old, first = before.steps("step"), int(after.steps("step")[0])
    if not len(old) or not goes_on(first, old_first=int(old[0]), old_last=int(old[-1])):
        return after
    records, left_out = _Records(), 0
    for kind in {**before.records, **after.records}:
        rows = rows_of(before, kind)
        kept = up_to(rows, first)
        left_out += len(rows) - len(kept)
        records[kind] = kept.followed_by(rows_of(after, kind))
    return replace(
        after,
        created=before.created,
        starts=before.starts + after.starts,
        records=records,
        skipped=before.skipped + after.skipped,
        obsolete=before.obsolete + left_out + after.obsolete,
        earlier=tuple(path for path in after.earlier if path != before.path),
        joined=(before.path, *after.joined),
        resumed=(*(step for step in before.resumed if step < first), first, *after.resumed),
    )


def up_to(rows: Rows, step: int) -> Rows:
    """Return the records of the steps before one, in the same order.

    Args:
        rows: The records.
        step: The first step that is left out.
    """
    return rows.selected(np.flatnonzero(rows.numbers("step") < step))


def rows_of(run: Run, kind: str) -> Rows:
    """Return the records of a kind of a run as read from its log.

    Args:
        run: The run.
        kind: Kind of the records; of one that has none, there are none.
    """
    rows = run.records.get(kind)
    return rows if isinstance(rows, Rows) else Rows(kind)


def run_of(path: Path, sessions: Sessions, *, earlier: tuple[Path, ...] = (), copy: bool = False) -> Run:
    """Return the run that the lines read so far make.

    Args:
        path: The log that they are from.
        sessions: The lines.
        earlier: Logs of the other runs in its folder.
        copy: Whether the run shares nothing with `sessions`, so that another thread may read it while lines
            are added.

    Raises:
        ValueError: If the log was written by a newer schema, or has no header.
    """
    check_readable(path, sessions)
    first, last = sessions.headers[0], sessions.headers[-1]
    records, obsolete = sessions.records(copy=copy)
    return Run(
        path,
        meta=last["meta"],
        created=str(first.get("created", "")),
        version=str(last.get("foreshock", "")),
        schema=int(last["schema"]),
        starts=max(sessions.starts, 1),
        records=records,
        skipped=sessions.skipped,
        number=last["number"] if is_count(last.get("number")) else 1,
        obsolete=obsolete,
        earlier=earlier,
        resumed=sessions.resumed,
    )


def check_readable(path: Path, sessions: Sessions) -> None:
    """Refuse lines that make no run.

    Args:
        path: The log that they are from.
        sessions: The lines.

    Raises:
        ValueError: If the log was written by a newer schema, or has no header.
    """
    if not sessions.headers and sessions.skipped and sessions.starts:
        # Of a header that can't be read only what it says is lost.
        sessions.headers.append({"schema": SCHEMA, "meta": {}})
    if not sessions.headers:
        raise ValueError(f"{path} {_why_no_header(path)}")
    newest = max(int(header["schema"]) for header in sessions.headers)
    if newest > SCHEMA:
        raise ValueError(
            f"{path} was written with schema {newest}, this version reads up to {SCHEMA}: "
            "upgrade with pip install --upgrade foreshock"
        )


class Sessions:
    """The lines of a log, read one after the other.

    A line that can't be read may have been the header of a session, so that from then on rows are read by
    what they have, not by the schema of the session before, and steps that go back begin another session.

    Args:
        only: Fields of step records to keep where many are taken at once; None for all.
    """

    def __init__(self, *, only: Collection[str] | None = None) -> None:
        self._only = only
        self.headers: list[dict[str, Any]] = []
        self.skipped = 0
        self._kinds: dict[str, _Kind] = {}
        self._first_steps: list[int] = []  # of each session
        self._begins = True
        self._old = True  # whether the next row may be of schema 1
        self._broken = False
        self._last_step = -1  # of a step record
        self._decoder = RowDecoder()
        self._steps: StepLines | None = None
        self._skip = self._skipping = 0

    @property
    def starts(self) -> int:
        """Number of sessions that have a record."""
        return len(self._first_steps)

    @property
    def resumed(self) -> tuple[int, ...]:
        """First steps of the sessions but the first that are not obsolete."""
        found: list[int] = []
        lowest = LAST_STEP + 1
        # From the last session back, so that it takes linear time.
        for step in reversed(self._first_steps[1:]):
            if step < lowest:
                found.append(step)
            lowest = min(lowest, step)
        return tuple(reversed(found))

    def take(self, line: bytes) -> None:
        """Take the next line into account."""
        found = self._decoder.decode(line, old=self._old)
        if found is None:
            self.skipped += 1
            self._broken = self._old = True
        elif isinstance(found, Header):
            self.headers.append(found.row)
            self._begins, self._broken = True, False
            self._old = found.row["schema"] == 1
        else:
            self._take_row(*found)

    def take_many(self, lines: Sequence[bytes]) -> None:
        """Take the next lines into account, as `take` does one after the other, in less time.

        Args:
            lines: The lines, each with its line break.
        """
        for begin in range(0, len(lines), _LINES):
            some = lines[begin : begin + _LINES]
            if self._skip:
                self._skip -= 1
            elif self._take_at_once(some):
                self._skipping = 0
                continue
            else:
                self._skip = self._skipping = min(2 * self._skipping + 1, _MOST_SKIPPED)
            for line in some:
                self.take(line)

    def _take_at_once(self, lines: Sequence[bytes]) -> bool:
        """Take lines none of which begins a session or can't be read; return whether these were such.

        Only then it makes no difference in which order records of different kinds come.
        """
        if self._begins or self._broken or self._old:
            return False
        steps = [line for line in lines if line.startswith(STEP)]
        pattern = self._pattern(steps)
        columns = None if pattern is None else pattern.columns(steps)
        if pattern is None or columns is None:
            return False
        others = [self._decoder.decode(line, old=False) for line in lines if not line.startswith(STEP)]
        if any(found is None or isinstance(found, Header) for found in others):
            return False
        self._last_step = int(columns[pattern.place][-1])
        self._of_session("step").rows.extend(pattern.kept, columns)
        for found in others:
            if isinstance(found, tuple):
                self._take_row(*found)
        return True

    def _pattern(self, steps: Sequence[bytes]) -> StepLines | None:
        """Return what takes apart lines of the form of the last of some; None if there can't be such."""
        found = self._decoder.decode(steps[-1], old=False) if steps else None
        kind = self._kinds.get("step")
        if not isinstance(found, tuple) or kind is None or not kind.rows.has(found[0]):
            return None
        if self._steps is None or self._steps.shape is not found[0]:
            self._steps = StepLines(found[0], only=self._only) if StepLines.fits(found[0]) else None
        return self._steps

    @property
    def kinds(self) -> Mapping[str, Rows]:
        """All records by kind in the order of the log, also those that are obsolete."""
        return {name: kind.rows for name, kind in self._kinds.items()}

    def records(self, *, copy: bool = False) -> tuple[dict[str, Rows], int]:
        """Return the records by kind, ordered by step, and the number of those that are obsolete.

        Args:
            copy: Whether they share nothing with what is read on.
        """
        # A session makes obsolete what those before it have of its first step and of later ones.
        firsts = np.array([*self._first_steps, LAST_STEP + 1], dtype=np.int64)
        limits = np.minimum.accumulate(firsts[::-1])[::-1][1:]
        obsolete, found = 0, _Records()
        for name, kind in self._kinds.items():
            steps = kind.rows.numbers("step").astype(np.int64)
            counts = np.diff([*kind.begins, len(steps)])
            kept = np.flatnonzero(steps < np.repeat(limits[kind.sessions], counts))
            obsolete += len(steps) - len(kept)
            found[name] = kind.rows.selected(kept[np.argsort(steps[kept], kind="stable")], copy=copy)
        return found, obsolete

    def _take_row(self, shape: Shape, row: dict[str, Any]) -> None:
        name, step = shape.kind, row["step"]
        if name == "step":
            self._begins |= self._broken and step <= self._last_step
            self._broken = False
            self._last_step = step
        if self._begins:
            self._first_steps.append(step)
            self._begins = False
        self._of_session(name).rows.append(shape, row)

    def _of_session(self, name: str) -> _Kind:
        """Return what is kept of a kind, with a mark where the present session begins."""
        kind = self._kinds.get(name)
        if kind is None:
            kind = self._kinds[name] = _Kind(Rows(name))
        session = len(self._first_steps) - 1
        if session != kind.session:
            kind.session = session
            kind.sessions.append(session)
            kind.begins.append(len(kind.rows))
        return kind


@dataclass(slots=True)
class _Kind:
    """Records of one kind, and at which of them which session begins."""

    rows: Rows
    session: int = -1
    sessions: list[int] = field(default_factory=list)
    begins: list[int] = field(default_factory=list)


def find_log(run: Path, rank: int | None = None) -> tuple[Path, tuple[Path, ...]]:
    """Return the log to read, and those of the other runs in its folder.

    Args:
        run: Folder of the run, or a ``.jsonl`` file of it.
        rank: Which rank's file of a folder; None for the first that there is.

    Raises:
        FileNotFoundError: If there is no log, with what is there instead.
    """
    named = run.suffix == ".jsonl" and not run.is_dir()
    path, earlier = (run, ()) if named else _last_started(run, f"rank{rank or 0}.jsonl")
    if rank is None and not path.is_file() and (others := rank_files(path.parent)):
        return others[0], earlier
    if path.is_file():
        return path, earlier
    near = sorted(str(p.parent) for p in run.glob("**/rank0.jsonl")) if run.is_dir() else []
    hint = f"runs below it: {', '.join(near[:5])}" if near else "give the folder passed as run=…"
    raise FileNotFoundError(f"no run log at {path}; {hint}")


def _last_started(run: Path, name: str) -> tuple[Path, tuple[Path, ...]]:
    runs = runs_of(run)
    if len(runs) < 2:
        return (numbered(run, runs[0][0]) if runs else run) / name, ()
    # A run may have been resumed after a later one had been started: then it is the one of interest.
    ordered = sorted(runs, key=lambda found: (last_created(found[1][0]), found[0]))
    *earlier, last = (numbered(run, number) / name for number, _ in ordered)
    return last, tuple(path for path in earlier if has_records(path))


def _why_no_header(path: Path) -> str:
    if path.stat().st_size == 0:
        return "is empty: the run that it belongs to has logged no step yet"
    return "has no header line: it is not a Foreshock run log"
