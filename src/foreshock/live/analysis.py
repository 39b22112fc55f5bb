"""What takes longer than a look: spikes in new losses, and the report's verdict on the runs that are open."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from foreshock.report.ranks import Ranks, compare_ranks
from foreshock.report.summary import RunSummary, summarise
from foreshock.runlog.folders import rank_files, rank_of

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping, Sequence

    from foreshock.live.run import LiveRun
    from foreshock.runlog import Run

_LOGGER = logging.getLogger("foreshock")
_WAIT = 0.1  # seconds
_EVERY = 1.0  # seconds at least between two summaries of a run, and ten times what the last one took
_REST = 10
# Between two comparisons of all ranks, which read all their logs: seconds at least, and so many times what
# the last one took.
_RANKS_EVERY, _RANKS_REST = 10.0, 30
_OPEN_FOR = 30.0  # seconds after the last request for its details a run counts as open


@dataclass(frozen=True)
class Analysed:
    """A run as the report sees it.

    Attributes:
        run: The run as it was.
        summary: The same in numbers.
        generation: Of the live run at that time.
        version: Of the live run at that time.
    """

    run: Run
    summary: RunSummary
    generation: int
    version: int


class Watched(Protocol):
    """Runs that are followed, as by `foreshock.live.watched.WatchedFolder`."""

    @property
    def runs(self) -> Mapping[str, LiveRun]:
        """The runs by key."""

    @property
    def stopping(self) -> threading.Event:
        """Set once they are no longer followed."""

    def all_runs(self) -> Sequence[LiveRun]:
        """Return the runs there are now."""


@dataclass
class _Desk:
    """When a run was asked for last, and when it is due again."""

    asked: float
    due: float = 0.0
    found: Analysed | None = None
    ranks: Ranks | None = None
    ranks_due: float = 0.0
    compared: tuple[int, int] = (-1, -1)  # bytes of all logs, and generation, when the ranks were compared


class Analysis:
    """Look for spikes in all runs, and summarise those that somebody looks at.

    Args:
        watched: The runs.
    """

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._desks: dict[str, _Desk] = {}

    def of(self, run: LiveRun) -> Analysed | None:
        """Return the last summary of a run, None before the first; it is kept up to date for a while.

        Args:
            run: The run.
        """
        desk = self._desks.setdefault(run.key, _Desk(time.monotonic()))
        desk.asked = time.monotonic()
        found = desk.found
        return found if found is not None and found.generation == run.generation else None

    def work(self) -> None:
        """Go on until the watched folder is closed."""
        while not self._watched.stopping.is_set():
            if not self.round():
                self._watched.stopping.wait(_WAIT)

    def round(self) -> bool:
        """Do what is due once; return whether there is more."""
        scans = [self._scan(run) for run in self._watched.all_runs()]
        now = time.monotonic()
        for key, desk in list(self._desks.items()):
            run = self._watched.runs.get(key)
            if run is None or now - desk.asked > _OPEN_FOR:
                del self._desks[key]
            elif now >= desk.due and (desk.found is None or desk.found.version != run.version):
                self._summarise(run, desk)
            elif now >= desk.ranks_due and desk.compared != _extent(run):
                self._summarise(run, desk)  # others have gone on, and this log has not
        return any(scans)

    def _scan(self, run: LiveRun) -> bool:
        behind = run.scan()
        try:
            if not behind:
                run.explain_news()
        except Exception:  # one odd log must not end the page of all others
            _LOGGER.exception("the last spike of %s could not be explained", run.path)
        return behind

    def _summarise(self, run: LiveRun, desk: _Desk) -> None:
        began = time.monotonic()
        with run.lock:
            generation, version = run.generation, run.version
            try:
                snapshot = run.snapshot()
            except ValueError:  # the page shows why, as the state of the run
                return
        try:
            self._compare(run, snapshot, desk)
            summary = summarise(snapshot, with_ranks=False, ranks=desk.ranks)
            desk.found = Analysed(snapshot, summary, generation, version)
        except Exception:  # one odd log must not end the page of all others
            _LOGGER.exception("the verdict on %s could not be made", run.path)
        now = time.monotonic()
        desk.due = now + max(_EVERY, _REST * (now - began))

    def _compare(self, run: LiveRun, snapshot: Run, desk: _Desk) -> None:
        """Compare the ranks, if that is due: it reads the logs of all of them anew."""
        began, extent = time.monotonic(), _extent(run)
        if extent == desk.compared or (began < desk.ranks_due and extent[1] == desk.compared[1]):
            return
        desk.ranks, desk.compared = compare_ranks(snapshot), extent
        run.note_departing(() if desk.ranks is None else desk.ranks.departures)
        now = time.monotonic()
        desk.ranks_due = now + max(_RANKS_EVERY, _RANKS_REST * (now - began))


def _extent(run: LiveRun) -> tuple[int, int]:
    """Return how many bytes the logs of all ranks have, and the generation of the run."""
    sizes = 0
    for path in rank_files(run.path.parent) if rank_of(run.path) is not None else ():
        with suppress(OSError):
            sizes += path.stat().st_size
    return sizes, run.generation
