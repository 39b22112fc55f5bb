"""The run log: append-only JSON lines, one record a line, one file per rank.

A line is written by a single system call, so that a run can be read while it is written, and after
``kill -9``: a torn last line is skipped by the reader and closed by the next writer. JSON has no NaN
and no infinity; they are kept as the strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``.

The first line of every session is a header::

    {"kind": "header", "schema": 2, "foreshock": "0.1.0", "created": "…", "meta": {…}}

and each later line a record of some `kind` with a `step`:

========== =========================================================================================
kind       what it is
========== =========================================================================================
step       the free signals of one training step (`foreshock.monitor.StepObservation`)
curvature  one probe (`foreshock.curvature.CurvatureReading`)
noise      one measurement of how the curvature differs within a batch (`foreshock.curvature.NoiseReading`)
forecast   the forecast after a probe (`foreshock.forecast.Forecast`)
alarm      a watch or an alarm (`foreshock.forecast.Alarm`)
guard      an action of a guard (`foreshock.guarding.GuardAction`)
event      something that happened: a failed probe, a non-finite loss (`name`, `message`)
========== =========================================================================================

A session that resumes an earlier step makes the old records from that step on obsolete: the reader
drops them.

Logs of schema 1 are read too, also where a later session of the same run has schema 2. Their records come
back as those of schema 2 would be:

========== ============================ ==========================================================
kind       schema 1                     schema 2
========== ============================ ==========================================================
step       ``lag_ratio``                ``instant_lag``, its reciprocal Σv̂/Σg²; infinity for zero
forecast   ``reverse_lag``              none: its square was the reciprocal of ``instant_lag``
forecast   ``mean_square_ratio``        ``typical_mean_square_ratio``; the former becomes NaN
alarm      its ``forecast``             as a record of kind forecast
guard      ``remedy: "stand aside"``    ``remedy: "cooldown"``
========== ============================ ==========================================================
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foreshock._version import __version__

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SCHEMA = 2
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
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


class RunLogWriter:
    """Append records to ``RUN/rank{rank}.jsonl``.

    Args:
        run: Folder of the run; made if missing. An existing run is continued.
        meta: What the run is: plain JSON values, written into the header.
        rank: Rank of this process.

    Raises:
        OSError: If the folder can't be made or written, with what to do about it.
    """

    def __init__(
        self, run: str | os.PathLike[str], *, meta: Mapping[str, Any] | None = None, rank: int = 0
    ) -> None:
        self.path = Path(run) / f"rank{rank}.jsonl"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            torn = self.path.stat().st_size > 0 and not _ends_with_newline(self.path)
        except OSError as error:
            raise type(error)(
                error.errno,
                f"the run folder can't be written ({error.strerror}): pass a folder that this "
                "process may create files in as run=…, or run=None to keep no log",
                str(self.path),
            ) from error
        self._descriptor = descriptor
        # A monitor that is never closed still closes its file when it is collected.
        self._close = weakref.finalize(self, os.close, descriptor)
        if torn:
            os.write(descriptor, b"\n")
        self._write(
            {
                "kind": "header",
                "schema": SCHEMA,
                "foreshock": __version__,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "meta": dict(meta or {}),
            }
        )

    def write(self, kind: str, record: Mapping[str, Any] | DataclassInstance) -> None:
        """Append one record.

        Args:
            kind: Kind of the record, as in the table of this module.
            record: Its fields: a mapping or a dataclass instance of plain values.

        Raises:
            OSError: If it can't be written: the disk is full, for instance, or the log was closed.
        """
        if not self._close.alive:
            raise OSError(f"the run log {self.path} was closed")
        values = (
            record
            if isinstance(record, Mapping)
            else {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
        )
        self._write({"kind": kind, **values})

    def close(self) -> None:
        """Close the file. Closing twice is harmless."""
        self._close()

    def _write(self, row: Mapping[str, Any]) -> None:
        line = json.dumps(_encode(row), allow_nan=False, separators=(",", ":")).encode() + b"\n"
        written = os.write(self._descriptor, line)
        if written < len(line):
            raise OSError(f"{self.path}: only {written} of {len(line)} bytes written; disk full?")


@dataclass(frozen=True)
class Run:
    """A run as read from its log.

    Attributes:
        path: The file it was read from.
        meta: `meta` of the last header.
        created: Time of the first header, ISO 8601.
        version: Version of Foreshock that wrote the last session.
        schema: Schema that the last session was written with; `records` are of the present one.
        starts: Number of sessions: one, and one more for each time the run was resumed.
        records: Records by kind, ordered by step.
        skipped: Lines that could not be read: a torn last line, for instance, or a loss that is no number.
    """

    path: Path
    meta: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""
    version: str = ""
    schema: int = SCHEMA
    starts: int = 1
    records: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    skipped: int = 0

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
        run: Folder of the run, or a ``.jsonl`` file of it.
        rank: Which rank's file to read from a folder.

    Returns:
        The run, its records by kind.

    Raises:
        FileNotFoundError: If there is no log, with what is there instead.
        ValueError: If the log was written by a newer schema, or has no header.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> log = RunLogWriter(folder)
        >>> for step in range(3):
        ...     log.write("step", {"step": step, "loss": 0.5**step})
        >>> run = read_run(folder)  # also while it is still being written
        >>> run.column("step", "loss").tolist(), run.steps("step").tolist()
        ([1.0, 0.5, 0.25], [0, 1, 2])
        >>> log.close()
    """
    path = _log_path(Path(run), rank)
    headers: list[dict[str, Any]] = []
    records: dict[str, list[dict[str, Any]]] = {}
    skipped = 0
    restarted = False
    with path.open("rb") as lines:
        for line in lines:
            row = _decode_line(line)
            if row is None:
                skipped += 1
            elif row["kind"] == "header":
                headers.append(row)
                restarted = len(headers) > 1
            else:
                if restarted:
                    _drop_from(records, row["step"])
                    restarted = False
                # Each session says how its rows were written: a resumed run may have been upgraded between.
                if headers and headers[-1]["schema"] == 1:
                    _upgrade_from_1(row)
                records.setdefault(row["kind"], []).append(row)
    if not headers:
        raise ValueError(f"{path} has no header line: it is not a Foreshock run log")
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
        starts=len(headers),
        records=records,
        skipped=skipped,
    )


def _log_path(run: Path, rank: int) -> Path:
    named = run.suffix == ".jsonl" and not run.is_dir()
    path = run if named else run / f"rank{rank}.jsonl"
    if path.is_file():
        return path
    near = sorted(str(p.parent) for p in run.glob("**/rank0.jsonl")) if run.is_dir() else []
    hint = f"runs below it: {', '.join(near[:5])}" if near else "give the folder passed as run=…"
    raise FileNotFoundError(f"no run log at {path}; {hint}")


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


def _drop_from(records: dict[str, list[dict[str, Any]]], step: int) -> None:
    for rows in records.values():
        rows[:] = [row for row in rows if row["step"] < step]


def _encode(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): _encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(item) for item in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    # Scalars of numpy and torch become numbers; of anything else the log keeps what it prints as.
    return _encode(value.item()) if callable(getattr(value, "item", None)) else str(value)


def _decode(value: Any) -> Any:
    if isinstance(value, str):
        return _NON_FINITE.get(value, value)
    if isinstance(value, dict):
        return {key: _decode(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decode(item) for item in value]
    return value


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
