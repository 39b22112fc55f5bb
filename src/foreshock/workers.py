"""Processes that do independent work side by side, and never outlive the one that started them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection


@contextlib.contextmanager
def worker_processes(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Give processes that end when the block does, and at once where an exception or a signal ends it.

    They do not see Ctrl-C, which a terminal sends to each process: this one does, and ends them. They also
    end when this one is killed.

    Args:
        jobs: How many, ≥ 1.
    """
    # Forked processes would share the state of torch's thread pools.
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    with _without_interrupts():
        pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_follow, initargs=(theirs,))
        # One call starts one process, as long as none is idle: all start now that they inherit a blocked
        # SIGINT.
        for _ in range(jobs):
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
