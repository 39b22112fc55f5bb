r"""What a spike does: the course with it against a branch in which v ≥ g², or clipping, prevents it.

Let A be the median training loss of the last thirty of 100 steps after the onset, with the spike and without,
V the validation loss where both have the same loss on the whole training set, R the spike's rise above its
level. The margin of A is 10 %, or twice the deviation of ln loss within those steps of the branch if that
is larger; that of V the same of its own values.

============ ==================================================================================
catastrophic the loss was not finite, or A with the spike is above the level before by more than R/2
malignant    V with the spike is higher by more than its margin; or V is not lower and A is higher
benign       V with the spike is lower by more than its margin; or V is not higher and A is lower
neutral      between them
============ ==================================================================================

`foreshock.explain` has the same four words for a log, where the trend stands for the run without the spike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from foreshock.lab.reproduction.spikemap.course import Begin, Course, Losses, as_before, clip_norm, floor_v
from foreshock.spikes import SpikeEvent

Outcome = Literal["neutral", "benign", "malignant", "catastrophic"]

AFTER = 100
"""Steps after an onset over which both branches are compared."""
_AHEAD = 40  # steps before the onset at which the spike begins to be prevented
_LOOK_EVERY, _JUDGED = 5, 30
_REMOVED = 3.0  # a branch below this multiple of the level has no spike, by the definition of one
_LEAST_MARGIN = math.log(1.1)


@dataclass(frozen=True)
class Comparison:
    """The course with a spike against the branch without.

    Attributes:
        measure: What prevented the spike: "floor" (v ≥ g²) or "clip".
        outcome: What the spike did.
        loss: ln of training loss with the spike ÷ without, after 100 steps.
        validation: ln of validation loss with ÷ without at equal training loss; NaN if there is none.
        margin: Margin of `validation`.
    """

    measure: str
    outcome: Outcome
    loss: float
    validation: float
    margin: float


class _Curve:
    """Loss on the whole training set and validation loss, every fifth step from an onset."""

    def __init__(self, course: Course, onset: int) -> None:
        self._course, self._onset = course, onset
        self.training: list[float] = []
        self.validation: list[float] = []

    def __call__(self, step: int) -> None:
        if step < self._onset or (step - self._onset) % _LOOK_EVERY:
            return
        training = self._course.training
        with torch.no_grad():
            self.training.append(float(training.loss_fn(training.model, self._course.whole)))
            held_out = training.task.validation
            if held_out is not None:
                self.validation.append(float(training.loss_fn(training.model, held_out)))


def compare(course: Course, spike: SpikeEvent) -> Comparison | None:
    """Compare a course after a spike with a branch in which it is prevented.

    Args:
        course: The training.
        spike: One of its spikes.

    Returns:
        The comparison; None if the course ends less than 100 steps after the onset, or no measure prevents
        the spike for that long.
    """
    if not can_compare(course, spike):
        return None
    measures: dict[str, Begin] = {"floor": floor_v, "clip": clip_norm}
    for name, begin in measures.items():
        prevented, curve = _follow(course, spike, begin)
        if prevented.size and np.nanmax(prevented) < _REMOVED * spike.reference:
            passed, with_spike = _follow(course, spike, None)
            return _judge(name, spike, (passed, with_spike), (prevented, curve))
    return None


def can_compare(course: Course, spike: SpikeEvent) -> bool:
    """Return whether a course goes on for long enough after a spike, or ended in it.

    Args:
        course: The training.
        spike: One of its spikes.
    """
    return spike.onset + AFTER <= course.losses.size or not np.isfinite(course.losses[-1])


def _follow(course: Course, spike: SpikeEvent, begin: Begin | None) -> tuple[Losses, _Curve]:
    """Return losses, from the onset on, and curves; without a measure, those of the course itself."""
    state = course.last_state(spike.onset - _AHEAD)
    curve = _Curve(course, spike.onset)
    steps = spike.onset + AFTER - state.step
    losses = course.branch(state, begin or as_before, steps=steps, look=curve)
    judged = course.branch_judged(state, losses)
    return judged[spike.onset - state.step :], curve


def _judge(
    measure: str, spike: SpikeEvent, passed: tuple[Losses, _Curve], prevented: tuple[Losses, _Curve]
) -> Comparison:
    (losses, curve), (others, other) = passed, prevented
    if losses.size < AFTER or not np.isfinite(losses[-1]):
        return Comparison(measure, "catastrophic", math.inf, math.nan, math.nan)
    tail, other_tail = losses[-_JUDGED:], others[-_JUDGED:]
    level = float(np.median(tail))
    loss = math.log(level / float(np.median(other_tail)))
    validation, margin = at_equal_training(
        (curve.training, curve.validation), (other.training, other.validation)
    )
    rise = (spike.height - 1) * spike.reference
    if math.isfinite(rise) and level > spike.reference + rise / 2:
        return Comparison(measure, "catastrophic", loss, validation, margin)
    return Comparison(
        measure, _outcome(loss, _margin(other_tail), validation, margin), loss, validation, margin
    )


def _outcome(loss: float, loss_margin: float, validation: float, margin: float) -> Outcome:
    if validation > margin:
        return "malignant"
    if validation < -margin:
        return "benign"
    # A validation loss that is unknown, NaN, decides nothing.
    return "malignant" if loss > loss_margin else "benign" if loss < -loss_margin else "neutral"


def at_equal_training(
    passed: tuple[list[float], list[float]], prevented: tuple[list[float], list[float]]
) -> tuple[float, float]:
    """Return ln of the validation loss with the spike ÷ without, at equal training loss, and its margin.

    Both are taken where the training loss first falls to the lowest level that both reach.

    Args:
        passed: Training and validation losses with the spike, at the same steps.
        prevented: Those without.

    Example:
        >>> ratio, margin = at_equal_training(([9, 4, 2], [8, 6, 4]), ([3, 2, 1], [4, 2, 2]))
        >>> round(ratio, 3), round(margin, 3)
        (0.693, 0.095)
    """
    if not passed[1] or not prevented[1]:
        return math.nan, math.nan
    level = max(min(passed[0]), min(prevented[0]))
    first, second = (
        validation[next(i for i, value in enumerate(training) if value <= level)]
        for training, validation in (passed, prevented)
    )
    margin = _margin(np.array(prevented[1][len(prevented[1]) // 2 :]))
    return (math.log(first / second) if min(first, second) > 0 else math.nan), margin


def _margin(values: NDArray[np.float64]) -> float:
    spread = float(np.std(np.log(np.maximum(values, 1e-300)))) if values.size > 1 else 0.0
    return max(_LEAST_MARGIN, 2 * spread)
