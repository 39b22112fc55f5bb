"""Runs that were resumed under another monitor: the logs of one training, shown as one run."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from foreshock.runlog.reader import goes_on

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from foreshock.live.run import LiveRun


def join(runs: Iterable[LiveRun]) -> list[LiveRun]:
    """Let each run that goes on from an earlier one of its folder have its records, as a report does.

    Cheap where nothing has changed, so that it may be called whenever logs were looked at.

    Args:
        runs: The runs of some folders.

    Returns:
        Those whose records no later run has taken over, in the same order.
    """
    runs = list(runs)
    folders: dict[Path, list[LiveRun]] = defaultdict(list)
    for run in runs:
        folders[run.path.parent if run.number == 1 else run.path.parent.parent].append(run)
    taken: set[str] = set()
    for several in folders.values():
        # What is not read to its end yet may get further than it seems.
        if len(several) > 1 and all(run.read_share == 1 for run in several):
            taken |= _join(sorted(several, key=lambda run: run.number))
    return [run for run in runs if run.key not in taken]


def _join(ordered: Sequence[LiveRun]) -> set[str]:
    taken = set()
    for place, run in enumerate(ordered):
        before = next((one for one in reversed(ordered[:place]) if _leads_to(one, run)), None)
        run.go_on_from(before)
        if before is not None:
            taken.add(before.key)
    return taken


def _leads_to(before: LiveRun, after: LiveRun) -> bool:
    first, old_first, old_last = after.first_step, before.first_step, before.last_step
    if not first or old_first is None or old_last is None or after.number == 1 or before.error or after.error:
        return False
    return goes_on(first, old_first=old_first, old_last=old_last)
