"""A rise of the loss within one step, from calm.

What changes a training – its rate, its options, its state, its parameters – acts on the loss of the *next*
step: that step is the first whose weights are made by it. Data act on the loss of the same step, whatever the
weights. Both leave the gradient of the step before as it was, which an instability, that grows for some
steps, does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from foreshock.explain.history import History, middle, quotient

if TYPE_CHECKING:
    from foreshock.spikes import LossEvent

LEFT = 0.35
"""Share of a rise that may be left in the steps after a batch that alone was bad."""
PART = 0.5
"""Height of a jump over that of its event, from which the one is the other."""
NEAR = 5
"""Steps before an onset in which the rise may have begun: a noisy loss is judged by a mean of five."""
ONE_STEP = 0.6
"""Share of the rise to the first summit that came in one step."""
CALM = 3.0
"""Gradient of the step before over its median: not more than that, where nothing builds up."""
WINDOW = 100
"""Steps before an event in which a rise of the learning rate counts."""

_TIMES = 2.0  # the rise over those within one step before: a loss that swings already is not calm
_DOUBLED, _CLEAN_SHARE, _CLEAN_BEFORE = 2.0, 0.8, 2.0  # rate, and the jump beside one that rises
_FIRST = 3  # steps after that step within which the first summit counts
_AFTER = 5


@dataclass(frozen=True)
class Jump:
    """A rise of the loss within one step, from calm.

    Attributes:
        at: Index of the step.
        share: Share of the rise to the first summit that came in it.
        before: Gradient of the step before, over its median.
        gradient: Gradient of the step, over the median.
        left: Share of the rise that was left over the next five steps; NaN if the run ended.
        times: The rise over the largest one within a step of the twenty steps before.
        part: Height of the step over that of the whole event: a small one was no more than its beginning.
    """

    at: int
    share: float
    before: float
    gradient: float
    left: float
    times: float = math.inf
    part: float = 1.0


def find_jump(history: History, event: LossEvent) -> Jump | None:
    """Return the step at which a loss rose at once from calm; None if the rise built up, or is not known.

    Args:
        history: The run.
        event: What happened to the loss.
    """
    onset, peak = history.at(event.onset), history.at(event.peak)
    first, last = max(onset - NEAR, 1), min(peak, onset)
    rises = np.diff(history.loss[first - 1 : last + 1])
    if not rises.size or not math.isfinite(event.reference):
        return None
    rises = np.where(np.isnan(rises), -math.inf, rises)
    at = first + int(np.argmax(rises))
    if history.steps[at] - history.steps[at - 1] > 1:
        return None  # between two steps that were logged an instability can grow and pass
    usual = history.usual(history.norm, at)
    if usual is None or not usual.median > 0 or not np.isfinite(history.loss[at]):
        return None
    summit = max(value for value in history.loss[at : at + _FIRST + 1].tolist() if not math.isnan(value))
    height = summit - event.reference
    share = float(rises.max()) / height if height > 0 and math.isfinite(height) else math.nan
    after = history.loss[at + 1 : at + 1 + _AFTER]
    left = quotient(middle(after) - event.reference, float(history.loss[at]) - event.reference)
    before = quotient(float(history.norm[at - 1]), usual.median)
    jump = Jump(
        at=at,
        share=share,
        before=before,
        gradient=quotient(float(history.norm[at]), usual.median),
        left=left if after.size >= 2 else math.nan,
        times=_over_rises(history, at, float(rises.max())),
        part=_part(float(history.loss[at]), event),
    )
    calm = jump.share >= ONE_STEP and jump.before <= CALM and jump.times >= _TIMES
    # A rate that rises for long makes a loss swing: a rise within one step must then be clean to count.
    rising = _rise_of_rate(history, onset) >= _DOUBLED
    clean = jump.share >= _CLEAN_SHARE and jump.before <= _CLEAN_BEFORE
    return jump if calm and (clean or not rising) else None


def _part(loss: float, event: LossEvent) -> float:
    return quotient(loss - event.reference, event.rise) if event.rise < math.inf else 1.0


def _rise_of_rate(history: History, onset: int) -> float:
    """Return the learning rate at an index over the lowest one of the hundred steps before."""
    rates = history.rate[max(onset - WINDOW, 0) : onset + 1]
    rates = rates[np.isfinite(rates) & (rates > 0)]
    return quotient(float(rates[-1]), float(rates.min())) if rates.size else 1.0


def _over_rises(history: History, at: int, rise: float) -> float:
    """Return a rise over the largest one within a step of the twenty steps before."""
    before = np.diff(history.loss[max(at - 21, 0) : at])
    before = before[np.isfinite(before)]
    largest = float(before.max()) if before.size else 0.0
    return quotient(rise, largest) if largest > 0 else math.inf
