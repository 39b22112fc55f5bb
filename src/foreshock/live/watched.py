"""The runs of a watched folder, each followed: which there are, and who looks at them when."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from foreshock.live.analysis import Analysis
from foreshock.live.joining import join
from foreshock.live.run import LiveRun
from foreshock.runlog.folders import has_records, rank_of
from foreshock.runlog.labels import labels

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

LOOK_EVERY = 0.1
"""Seconds between two looks at the end of each log, at least."""
_REST = 5  # times what a look at all of them takes
_LONGEST_REST = 0.5  # seconds: with more, rows would be late
_SEARCH_EVERY = 2.0  # seconds, and twenty times what a search takes: folders may hold many checkpoints
_DEEPEST = 8
_MOST_RUNS = 2000


class WatchedFolder:
    """The runs below a folder, or one run, or one log.

    Args:
        place: A folder that holds runs at any depth, the folder of a run, or a ``.jsonl`` file. Symbolic
            links below it are not followed.
        only: Fields of step records to keep, as far as that saves time; None for all.

    Raises:
        FileNotFoundError: If it does not exist.
    """

    def __init__(self, place: Path, *, only: Collection[str] | None = None) -> None:
        if not place.exists():
            raise FileNotFoundError(
                f"{place} does not exist: pass the folder passed as run=… to the monitor, or one that holds "
                "such folders"
            )
        self.place = place.resolve()
        self._only = only
        self.runs: dict[str, LiveRun] = {}
        self._logs: dict[Path, LiveRun] = {}
        self._named_last: list[tuple[LiveRun, str]] = []
        self._stopping = threading.Event()
        self._analysis = Analysis(self)
        self._threads = [
            threading.Thread(target=work, name=f"foreshock {name}", daemon=True)
            for name, work in (("tail", self._follow), ("analysis", self._analysis.work))
        ]
        self.search()

    def start(self) -> None:
        """Begin to follow the logs, in threads of their own."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads."""
        self._stopping.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=5.0)

    @property
    def stopping(self) -> threading.Event:
        """Set once the threads are to end."""
        return self._stopping

    @property
    def analysis(self) -> Analysis:
        """What looks for spikes and writes the longer verdict."""
        return self._analysis

    def all_runs(self) -> list[LiveRun]:
        """Return the runs there are now, in order of their places."""
        return list(self.runs.values())

    def search(self) -> None:
        """Look for runs that are new, and forget those whose log is gone."""
        found = sorted(self._found(), key=str)[:_MOST_RUNS]
        known, only = self._logs, self._only
        self._logs = {
            path: known.get(path) or LiveRun(path, name=self._named(path), only=only) for path in found
        }
        self._show()

    def look(self) -> bool:
        """Look at the end of each log; return whether any has more to read at once."""
        behind = [run.look() for run in self._logs.values()]
        self._show()
        return any(behind)

    def _show(self) -> None:
        """Show each training once: the log that it went on in has the records of those before it."""
        self.runs = {run.key: run for run in join(self._logs.values())}
        named = [(run, run.name) for run in self.runs.values()]
        if named != self._named_last:
            self._named_last = named
            found = labels([name for _, name in named], [run.path for run, _ in named])
            for (run, _), label in zip(named, found, strict=True):
                run.call(label)

    def _follow(self) -> None:
        due = time.monotonic() + _SEARCH_EVERY
        while not self._stopping.is_set():
            began = time.monotonic()
            behind = self.look()
            looked = time.monotonic() - began
            if time.monotonic() >= due:
                began = time.monotonic()
                self.search()
                now = time.monotonic()
                due = now + max(_SEARCH_EVERY, 20 * (now - began))
            if not behind:
                self._stopping.wait(max(LOOK_EVERY, min(_REST * looked, _LONGEST_REST)))

    def _found(self) -> Iterator[Path]:
        if self.place.is_file():
            yield self.place
            return
        yield from self._below(self.place, 0)

    def _below(self, folder: Path, depth: int) -> Iterator[Path]:
        try:
            entries = list(os.scandir(folder))
        except OSError:
            return
        logs = {rank_of(Path(entry.path)): entry for entry in entries if entry.name.endswith(".jsonl")}
        first = min((rank for rank in logs if rank is not None), default=None)
        for entry in entries:
            # Of several ranks the first: one training is shown once.
            if first is not None and entry is logs[first] and entry.is_file(follow_symlinks=False):
                path = Path(entry.path)
                if path in self._logs or has_records(path):
                    yield path
            elif depth < _DEEPEST and entry.is_dir(follow_symlinks=False) and entry.name[:1] != ".":
                yield from self._below(Path(entry.path), depth + 1)

    def _named(self, path: Path) -> str:
        """Return the place of a run below the watched folder, in words."""
        if path == self.place or path.parent == self.place:
            return path.parent.name or path.stem
        return path.parent.relative_to(self.place).as_posix()
