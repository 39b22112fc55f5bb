"""Many independent trainings on several processes, and the small JSON files that results are kept in."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


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
    with _processes(jobs) as pool:
        errors = []
        for done in as_completed([pool.submit(work, *arguments) for arguments in calls]):
            error = done.exception()
            if error is None:
                yield done.result()
            else:
                errors.append(error)
        if errors:
            raise errors[0]


@contextlib.contextmanager
def _processes(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Give processes that end when the block does, and at once where an exception or a signal ends it."""
    # Forked processes would share the state of torch's thread pools.
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    with _without_interrupts():
        pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_follow, initargs=(theirs,))
        # Starts them all, now that they inherit a blocked SIGINT: a terminal sends Ctrl-C to each process.
        pool.submit(_nothing)
    try:
        yield pool
    except BaseException:
        ours.close()
        pool.shutdown(cancel_futures=True)
        raise
    finally:
        pool.shutdown()
        ours.close()
        theirs.close()


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Keep SIGINT waiting, here and in the processes that are started meanwhile."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # Its start, which the first process would bring about, lets SIGINT through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _follow(other: Connection) -> None:
    """End this process when the other end of a pipe is closed, also by the death of its process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            other.recv()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _nothing() -> None:
    """Do nothing, in another process."""


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
