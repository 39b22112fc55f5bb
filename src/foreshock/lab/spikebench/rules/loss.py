"""Rules on the loss alone: what every training script could do today."""

from __future__ import annotations

import numpy as np

from foreshock.lab.spikebench.rules.rule import Rule
from foreshock.lab.spikebench.trace import Column, Trace
from foreshock.lab.spikebench.windows import Floats, previous, ratio

_SPAN, _LEAST = 100, 20
_SLACK, _LIMIT = 0.5, 4.0


def _deviations(column: Column, span: int, least: int) -> Floats:
    """Return by how many standard deviations of the `span` steps before it each value exceeds their mean."""
    excess = column.values - previous(np.mean, column, span, least)
    return ratio(excess, previous(np.std, column, span, least))


def _loss_score(trace: Trace) -> Column:
    loss = trace.column("loss")
    return Column(loss.steps, _deviations(loss, _SPAN, _LEAST))


def _cumulative(trace: Trace) -> Column:
    """Return S = max(0, S + z − ½), z the deviation, held within ±4 so that one step can't fill S."""
    loss = trace.column("loss")
    deviations = np.clip(np.nan_to_num(_deviations(loss, _SPAN, _LEAST), nan=0.0), -_LIMIT, _LIMIT)
    sums = np.zeros(deviations.size)
    total = 0.0
    for i, deviation in enumerate(deviations):
        total = max(0.0, total + float(deviation) - _SLACK)
        sums[i] = total
    return Column(loss.steps, sums)


def _skip_step(trace: Trace) -> Column:
    """Return the larger deviation of loss and gradient norm, over 128 steps, from the 64th on."""
    loss, norm = trace.column("loss"), trace.column("gradient_norm")
    deviations = np.fmax(
        _deviations(loss, 128, 64), Column(norm.steps, _deviations(norm, 128, 64)).held(loss.steps)
    )
    return Column(loss.steps, deviations)


LOSS_RULES = (
    Rule("loss z-score", "the last 100 steps' mean and deviation", (), _loss_score, 3.0),
    Rule("CUSUM of the loss", "Page 1954, slack ½ and limit 5 deviations", (), _cumulative, 5.0),
    Rule("SkipStep 6σ", "OLMo: loss or gradient norm over 128 steps", (), _skip_step, 6.0),
)
