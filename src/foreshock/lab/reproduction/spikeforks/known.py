"""What is known of a training when a spike announces itself, forty steps before its onset."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from foreshock.lab.reproduction.spikeforks.branches import AHEAD
from foreshock.lab.reproduction.spikemap.course import Course, State
from foreshock.lab.reproduction.spikemap.findings import LEAST_GROWTH
from foreshock.lab.reproduction.spikemap.readings import last_rise, read_before, split_rise

_PLACES = (100, 80, 60, AHEAD)
_TREND = 100


def known_before(
    course: Course, state: State, onset: int, history: Mapping[int, tuple[float, float]]
) -> dict[str, float]:
    """Return what can be measured at a fork without knowing what follows.

    Args:
        course: The training.
        state: Where the fork is.
        onset: First step of the spike.
        history: Losses on the whole training set and on what is held out, by step.

    Returns:
        By name: ``ratio``, λ_max(Ĥ)·η/2; ``lag`` and ``noise`` as on the map; ``share``, the part of v in
        the rise of ln λ_max(Ĥ) over the sixty steps before, NaN where it rose by less than 3 %;
        ``level``, ln of training loss ÷ that at the start; ``gap``, ln of validation ÷ training loss;
        ``past best``, ln of validation loss ÷ its lowest so far; ``trend``, ln of validation loss ÷ that a
        hundred steps before; ``training accuracy`` and ``validation accuracy``, NaN without labels.
    """
    step = max(at for at in history if at <= state.step)
    training, validation = history[step]
    before = history[max(0, step - _TREND)][1]
    lowest = min(value for at, (_, value) in history.items() if at <= step)
    found = {
        "level": _ratio(training, history[0][0]),
        "gap": _ratio(validation, training),
        "past best": _ratio(validation, lowest),
        "trend": _ratio(validation, before),
    }
    course.restore(state)
    found["training accuracy"] = accuracy(course.training.model, course.whole)
    found["validation accuracy"] = accuracy(course.training.model, course.training.task.validation)
    return found | _curvature(course, onset)


def _curvature(course: Course, onset: int) -> dict[str, float]:
    readings = read_before(course, onset, _PLACES)
    last = readings[-1]
    found = {"ratio": last.ratio, "lag": last.lag, "noise": last.noise, "share": math.nan}
    rise = last_rise(readings, onset)
    growth = None if rise is None else split_rise(course, rise)
    if growth is not None and growth.total >= LEAST_GROWTH:
        found["share"] = growth.share
    return found


@torch.no_grad()
def accuracy(model: torch.nn.Module, batch: Any) -> float:
    """Return the share of labels with the highest score; NaN where the targets are no labels.

    Args:
        model: Maps inputs to scores.
        batch: Inputs, and integer labels (N,) or of the last positions.
    """
    if len(batch) != 2 or batch[1].is_floating_point():
        return math.nan
    inputs, labels = batch
    scores = model(inputs)
    scores = scores[:, -labels.shape[1] :] if labels.ndim > 1 else scores
    return float((scores.argmax(dim=-1) == labels).double().mean())


def _ratio(one: float, other: float) -> float:
    """Return ln of a quotient; NaN unless both are positive."""
    return math.log(one / other) if one > 0 and other > 0 else math.nan
