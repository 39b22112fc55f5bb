"""Thresholds at which a rule is compared: one chosen on development controls, and a grid for its curve."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from foreshock.lab.spikebench.scores.tally import alarm_share, false_rate, tally
from foreshock.lab.spikebench.scores.truth import Truth
from foreshock.lab.spikebench.trace import Column

FALSE_RATE = 0.5
ALARM_SHARE = 0.05
_TAILS = np.geomspace(0.5, 2e-4, 80)
_CURVE_TAILS = np.geomspace(0.6, 2e-4, 22)


def calibrated(controls: Sequence[tuple[Truth, Column]]) -> float:
    """Return the lowest threshold with at most 0.5 false alarms per 1,000 steps on these controls.

    Thresholds are tried downwards from the highest score until one fails. One fails also if more than
    5 % of the steps are spent in alarm: an alarm that never ends is a single episode, or none where the run
    ends in it, so that without this the lowest threshold of all would do.

    Args:
        controls: Controls of one kind, of the development split, with the scores of the rule.

    Returns:
        The threshold; infinity if none will do, NaN if there is no score.
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
