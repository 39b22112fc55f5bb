r"""What other thresholds would have done on a run: spikes missed against time in alarm, its Molchan curve.

At each threshold the alarms are those that the run would have had: they begin at it, end below half of it,
and end with a spike. A spike is caught if an alarm was on in the 50 steps before its onset.
(G. M. Molchan, "Strategies in strong earthquake prediction", 1990.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from foreshock.forecast import AlarmBook
from foreshock.runlog.values import numbers, recorded_losses

if TYPE_CHECKING:
    from foreshock.runlog import Run
    from foreshock.spikes import LossEvent

FEWEST = 5
"""Spikes that a run needs for a trade-off: of fewer each would decide it."""

_THRESHOLDS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_BEFORE = 50


@dataclass(frozen=True)
class Tradeoff:
    """What one threshold would have done.

    Attributes:
        alarm_at: The threshold.
        caught: Spikes that had an alarm on in the 50 steps before them.
        spikes: Spikes in all.
        in_alarm: Share of the steps outside spikes, in [0, 1].
    """

    alarm_at: float
    caught: int
    spikes: int
    in_alarm: float


def tradeoffs(run: Run, spikes: Sequence[LossEvent]) -> list[Tradeoff]:
    """Return what each of some thresholds would have done; none for a run with too few spikes.

    Args:
        run: A run as read from its log.
        spikes: Its spikes.
    """
    made = run.steps("forecast")
    chances = numbers(run, "forecast", "probability")
    steps, _ = recorded_losses(run)
    if len(spikes) < FEWEST or not np.isfinite(chances).any() or not len(steps):
        return []
    outside = np.ones(len(steps), dtype=np.bool_)
    for spike in spikes:
        outside &= (steps < spike.onset) | (steps > spike.end)
    held = np.searchsorted(made, steps, side="right")  # 0: before the first forecast
    found = []
    for threshold in _THRESHOLDS:
        book = AlarmBook(threshold)
        levels = [book.follow(chance) == "alarm" for chance in chances.tolist()]
        on = np.array([False, *levels])[held] & outside
        caught = sum(bool(on[(steps >= one.onset - _BEFORE) & (steps < one.onset)].any()) for one in spikes)
        share = float(on.sum()) / max(int(outside.sum()), 1)
        found.append(Tradeoff(threshold, caught, len(spikes), share))
    return found


def molchan_points(found: Sequence[Tradeoff], *, width: float, height: float) -> str:
    """Return the curve as the points of an SVG polyline, from no alarm at all to one that is always on.

    Args:
        found: What `tradeoffs` returned.
        width: Of the drawing, for a share of time in alarm of one.
        height: Of the drawing, for all spikes missed.

    Example:
        >>> molchan_points([Tradeoff(0.3, 3, 4, 0.1)], width=100, height=100)
        '0.0,0.0 10.0,75.0 100.0,100.0'
    """
    pairs = sorted((one.in_alarm, 1 - one.caught / one.spikes) for one in found)
    return " ".join(f"{x * width:.1f},{(1 - y) * height:.1f}" for x, y in [(0.0, 1.0), *pairs, (1.0, 0.0)])
