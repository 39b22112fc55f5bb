"""What a log has on a run: its losses, its readings and announcements, and how much of it they covered."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from foreshock.runlog.numbers import as_number
from foreshock.runlog.values import recorded_losses
from foreshock.spikes import Readings, alarm_episodes, announcing, episode_gap

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from foreshock.runlog import Run

COOLDOWN, PROBE_FAILED = "cooldown", "probe failed"
CHANGES_NOTHING = ("none", COOLDOWN)
"""Remedies of a guard that change nothing."""


@dataclass(frozen=True)
class Coverage:
    """How much of a run was in alarm, and of how much nothing was known. Shares of its steps, from 0 to 1.

    Attributes:
        in_alarm: Share of the steps inside an episode of announcements; NaN without forecasts. An alarm that
            is always on announces every spike and says nothing.
        unknown: Share of the steps at which the state was unknown, or nothing had been forecast yet.
        age: Mean number of steps since the reading that the forecast rested on; NaN if it was not logged.
        oldest: The largest such number.
    """

    in_alarm: float = math.nan
    unknown: float = math.nan
    age: float = math.nan
    oldest: float = math.nan


def readings_of(run: Run, ends: Sequence[int] = ()) -> Readings:
    """Return what was measured and announced, a row per step with a reading or an announcement.

    Args:
        run: A run as read from its log.
        ends: Steps at which events of the loss ended: a forecast whose state is still ``spike`` after one is
            the echo of it, and announces nothing.
    """
    nan = math.nan
    curvature = {row["step"]: row for row in run.records.get("curvature", [])}
    announced = _announced(run.records.get("forecast", []), ends)
    ratio = {step: as_number(row.get("stability_ratio")) for step, row in (announced | curvature).items()}
    steps = sorted(step for step in ratio if math.isfinite(ratio[step]) or step in announced)
    gradient = [
        as_number(curvature[step].get("gradient_stability_ratio")) if step in curvature else nan
        for step in steps
    ]
    return Readings(
        steps=np.array(steps, dtype=np.int64),
        announces=np.array([step in announced for step in steps], dtype=np.bool_),
        stability_ratio=np.array([ratio[step] for step in steps], dtype=np.float64),
        gradient_stability_ratio=np.array(gradient, dtype=np.float64),
    )


def _announced(forecasts: Sequence[dict[str, Any]], ends: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Return the forecasts that announced, by step."""
    after = np.searchsorted(sorted(ends), [row["step"] for row in forecasts])
    found: dict[int, dict[str, Any]] = {}
    for _, rows in itertools.groupby(zip(after.tolist(), forecasts, strict=True), key=lambda pair: pair[0]):
        part = [row for _, row in rows]
        states = announcing([str(row.get("state")) for row in part], [_level(row) for row in part])
        found |= {row["step"]: row for row, on in zip(part, states, strict=True) if on}
    return found


def _level(row: Mapping[str, Any]) -> str | None:
    level = row.get("level")
    return level if isinstance(level, str) else None


def guard_steps(run: Run) -> list[int]:
    """Return the steps on which a guard changed something, in order; one step may be raised and clipped.

    Args:
        run: A run as read from its log.
    """
    rows = run.records.get("guard", [])
    return sorted({row["step"] for row in rows if row.get("remedy") not in CHANGES_NOTHING})


def coverage(run: Run) -> Coverage:
    """Return how much of a run was in alarm, and of how much nothing was known.

    A forecast holds until the next one, or until a probe fails. Nothing is known where the loss itself is no
    number. An episode of announcements lasts from its first announcing reading
    to the reading after its last one, or until the gap that ends an episode.

    Args:
        run: A run as read from its log.
    """
    steps, losses = recorded_losses(run)
    forecasts = sorted(run.records.get("forecast", []), key=lambda row: row["step"])
    if not len(steps) or not forecasts:
        return Coverage()
    made = np.array([row["step"] for row in forecasts], dtype=np.int64)
    held = np.searchsorted(made, steps, side="right") - 1
    nothing = np.array([row.get("state") == "unknown" for row in forecasts] + [True])  # −1: before the first
    unknown = nothing[held] | ~np.isfinite(losses) | _failing(run, made, steps)
    gap = episode_gap(made)
    in_alarm = np.zeros(len(steps), dtype=np.bool_)
    for first, last in alarm_episodes(readings_of(run), gap):
        after = int(np.searchsorted(made, last, side="right"))
        end = min(int(made[after]) if after < len(made) else last + gap, last + gap)
        in_alarm |= (steps >= first) & (steps < max(end, last + 1))
    measured = np.array([as_number(row.get("measured")) for row in forecasts] + [math.nan])
    ages = (steps - measured[held])[~unknown]
    known = ages[np.isfinite(ages)]
    return Coverage(
        in_alarm=float(in_alarm.mean()),
        unknown=float(unknown.mean()),
        age=float(known.mean()) if len(known) else math.nan,
        oldest=float(known.max()) if len(known) else math.nan,
    )


def until(event: Mapping[str, Any]) -> int:
    """Return the last step of an event that was counted when it was written: it came at each step up to it.

    Args:
        event: A record of kind event.
    """
    return int(event.get("until", event["step"]))


def times(event: Mapping[str, Any]) -> int:
    """Return how often an event came, by its own count.

    Args:
        event: A record of kind event.
    """
    return int(event.get("count", 1))


def _failing(run: Run, made: NDArray[np.int64], steps: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether the last attempt at a reading failed, at each step: since then nothing is known."""
    failed = sorted(
        (row["step"], until(row)) for row in run.records.get("event", []) if row.get("name") == PROBE_FAILED
    )
    first, last = np.array([(-1, -1), *failed], dtype=np.int64).T
    # Of an attempt that failed at the step of a forecast, the forecast says what is left.
    last_failure = np.minimum(steps, last[np.searchsorted(first, steps, side="right") - 1])
    last_forecast = np.concatenate(([-1], made))[np.searchsorted(made, steps, side="right")]
    return np.asarray(last_failure > last_forecast)
