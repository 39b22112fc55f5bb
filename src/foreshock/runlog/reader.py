"""The reader of a run log: what it can't read costs one line, and is counted."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshock.runlog.decoding import is_count
from foreshock.runlog.encoding import SCHEMA
from foreshock.runlog.folders import has_records, last_created, numbered, rank_files, runs_of
from foreshock.runlog.rows import Records, Rows
from foreshock.runlog.sessions import Sessions

_AT_ONCE = 1 << 20  # bytes read from a log at once
_GAP = 100  # steps that an interrupted run may lack at its end, of which another still goes on from it


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
    records, left_out = Records(), 0
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
