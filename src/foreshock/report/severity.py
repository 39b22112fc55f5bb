"""The worst that happened in a run, as scripts ask for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from foreshock.runlog import Run

Worst = Literal["none", "alarm", "spike", "divergence"]
"""From nothing to the worst: an alarm, a spike, a loss that diverged, climbed, or was NaN or infinite."""

LEVELS: tuple[Worst, ...] = get_args(Worst)


def worst_of(kinds: Iterable[str], *, alarms: bool) -> Worst:
    """Return the worst that happened.

    Args:
        kinds: Kinds of the events of the loss, see `foreshock.spikes.LossEvent`.
        alarms: Whether there was an alarm.

    Example:
        >>> worst_of(["spike", "non-finite"], alarms=True), worst_of([], alarms=True)
        ('divergence', 'alarm')
    """
    found = set(kinds)
    if found - {"spike"}:
        return "divergence"
    if found:
        return "spike"
    return "alarm" if alarms else "none"


def had_alarm(run: Run) -> bool:
    """Return whether there was an alarm in a run; a watch is none.

    Args:
        run: A run as read from its log.
    """
    return any(row.get("level") != "watch" for row in run.records.get("alarm", ()))
