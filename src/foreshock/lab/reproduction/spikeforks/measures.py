"""Branches → numbers, one set a copy: what training, validation and curvature came to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from foreshock.curvature import sharpness
from foreshock.eigen import StoppingRule
from foreshock.lab.reproduction.spikeforks.branches import LOOK_EVERY, WINDOW, Branch
from foreshock.lab.reproduction.spikemap.course import Course
from foreshock.lab.reproduction.spikemap.survey import FACTOR
from foreshock.lab.spikebench.spikes import spikes_above
from foreshock.lab.spikebench.trace import Column

_LAST = 100  # updates at the end of a branch whose median loss counts
_LAST_LOOKS = _LAST // LOOK_EVERY
_FIRST_LOOK = -(-WINDOW // LOOK_EVERY)  # after the window
_RULE = StoppingRule(relative_tolerance=0.05, max_products=10)

MEASURES: Mapping[str, str] = {
    "loss": "training loss, median of the last 100 steps",
    "best": "early-stopped validation loss: the lowest of the whole run",
    "after": "lowest validation loss since the fork",
    "final": "validation loss, median of the last 100 steps",
    "equal": "validation loss where the training loss first falls to the lowest that all branches reach",
    "sharpness": "λ_max(H) on the whole training set at the end",
}
"""What is compared, as natural logarithms."""


def measure_branch(course: Course, branch: Branch, *, best: float) -> dict[str, float]:
    """Return the measures of one branch but ``equal``, and how many spikes it has after the window.

    Its model must be the one that the course's training has.

    Args:
        course: The training.
        branch: The branch.
        best: Lowest validation loss of the run before the fork.
    """
    looks, finite = branch.looks, bool(np.isfinite(branch.losses).all())
    since = branch.looks.validation
    after = min((value for value in since if math.isfinite(value)), default=math.inf)
    later = Column(np.arange(branch.losses.size), branch.losses)
    found = {
        "loss": float(np.median(branch.losses[-_LAST:])) if finite else math.inf,
        "best": min(best, after),
        "after": after,
        "final": float(np.median(looks.validation[-_LAST_LOOKS:])) if finite else math.inf,
        "sharpness": _sharpness(course) if finite else math.nan,
    }
    logarithms = {name: _logarithm(value) for name, value in found.items()}
    spikes = [spike for spike in spikes_above(later, FACTOR) if spike.onset > WINDOW]
    return {**logarithms, "spikes": float(len(spikes))}


def _sharpness(course: Course) -> float:
    training = course.training
    return float(sharpness(training.model, training.loss_fn, course.whole, stop=_RULE).value)


def _logarithm(value: float) -> float:
    if math.isnan(value):
        return math.nan
    return math.log(value) if value > 0 else -math.inf


def lowest_common(passed: Sequence[Branch], prevented: Sequence[Branch]) -> float:
    """Return the lowest training loss that all branches reach after the window.

    Args:
        passed: Branches with the spike.
        prevented: Branches without.
    """
    reached = [min(one.looks.training[_FIRST_LOOK:], default=math.inf) for one in (*passed, *prevented)]
    return max(reached, default=math.inf)


def validation_at(level: float, training: Sequence[float], validation: Sequence[float]) -> float:
    """Return ln of the validation loss where the training loss first falls to a level.

    Between the two looks before and after it both are taken to be straight lines of their logarithms.

    Args:
        level: The training loss.
        training: Training losses in order.
        validation: Validation losses at the same steps.

    Returns:
        The logarithm; NaN if the level is not reached.

    Example:
        >>> round(math.exp(validation_at(2.0, [8.0, 4.0, 1.0], [9.0, 6.0, 1.5])), 3)
        3.0
    """
    for index, value in enumerate(training):
        if value <= level:
            now = _logarithm(validation[index])
            if index == 0 or not math.isfinite(training[index - 1]) or value <= 0:
                return now
            above, below = math.log(training[index - 1]), math.log(value)
            part = (above - math.log(level)) / (above - below) if above > below else 1.0
            earlier = _logarithm(validation[index - 1])
            return earlier + part * (now - earlier)
    return math.nan


def at_equal_training(
    passed: Sequence[Branch],
    prevented: Sequence[Branch],
    history: Sequence[tuple[float, float]],
) -> tuple[list[float], list[float]]:
    """Return ln of the validation loss at equal training loss, of branches with the spike and without.

    With the spike it is taken after the window, where the loss comes down again; without it where the run
    first was that low, which may be before the fork.

    Args:
        passed: Branches with the spike.
        prevented: Branches without.
        history: Training and validation losses of the run before the fork, in order.
    """
    level = lowest_common(passed, prevented)
    if not 0 < level < math.inf:
        return [math.nan] * len(passed), [math.nan] * len(prevented)
    own = [
        validation_at(level, one.looks.training[_FIRST_LOOK:], one.looks.validation[_FIRST_LOOK:])
        for one in passed
    ]
    others = []
    for one in prevented:
        training = [value for value, _ in history] + one.looks.training
        validation = [value for _, value in history] + one.looks.validation
        others.append(validation_at(level, training, validation))
    return own, others


def stays_high(branch: Branch, *, level: float, height: float) -> bool:
    """Return whether a branch with the spike never comes down: not finite, or above half of the rise.

    Args:
        branch: The branch.
        level: Training loss before the spike.
        height: Of the spike, in multiples of the level.
    """
    if not np.isfinite(branch.losses).all():
        return True
    rise = (height - 1) * level
    return math.isfinite(rise) and float(np.median(branch.losses[-_LAST:])) > level + rise / 2
