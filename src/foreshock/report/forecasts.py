"""Forecasts against outcomes: which forecasts to draw, and when the ratio really crossed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from foreshock.runlog import Run

SHOWN_AHEAD = (200.0, 100.0, 50.0)


@dataclass(frozen=True)
class Fan:
    """One forecast, to be drawn from its reading to where the threshold was expected.

    Attributes:
        step: Step of the reading.
        ratio: Stability ratio read.
        expected: Step at which the ratio was expected to reach one.
        low: Lower end of the 80 % interval of `expected`.
        high: Upper end.
    """

    step: int
    ratio: float
    expected: float
    low: float
    high: float


def fans(run: Run, *, ahead: tuple[float, ...] = SHOWN_AHEAD) -> list[Fan]:
    """Return the forecasts to draw: of each rise the first that expected the threshold so near.

    The choice looks at nothing but the forecasts themselves, so that good ones aren't picked with
    hindsight. Those whose interval has no upper end can't be drawn and are skipped. A rise ends
    when the ratio reaches one or falls back.

    Args:
        run: A run as read from its log.
        ahead: Steps to the threshold, decreasing; each picks one forecast a rise.
    """
    chosen: list[Fan] = []
    waiting = list(ahead)
    for row in run.records.get("forecast", []):
        if row.get("state") in ("armed", "recovery"):
            waiting = list(ahead)
        fan = _fan(row)
        if fan is None:
            continue
        reached = [limit for limit in waiting if fan.expected - fan.step <= limit]
        if reached:
            chosen.append(fan)
            waiting = waiting[len(reached) :]
    return chosen


def steps_until_crossing(steps: NDArray[np.int64], ratio: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how many steps after each reading the ratio next rose through one, shape (n,).

    Zero at or above one, NaN where no crossing followed. Between two readings the logarithm of the
    ratio is taken as a straight line.

    Args:
        steps: Steps of the readings, increasing, shape (n,).
        ratio: Stability ratio, NaN where there is none, shape (n,).

    Example:
        >>> steps_until_crossing(np.array([0, 10, 20]), np.array([0.5, 0.8, 1.25]))
        array([15.,  5.,  0.])
    """
    until = np.full(len(steps), math.nan)
    crossing, after = math.nan, -1
    for i in reversed(np.flatnonzero(np.isfinite(ratio))):
        if ratio[i] < 1 and after >= 0 and ratio[after] >= 1:
            crossing = _interpolated(steps[i], steps[after], ratio[i], ratio[after])
        until[i] = crossing - steps[i] if ratio[i] < 1 else 0.0
        after = i
    return until


def _interpolated(first: float, second: float, below: float, above: float) -> float:
    if below <= 0:
        return float(second)
    share = -math.log(below) / (math.log(above) - math.log(below))
    return float(first + share * (second - first))


def _fan(row: Mapping[str, Any]) -> Fan | None:
    names = ("stability_ratio", "steps_to_instability", "interval_low", "interval_high")
    values = [math.nan if row.get(name) is None else float(row[name]) for name in names]
    ratio, ahead, low, high = values
    if not (all(math.isfinite(value) for value in values) and 0 < ratio < 1 and ahead > 0):
        return None
    step = row["step"]
    return Fan(step, ratio, step + ahead, step + low, step + high)
