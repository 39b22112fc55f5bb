"""The reader of a run log: what it can't read costs one line, and is counted."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshock.runlog.encoding import NON_FINITE, SCHEMA
from foreshock.runlog.folders import has_records, last_created, numbered, runs_of

_NON_FINITE = dict(NON_FINITE)
# Fields that are numbers, or null, in all that a report draws: a line that has something else there was
# damaged or written by hand, and one such line must not cost the reader all others.
_NUMBERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "step": ("loss", "instant_lag", "lag_ratio", "decay_exponent"),
        "curvature": (
            "stability_ratio",
            "error_bound",
            "gradient_stability_ratio",
            "update_stability_ratio",
            "alignment",
            "products",
            "seconds",
        ),
        "forecast": (
            "stability_ratio",
            "steps_to_instability",
            "interval_low",
            "interval_high",
            "mean_square_ratio",
            "typical_mean_square_ratio",
            "lag",
        ),
    }
)
# The largest step that a page can count to: its numbers are those of JavaScript.
_LAST_STEP = 2**53


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
        records: Records by kind, ordered by step.
        skipped: Lines that could not be read: a torn last line, for instance, or a loss that is no number.
        number: Which run of its folder it is: the folder may have several, see `foreshock.runlog`.
        obsolete: Records that are left out because a resumed session did their steps again.
        earlier: Logs of the other runs in the same folder, from the one that was started first. Pass one to
            `read_run` to read it.
    """

    path: Path
    meta: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""
    version: str = ""
    schema: int = SCHEMA
    starts: int = 1
    records: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    skipped: int = 0
    number: int = 1
    obsolete: int = 0
    earlier: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        """Name of the run: that of its description, or of its folder."""
        folder = self.path.parent
        place = folder.name if self.number == 1 else f"{folder.parent.name}/{folder.name}"
        return str(self.meta.get("name") or place or self.path.stem)

    def __repr__(self) -> str:
        """Return one line: the file, the steps, the sessions, and how many records there are of each kind."""
        counts = ", ".join(f"{len(rows)} {kind}" for kind, rows in self.records.items() if rows)
        steps = [row["step"] for rows in self.records.values() for row in rows[:1] + rows[-1:]]
        span = f"steps {min(steps)}–{max(steps)}" if steps else "no steps"
        sessions = "1 session" if self.starts == 1 else f"{self.starts} sessions"
        return f"<Run {self.path}: {span}, {sessions}, records: {counts or 'none'}>"

    def column(self, kind: str, name: str) -> NDArray[np.float64]:
        """Return one field of all records of a kind, shape (n,); missing and null become NaN.

        Args:
            kind: Kind of the records, as in the table of this module; of one that has none, n is zero.
            name: Name of a field that holds numbers, for instance ``"loss"`` of ``"step"``.

        Raises:
            ValueError: If the field holds something else than numbers.
        """
        values = (row.get(name) for row in self.records.get(kind, []))
        return np.array([math.nan if v is None else float(v) for v in values], dtype=np.float64)

    def steps(self, kind: str) -> NDArray[np.int64]:
        """Return the steps of all records of a kind, shape (n,).

        Args:
            kind: Kind of the records; of one that has none, n is zero.
        """
        return np.array([row["step"] for row in self.records.get(kind, [])], dtype=np.int64)


def read_run(run: str | os.PathLike[str], *, rank: int = 0) -> Run:
    """Read a run, also while it is being written.

    Args:
        run: Folder of the run, or a ``.jsonl`` file of it. Of several runs in one folder the one is read that
            was started or resumed last.
        rank: Which rank's file to read from a folder.

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
    path, earlier = _log_path(Path(run), rank)
    headers: list[dict[str, Any]] = []
    records: dict[str, list[dict[str, Any]]] = {}
    skipped = obsolete = 0
    starts = 0
    restarted = True
    with path.open("rb") as lines:
        # Not further than this: a writer may be faster than the reader.
        left = os.fstat(lines.fileno()).st_size
        for line in lines:
            if left <= 0:
                break
            left -= len(line)
            row = _decode_line(line)
            if row is None:
                skipped += 1
            elif row["kind"] == "header":
                headers.append(row)
                restarted = True
            else:
                if restarted:
                    starts += 1
                    obsolete += _drop_from(records, row["step"])
                    restarted = False
                # Each session says how its rows were written: a resumed run may have been upgraded between.
                if headers and headers[-1]["schema"] == 1:
                    _upgrade_from_1(row)
                records.setdefault(row["kind"], []).append(row)
    for rows in records.values():
        rows.sort(key=itemgetter("step"))
    if not headers:
        raise ValueError(f"{path} {_why_no_header(path)}")
    newest = max(int(header["schema"]) for header in headers)
    if newest > SCHEMA:
        raise ValueError(
            f"{path} was written with schema {newest}, this version reads up to {SCHEMA}: "
            "upgrade with pip install --upgrade foreshock"
        )
    last = headers[-1]
    return Run(
        path,
        meta=last["meta"],
        created=str(headers[0].get("created", "")),
        version=str(last.get("foreshock", "")),
        schema=int(last["schema"]),
        starts=max(starts, 1),
        records=records,
        skipped=skipped,
        number=last["number"] if _is_count(last.get("number")) else 1,
        obsolete=obsolete,
        earlier=earlier,
    )


def _log_path(run: Path, rank: int) -> tuple[Path, tuple[Path, ...]]:
    """Return the log to read, and those of the other runs in its folder."""
    named = run.suffix == ".jsonl" and not run.is_dir()
    path, earlier = (run, ()) if named else _last_started(run, f"rank{rank}.jsonl")
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


def _decode_line(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
        if b"\\ud" in line.lower():
            # JSON can spell half of a surrogate pair, which no file and no terminal takes.
            row = json.loads(json.dumps(row, ensure_ascii=False).encode(errors="replace"))
        if not isinstance(row, dict):
            return None
        if row.get("kind") == "header":
            return row if _is_header(row) else None
        row = _decode(row)
    except (ValueError, RecursionError):
        return None
    return row if _is_record(row) else None


def _is_header(row: Mapping[str, Any]) -> bool:
    return _is_count(row.get("schema")) and row["schema"] >= 1 and isinstance(row.get("meta"), dict)


def _is_record(row: Mapping[str, Any]) -> bool:
    kind = row.get("kind")
    if not (isinstance(kind, str) and _is_count(row.get("step"))):
        return False
    if kind == "event":
        return all(_is_count(row[name]) for name in ("count", "until") if name in row)
    if kind == "alarm":
        return isinstance(row.get("forecast"), dict | None)
    if kind == "curvature" and not _are_blocks(row.get("blocks")):
        return False
    return all(_is_number(row.get(name)) for name in _NUMBERS.get(kind, ()))


def _are_blocks(blocks: Any) -> bool:
    if not isinstance(blocks, list):
        return blocks is None
    return all(
        isinstance(block, dict) and "name" in block and "share" in block and _is_number(block["share"])
        for block in blocks
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LAST_STEP


def _is_number(value: Any) -> bool:
    # JSON's integers have no end; those that no float can hold are no measurement.
    return value is None or type(value) is float or (type(value) is int and value.bit_length() < 1024)


def _upgrade_from_1(row: dict[str, Any]) -> None:
    """Give a row of schema 1 the names and meanings of schema 2; see the table of this module."""
    if row["kind"] == "step" and "lag_ratio" in row:
        ratio = row.pop("lag_ratio")
        row["instant_lag"] = None if ratio is None else 1 / ratio if ratio else math.inf
    elif row["kind"] in ("forecast", "alarm"):
        forecast = row if row["kind"] == "forecast" else row.get("forecast") or {}
        forecast.pop("reverse_lag", None)
        if "mean_square_ratio" in forecast:
            # What now has that name can't be had from the geometric mean that was logged.
            forecast["typical_mean_square_ratio"] = forecast["mean_square_ratio"]
            forecast["mean_square_ratio"] = math.nan
    elif row["kind"] == "guard" and row.get("remedy") == "stand aside":
        row["remedy"] = "cooldown"


def _drop_from(records: dict[str, list[dict[str, Any]]], step: int) -> int:
    before = sum(map(len, records.values()))
    for rows in records.values():
        rows[:] = [row for row in rows if row["step"] < step]
    return before - sum(map(len, records.values()))


def _decode(value: Any) -> Any:
    if isinstance(value, str):
        return _NON_FINITE.get(value, value)
    if isinstance(value, dict):
        return {key: _decode(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decode(item) for item in value]
    return value
