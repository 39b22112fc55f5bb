"""Snapshots written from a thread, one after the other, while training goes on."""

from __future__ import annotations

import os
import queue
import threading
import time
import weakref
from pathlib import Path
from typing import Any

from foreshock.failures import Failures
from foreshock.recorder.files import FOLDER, list_snapshots, oldest, remove_snapshot, write_snapshot
from foreshock.recorder.ring import Slot

PATIENCE = 60.0  # seconds that the end of a run waits for the disk


class SnapshotWriter:
    """Write snapshots from a thread, one after the other; a failure is noted and never raised.

    Args:
        keep: Snapshots on disk, at most.

    Attributes:
        written: Folders of those that were written.
        failures: What could not be written.
        seconds: Processor time that writing took.
    """

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._asked: set[tuple[Path, int]] = set()
        self.written: list[Path] = []
        self.seconds = 0.0
        self.failures = Failures("recorder")
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._process = os.getpid()
        self._jobs: queue.SimpleQueue[tuple[Slot, int, Path, str, int]] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ended: weakref.finalize[Any, Any] = weakref.finalize(self, int)

    def begin(self, slot: Slot, folder: Path, *, reason: str, rank: int) -> None:
        """Have a slot written, once."""
        if (folder, slot.step) in self._asked or self.failures.given_up:
            return
        self._asked.add((folder, slot.step))
        if self._process != os.getpid():
            # A process that was forked has no thread, and locks that its parent's may have held.
            self._begin_anew()
        with self._lock:
            slot.in_use += 1
            self._jobs.put((slot, slot.step, folder, reason, rank))
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="foreshock-recorder", daemon=True)
                # What is being written when the interpreter ends, as on an error, is waited for.
                self._ended.detach()
                self._ended = weakref.finalize(self, self._thread.join, PATIENCE)
                self._thread.start()

    def news(self) -> list[tuple[int, str]]:
        """Return what became of jobs since the last call."""
        found = []
        while not self._done.empty():
            found.append(self._done.get())
        return found

    def wait(self, seconds: float) -> None:
        """Wait until there is no job left."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)

    def _work(self) -> None:
        while True:
            with self._lock:  # so that no job is left to a thread that is about to end
                if self._jobs.empty():
                    self._thread = None
                    return
                job = self._jobs.get()
            self._write(*job)

    def _write(self, slot: Slot, step: int, folder: Path, reason: str, rank: int) -> None:
        began = time.thread_time()
        try:
            path = write_snapshot(slot.snapshot(), folder / FOLDER, reason=reason, rank=rank)
            self.written.append(path)
            for old in oldest(list_snapshots(folder, rank=rank), but=self._keep):
                remove_snapshot(old)
        except Exception as error:  # noqa: BLE001 - it must never end a training run
            self.failures.failed(f"the snapshot of step {step} could not be written", error)
            self._done.put((step, f"it could not be written: {type(error).__name__}: {error}"))
        else:
            self.failures.succeeded()
            self._done.put((step, f"written to {path} ({reason})"))
        finally:
            slot.in_use -= 1
            self.seconds += time.thread_time() - began
