"""Many independent trainings on several processes, and the small JSON files that results are kept in."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

from foreshock.workers import worker_processes


def finished(work: Callable[..., Path], calls: Sequence[tuple[Any, ...]], *, jobs: int = 1) -> Iterator[Path]:
    """Call a function with each tuple of arguments and yield what it wrote as soon as it is there.

    If a call fails, the others still run to their end: what they write is not lost. At Ctrl-C, and however
    else this process ends, the others end at once: a file is written whole or not at all.

    Args:
        work: A function of a module, which other processes can import.
        calls: Arguments of each call; with several processes they are pickled.
        jobs: Processes, ≥ 1; with one everything runs in this process.

    Yields:
        The file of each call, in the order in which they end.

    Raises:
        ValueError: If `jobs` is below one.
        Exception: The first that a call raised, after all others have ended.
    """
    if not jobs >= 1:
        raise ValueError(f"jobs is {jobs!r}; at least one process is needed")
    if jobs == 1 or len(calls) < 2:
        for arguments in calls:
            yield work(*arguments)
        return
    with worker_processes(jobs) as pool:
        errors = []
        for done in as_completed([pool.submit(work, *arguments) for arguments in calls]):
            error = done.exception()
            if error is None:
                yield done.result()
            else:
                errors.append(error)
        if errors:
            raise errors[0]


_DIGITS = 4


def write_json(value: Any, path: str | os.PathLike[str]) -> Path:
    """Write plain values with floats rounded to four digits; a file is there whole or not at all.

    Args:
        value: Mappings, sequences, strings and finite numbers.
        path: File to write; its folder is made if missing.

    Raises:
        ValueError: If a number is not finite: JSON has no such number.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(rounded(value), indent=1, allow_nan=False) + "\n"
    partial = target.with_name(f"partial-{target.name}")
    partial.write_text(text, encoding="utf-8")
    return partial.replace(target)


def rounded(value: Any) -> Any:
    """Return plain values with floats rounded to four significant digits.

    Example:
        >>> rounded({"a": (1.23456, 2)})
        {'a': [1.235, 2]}
    """
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, Mapping):
        return {str(key): rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value
