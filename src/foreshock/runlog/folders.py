"""The runs of one folder: which of them there are, and whose file may be written.

Processes of one run choose the same folder without talking to each other, on one machine or many: they look
at the same files, and what the other ranks of their own run have written already doesn't count. That can be
told from its time: a file of an earlier run was last written before this process began.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nothing is locked, and a second writer goes unnoticed
    fcntl = None  # type: ignore[assignment]

HEADER = b'{"kind":"header"'
"""How a header begins, and with it a log."""
_STARTED = time.time()


def numbered(run: Path, number: int) -> Path:
    """Return the folder of the first, second, … run of a folder.

    Args:
        run: The folder.
        number: Which, from 1.
    """
    return run if number == 1 else run / str(number)


def numbers(run: Path) -> list[int]:
    """Return the numbers that there may be runs of in a folder, in order; 1 is the folder itself.

    Args:
        run: The folder.
    """
    try:
        names = [entry.name for entry in os.scandir(run) if entry.is_dir()]
    except OSError:
        return [1]
    # int() takes other digits and leading zeros too, which numbered() never makes.
    found = [int(name) for name in names if name.isascii() and name.isdigit() and len(name) < 10]
    return [1, *sorted(number for number in found if number > 1 and str(number) in names)]


def first_free(run: Path, name: str) -> int:
    """Return the number of the run that begins now: one more than that of the last which has records.

    Args:
        run: The folder.
        name: Name of this rank's file.
    """
    began = process_start()
    used = [number for number in numbers(run) if _used(run, number, name, began)]
    return max(used, default=0) + 1


def runs_of(run: Path) -> list[tuple[int, list[Path]]]:
    """Return the runs of a folder that have records, as pairs of number and files, in order.

    Args:
        run: The folder. A subfolder that only happens to be called 2 is none of its runs.
    """
    files = [(number, rank_files(numbered(run, number))) for number in numbers(run)]
    return [
        (number, paths)
        for number, paths in files
        if any(has_records(path) and header_number(path) == number for path in paths)
    ]


def to_resume(run: Path, step: int | None) -> int | None:
    """Return the number of the run that goes on: the last that got as far; None if there is none.

    Args:
        run: The folder.
        step: Step of the state that was loaded: the first that comes now. None if unknown.
    """
    found = runs_of(run)
    far = [
        number
        for number, paths in found
        if step is not None and any(last_step(path) >= step - 1 for path in paths)
    ]
    return far[-1] if far else found[-1][0] if found else None


def rank_files(folder: Path) -> list[Path]:
    """Return the logs of a folder, of all ranks, in order; not those of its subfolders.

    Args:
        folder: The folder of one run.
    """
    paths = [path for path in folder.glob("rank*.jsonl") if path.is_file()]
    found = [(rank, path) for path in paths if (rank := rank_of(path)) is not None]
    return [path for _, path in sorted(found)]


def rank_of(path: Path) -> int | None:
    """Return the rank that a log is of, by its name; None if the name says none.

    Args:
        path: The log.

    Example:
        >>> rank_of(Path("runs/first/rank3.jsonl"))
        3
    """
    number = path.stem.removeprefix("rank")
    return int(number) if path.stem.startswith("rank") and number.isascii() and number.isdigit() else None


def has_records(path: Path) -> bool:
    """Return whether a log has more than headers.

    Args:
        path: The log, which may be missing.
    """
    try:
        with path.open("rb") as lines:
            return any(line.strip() and not line.startswith(HEADER) for line in lines)
    except OSError:
        return False


def last_step(path: Path) -> int:
    """Return the highest step in the last lines of a log; −1 if they have none.

    Args:
        path: The log.
    """
    with path.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - 2**16, 0))
        lines = file.read().splitlines()
    return max((_step(line) for line in lines), default=-1)


def last_created(path: Path) -> str:
    """Return when the last session of a log began, ISO 8601; empty if it doesn't say.

    Args:
        path: The log.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            begin = content.rfind(HEADER)
            end = content.find(b"\n", begin)
            row = json.loads(content[begin : end if end > 0 else len(content)]) if begin >= 0 else {}
    except (OSError, ValueError, RecursionError):
        return ""
    created = row.get("created")
    return created if isinstance(created, str) else ""


def header_number(path: Path) -> int:
    """Return which run of its folder the first header of a log says that it is; 1 if it doesn't say.

    Args:
        path: The log.
    """
    try:
        with path.open("rb") as lines:
            row = json.loads(lines.readline(2**20))
    except (OSError, ValueError, RecursionError):
        return 1
    number = row.get("number") if isinstance(row, dict) else None
    return number if type(number) is int else 1


@contextlib.contextmanager
def _closed_on_error(descriptor: int) -> Iterator[None]:
    try:
        yield
    except BaseException:
        os.close(descriptor)
        raise


def open_locked(path: Path) -> int | None:
    """Open a log for appending, and lock it; its folder is made if missing.

    Args:
        path: The log.

    Returns:
        The descriptor; None if another writer has it open.

    Raises:
        OSError: If it can't be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    if fcntl is None:
        return descriptor
    with _closed_on_error(descriptor):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:  # a file system that has no locks
            pass
    return descriptor


def release(descriptor: int, owner: int) -> None:
    """Close a log and give its lock back.

    Args:
        descriptor: Of `open_locked`.
        owner: Process that opened it. A child that was forked shares the lock, and must not give it back.
    """
    if fcntl is not None and os.getpid() == owner:
        # Closing is not enough: children that were forked have the file open too.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def process_start() -> float:
    """Return when this process began, seconds since 1970, to two hundredths of a second."""
    try:
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        # Rounded up to whole ticks, as the system rounds down: what was written just before is earlier then,
        # and no other rank of this run, which has torch to import, has written within a few hundredths.
        ticks = int(fields[19]) + 2
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        return time.time() - age
    except (OSError, ValueError, IndexError, AttributeError):  # not Linux
        return _STARTED


def _used(run: Path, number: int, name: str, began: float) -> bool:
    return any(
        has_records(path)
        and header_number(path) == number
        and (path.name == name or path.stat().st_mtime < began)
        for path in rank_files(numbered(run, number))
    )


def _step(line: bytes) -> int:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return -1
    step = row.get("step") if isinstance(row, dict) else None
    return step if type(step) is int else -1
