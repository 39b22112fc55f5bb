"""Alarms counted against spikes, and the thresholds at which rules are compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshock.lab.spikebench.spikes import TALL, Truth
from foreshock.lab.spikebench.trace import Column
from foreshock.spikes import Readings, SpikeEvent, episode_gap, score

FALSE_RATE = 0.5
"""Most false alarms per 1,000 steps of development controls at a calibrated threshold."""
ALARM_SHARE = 0.05
"""Largest share of the steps in alarm: an alarm that never ends is a single false episode, or none."""
# Thresholds are tried at these upper tails of all scores; geometric, since alarms are rare.
_TAILS = np.geomspace(0.5, 2e-4, 80)
_CURVE_TAILS = np.geomspace(0.6, 2e-4, 22)

EARLY = 10  # steps: enough to act before the loss has left its level


@dataclass(frozen=True)
class Tally:
    """One trace at one threshold.

    Attributes:
        control: Whether the trace is a control.
        heights: Height of each spike.
        leads: Steps from the alarm to the onset of each spike; None where it was missed.
        false_alarms: Episodes of alarm in which no spike started.
        judged: Steps at which alarms are judged.
        outside: Those of them outside spikes.
        alarmed: Those of them, outside spikes, that spend in alarm.
    """

    control: bool
    heights: tuple[float, ...]
    leads: tuple[int | None, ...]
    false_alarms: int
    judged: int
    outside: int
    alarmed: int


def tally(
    truth: Truth, spikes: Sequence[SpikeEvent], steps: NDArray[np.int64], announces: NDArray[np.bool_]
) -> Tally:
    """Count alarms by the episodes of :func:`foreshock.spikes.scoring.score`.

    Episodes are parted by 20 steps without alarm, or by two measurements where those are further apart: else
    an alarm that never ceased would be counted once a measurement.

    Args:
        truth: The trace.
        spikes: The spikes to count against.
        steps: Steps at which the alarm is decided, of shape (n,).
        announces: Whether there is one, of shape (n,).
    """
    nothing = np.zeros(steps.size)
    result = (
        score(
            spikes,
            Readings(steps, announces, nothing, nothing),
            gap=episode_gap(steps),
            judged_from=int(truth.judged[0]) if truth.judged.size else 0,
        )
        if steps.size
        else None
    )
    held = Column(steps, announces.astype(float)).held(truth.judged) == 1
    return Tally(
        truth.control,
        tuple(spike.height for spike in spikes),
        tuple(outcome.lead for outcome in result.outcomes) if result else (None,) * len(spikes),
        len(result.false_alarms) if result else 0,
        int(truth.judged.size),
        int(truth.outside.sum()),
        int((held & truth.outside).sum()),
    )


def summed(tallies: Sequence[Tally]) -> dict[str, Any]:
    """Return the counts and rates of many traces: recall, leads, false alarms, time in alarm."""
    heights = [height for one in tallies for height in one.heights]
    leads = [lead for one in tallies for lead in one.leads]
    tall = [lead for height, lead in zip(heights, leads, strict=True) if height >= TALL]
    return {
        **_hits(leads),
        "tall": _hits(tall),
        "false_spiky": false_rate([one for one in tallies if not one.control]),
        "false_control": false_rate([one for one in tallies if one.control]),
        "share_spiky": alarm_share([one for one in tallies if not one.control]),
        "share_control": alarm_share([one for one in tallies if one.control]),
    }


def false_rate(tallies: Sequence[Tally]) -> float | None:
    """Return the false alarms per 1,000 judged steps; None without such steps."""
    steps = sum(one.judged for one in tallies)
    return 1000 * sum(one.false_alarms for one in tallies) / steps if steps else None


def alarm_share(tallies: Sequence[Tally]) -> float | None:
    """Return the share of judged steps outside spikes that is spent in alarm; None without such steps."""
    steps = sum(one.outside for one in tallies)
    return sum(one.alarmed for one in tallies) / steps if steps else None


def _hits(leads: Sequence[int | None]) -> dict[str, Any]:
    known = sorted(lead for lead in leads if lead is not None)
    count = len(leads)
    return {
        "spikes": count,
        "hits": len(known),
        "recall": len(known) / count if count else None,
        "recall_early": sum(lead >= EARLY for lead in known) / count if count else None,
        "lead_median": float(np.median(known)) if known else None,
        "lead_10": float(np.quantile(known, 0.1)) if known else None,
        "leads": known,
    }


def calibrated(controls: Sequence[tuple[Truth, Column]]) -> float:
    """Return the lowest threshold with at most 0.5 false alarms per 1,000 steps on these controls.

    Thresholds are tried downwards from the highest score until one fails. A threshold also fails if more than
    5 % of the steps are spent in alarm: an alarm that never ends is a single episode, or none where the run
    ends in it, so that without this the lowest threshold of all would qualify.

    Args:
        controls: Controls with one kind of batch, of the development split, with the scores of the rule.

    Returns:
        The threshold; infinity if none qualifies, NaN if there is no score.
    """
    if not any(column.steps.size for _, column in controls):
        return math.nan
    best = math.inf
    for threshold in sorted(_candidates(controls, _TAILS), reverse=True):
        tallies = [
            tally(truth, truth.spikes["3x"], column.steps, column.values > threshold)
            for truth, column in controls
        ]
        rate, share = false_rate(tallies), alarm_share(tallies)
        if rate is None or share is None or rate > FALSE_RATE or share > ALARM_SHARE:
            break
        best = threshold
    return best


def curve_grid(development: Sequence[tuple[Truth, Column]], default: float) -> list[float]:
    """Return increasing thresholds, from the scores of the development split and the rule's default."""
    return sorted({*_candidates(development, _CURVE_TAILS), default})


def _candidates(scored: Sequence[tuple[Truth, Column]], tails: np.ndarray) -> set[float]:
    """Return finite scores at these upper tails of all scores at judged steps outside spikes."""
    pooled = [column.held(truth.judged[truth.outside]) for truth, column in scored]
    values = np.concatenate(pooled) if pooled else np.empty(0)
    values = np.sort(values[np.isfinite(values)])
    if not values.size:
        return set()
    index = np.floor((1 - np.concatenate((tails, [0.0]))) * (values.size - 1)).astype(int)
    return {float(value) for value in values[index]}
