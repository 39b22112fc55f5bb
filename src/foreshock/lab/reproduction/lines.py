"""Results that grow by one JSON line each: a line that is there is not run again."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

from foreshock.workers import worker_processes

Line = dict[str, Any]
"""One result by name; its ``fingerprint`` says what it depends on."""


def run_missing(
    path: Path,
    kept: Iterable[Line],
    calls: Mapping[str, Callable[[], Line]],
    *,
    on_line: Callable[[int, int, Line], None],
    jobs: int = 1,
) -> list[Line]:
    """Run what is missing and return all lines that were asked for.

    Args:
        path: The file of lines; made if missing. It is whole after each line.
        kept: The lines that it has.
        calls: What makes each line, by fingerprint, in the order in which they are run.
        on_line: Called with lines done, lines in all, and the new line.
        jobs: Processes that run them; with several they get pickled, and lines come as they are done.
    """
    known = {line["fingerprint"]: line for line in kept}
    missing = {key: call for key, call in calls.items() if key not in known}
    for done, line in enumerate(_made(list(missing.values()), jobs), start=len(calls) - len(missing) + 1):
        known[line["fingerprint"]] = line
        append_line(path, line)
        on_line(done, len(calls), line)
    return [known[key] for key in calls]


def _made(calls: Sequence[Callable[[], Line]], jobs: int) -> Iterator[Line]:
    """Yield what calls return, one after the other or as other processes have it."""
    if jobs == 1 or len(calls) < 2:
        for call in calls:
            yield call()
        return
    with worker_processes(jobs) as pool:
        for done in as_completed([pool.submit(call) for call in calls]):
            yield done.result()


def read_lines(path: Path, parse: Callable[[Line], Line], *, what: str) -> list[Line]:
    """Return the lines that are there; a last one that was cut off is left out.

    Args:
        path: The file of lines.
        parse: Puts a line in its form, and fails on one that has another.
        what: What a line of another form is, as an error says it.

    Raises:
        ValueError: If another line than the last is not readable.
    """
    if not path.exists():
        return []
    rows = path.read_text(encoding="utf-8").splitlines()
    lines = []
    for number, row in enumerate(rows, start=1):
        try:
            lines.append(parse(json.loads(row)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if number < len(rows):
                raise ValueError(
                    f"line {number} of {path} is {what} ({error}); remove that line, and what it had is run "
                    "again"
                ) from error
    return lines


def append_line(path: Path, line: Line) -> None:
    """Add a line to a file, and see it on disk.

    Args:
        path: The file; made if missing, with its folder.
        line: Plain values.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_bytes() if path.exists() else b""
    if before and not before.endswith(b"\n"):
        # A line that was cut off: what follows must not be glued to it.
        path.write_bytes(before[: before.rfind(b"\n") + 1])
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(_plain(line), ensure_ascii=False, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def numbers_back(found: Line) -> Line:
    """Return numbers by name with NaN where JSON has nothing."""
    return {key: math.nan if value is None else value for key, value in found.items()}


def _plain(value: Any) -> Any:
    """Return a value for JSON: four digits, None for NaN, ±1e300 for what is infinite."""
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{max(min(value, 1e300), -1e300):.4g}")
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
