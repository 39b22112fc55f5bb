"""The logs of all processes of one run: which there are, and how far each of them got."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from foreshock.runlog.folders import has_records, last_step, rank_files, rank_of
from foreshock.runlog.reader import Run, joined, read_run

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_RANKS = 64
"""Ranks whose logs are read as a whole: of more than that, first those that end early."""


@dataclass(frozen=True)
class RankLogs:
    """What there is of the ranks of a run, without reading their logs as a whole.

    Attributes:
        size: Number of ranks: as the header says, or else as many as have a log.
        paths: Log of each rank that has one.
        last: Last step of each of them; −1 for a log without records.
    """

    size: int
    paths: Mapping[int, Path]
    last: Mapping[int, int]

    @property
    def missing(self) -> tuple[int, ...]:
        """Ranks without a log, in order."""
        return tuple(rank for rank in range(self.size) if rank not in self.paths)

    def behind(self, by: int) -> tuple[int, ...]:
        """Return the ranks that end more than so many steps before the one that got furthest.

        Args:
            by: Number of steps.
        """
        far = max(self.last.values(), default=-1)
        return tuple(rank for rank, last in self.last.items() if last < far - by)


def rank_logs(path: Path, meta: Mapping[str, object]) -> RankLogs | None:
    """Return what there is of the ranks of a run; None for a run of one process.

    Ranks of an earlier session, in which more processes trained, are none of them.

    Args:
        path: The log of one of them.
        meta: The last header of that log.
    """
    said = meta.get("ranks")
    size = said if type(said) is int and 1 <= said <= 2**20 else None
    if rank_of(path) is None:
        return None
    found = {rank_of(one): one for one in rank_files(path.parent)}
    paths = {rank: one for rank, one in found.items() if rank is not None and rank < (size or math.inf)}
    size = size or len(paths)
    if size < 2:
        return None
    return RankLogs(size, paths, {rank: _last(one) for rank, one in paths.items()})


def read_ranks(run: Run, logs: RankLogs) -> dict[int, Run]:
    """Read the logs of all ranks of a run, each with what it went on from; none that can't be read.

    Args:
        run: The run, as read from the log of one of them.
        logs: Which there are.
    """
    own = rank_of(run.path)
    early_first = sorted(logs.paths, key=lambda rank: (rank != own, logs.last[rank], rank))
    found = {}
    for rank in sorted(early_first[:MOST_RANKS]):
        read = run if rank == own else _read(run, logs.paths[rank])
        if read is not None:
            found[rank] = read
    return found


def _read(run: Run, path: Path) -> Run | None:
    try:
        found = read_run(path)
    except (OSError, ValueError):
        return None
    for before in reversed(run.joined):
        try:
            found = joined(read_run(before.with_name(path.name)), found)
        except (OSError, ValueError, IndexError):
            continue
    return found


def _last(path: Path) -> int:
    try:
        return last_step(path) if has_records(path) else -1
    except OSError:
        return -1
