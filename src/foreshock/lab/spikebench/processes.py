"""Many independent trainings on several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any


def finished(work: Callable[..., Path], calls: Sequence[tuple[Any, ...]], *, jobs: int = 1) -> Iterator[Path]:
    """Call a function with each tuple of arguments and yield what it wrote as soon as it is there.

    If a call fails, the others still go on: what they write is not lost.

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
    # Forked processes would share the state of torch's thread pools.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        errors = []
        for done in as_completed([pool.submit(work, *arguments) for arguments in calls]):
            error = done.exception()
            if error is None:
                yield done.result()
            else:
                errors.append(error)
        if errors:
            raise errors[0]
