"""What comes before a spike: which ratio crosses first, lag and noise, and the rise of λ_max(Ĥ), split."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foreshock.curvature import loss_terms
from foreshock.dynamics import mean_square_ratio
from foreshock.eigen import StoppingRule, largest_eigenvalue
from foreshock.isolation import isolated
from foreshock.lab.reproduction.frozen import Growth, point_of, split_growth
from foreshock.lab.reproduction.plan import Moment
from foreshock.lab.reproduction.spikemap.course import Course
from foreshock.operators import PreconditionedOperator, choose_backend, hessian_operator
from foreshock.preconditioner import Preconditioner, read_preconditioner
from foreshock.vectors import rayleigh_quotient

MARGIN = 10
"""Readings closer to the onset than this belong to the spike itself."""
# Close to the spike readings are denser; they end at the onset.
PLACES = (100, 80, 60, 45, 35, 25, 20, 15, 10, 5, 0)
_BATCHES = 4  # batches that noise is measured on
_EARLIEST = 20
_RULE = StoppingRule(relative_tolerance=0.02, threshold=1.0, max_products=20)


@dataclass(frozen=True)
class Reading:
    """What was measured at a step, in multiples of the edge.

    Attributes:
        step: The step.
        ratio: λ_max(Ĥ)·η/2 of all data, with the factor of momentum.
        gradient_ratio: The curvature of the batch along its gradient, gᵀĤg/‖g‖².
        mean_square: The mean-square ratio along the top eigenvector of all data; in full batch it is `ratio`.
        lag: Σv̂ ÷ Σ E[g²].
        noise: tr Cov(A^{1/2}g) ÷ ‖A^{1/2}E[g]‖², 0 in full batch.
    """

    step: int
    ratio: float
    gradient_ratio: float
    mean_square: float
    lag: float
    noise: float


def read_before(course: Course, onset: int, places: Sequence[int] = PLACES) -> list[Reading]:
    """Measure in the hundred steps before an onset, at states that were kept.

    Args:
        course: The training.
        onset: First step of the spike.
        places: How many steps before the onset, decreasing.
    """
    wanted = dict.fromkeys(course.last_state(max(onset - back, _EARLIEST)).step for back in places)
    readings, start = [], None
    for step in wanted:
        moment = course.moment(course.states[step])
        reading, start = _read(course, moment, start)
        readings.append(reading)
    return readings


def last_rise(readings: Sequence[Reading], onset: int) -> tuple[int, int] | None:
    """Return the steps between which λ_max(Ĥ) last rose: from its lowest reading to the highest after it.

    A spike before leaves a high v behind; what came before its end is no rise towards this one.

    Args:
        readings: Readings before an onset, in order.
        onset: The onset. Readings closer than ten steps are left out: a loss that has left its level moves
            the landscape by itself.

    Returns:
        First and last step; None with fewer than two readings.
    """
    calm = [reading for reading in readings if reading.step <= onset - MARGIN]
    return lowest_to_highest([reading.step for reading in calm], [reading.ratio for reading in calm])


def lowest_to_highest(steps: Sequence[int], ratios: Sequence[float]) -> tuple[int, int] | None:
    """Return the step of the lowest reading but the last, and that of the highest one after it.

    Args:
        steps: Steps of the readings, increasing.
        ratios: The readings.

    Returns:
        Both; None with fewer than two readings.

    Example:
        >>> lowest_to_highest([0, 10, 20, 30], [0.7, 0.4, 0.9, 0.8])
        (10, 20)
    """
    if len(steps) < 2:
        return None
    low = min(range(len(steps) - 1), key=lambda index: ratios[index])
    high = max(range(low + 1, len(steps)), key=lambda index: ratios[index])
    return steps[low], steps[high]


def split_rise(course: Course, rise: tuple[int, int]) -> Growth | None:
    """Split the growth of ln λ_max(Ĥ) over all data between two steps whose state was kept.

    Args:
        course: The training.
        rise: First and last step.

    Returns:
        The parts, or None if curvature is not positive.
    """
    then = point_of(course.moment(course.states[rise[0]]))
    moment = course.moment(course.states[rise[1]])
    return split_growth(moment, course.whole, then, point_of(moment))


def _read(course: Course, moment: Moment, start: Tensor | None) -> tuple[Reading, Tensor]:
    preconditioner = read_preconditioner(moment.optimizer)
    root = preconditioner.scale_root()
    with _operator(moment, preconditioner, course.whole) as (operator, _):
        draw = torch.randn(root.shape, generator=torch.Generator().manual_seed(0)).to(root)
        # Not the last vector alone: if it had nothing of the new direction, it would never find it.
        first = draw if start is None else start + 0.1 * draw / float(torch.linalg.vector_norm(draw))
        result = largest_eigenvalue(operator, first, _RULE)
    gradient = preconditioner.gradient()
    images, gradients = [], []
    for batch in _batches(course, moment.step):
        with _operator(moment, preconditioner, batch) as (operator, hessian):
            if batch is moment.batch:
                along = rayleigh_quotient(gradient, operator.curvature(gradient) * root**2)
            gradients.append(hessian.gradient.detach().clone())
            if not course.full_batch:
                images.append(operator(result.vector))
    squared = sum(float(g @ g) for g in gradients) / len(gradients)
    reading = Reading(
        moment.step,
        result.value,
        along,
        result.value if course.full_batch else _mean_square(preconditioner, result.vector, images),
        _second_moment(moment) / squared if squared > 0 else math.inf,
        0.0 if course.full_batch else _noise([root * g for g in gradients]),
    )
    return reading, result.vector


def _batches(course: Course, step: int) -> list[Any]:
    """Return the batch of a step and a few that follow, or precede it at the end of the training."""
    if course.full_batch:
        return [course.batches[step]]
    first = min(step, len(course.batches) - _BATCHES)
    return course.batches[max(first, 0) : first + _BATCHES]


@contextmanager
def _operator(
    moment: Moment, preconditioner: Preconditioner, batch: Any
) -> Iterator[tuple[PreconditionedOperator, Any]]:
    loss = loss_terms(moment.model, moment.loss_fn, batch)
    parameters = preconditioner.parameters
    with torch.enable_grad(), isolated(moment.model):
        choice = choose_backend(loss, parameters, model=moment.model)
        with hessian_operator(choice, loss, parameters, model=moment.model) as hessian:
            operator = PreconditionedOperator(
                hessian,
                preconditioner.scale_root(),
                shift=preconditioner.coupled_decay(),
                sign=preconditioner.sign,
            )
            yield operator, hessian


def _mean_square(preconditioner: Preconditioner, vector: Tensor, images: Sequence[Tensor]) -> float:
    middle, variance = _spread(images)
    mean = float(vector @ middle)
    if not mean > 0:
        return math.nan  # along a direction of negative curvature nothing oscillates
    return mean_square_ratio(preconditioner.recursion, learning_rate=2.0, mean=mean, variance=variance)


def _spread(vectors: Sequence[Tensor]) -> tuple[Tensor, float]:
    """Return the mean and the total variance, unbiased."""
    stacked = torch.stack(list(vectors))
    middle = stacked.mean(dim=0)
    return middle, float((stacked - middle).square().sum()) / max(len(vectors) - 1, 1)


def _noise(gradients: Sequence[Tensor]) -> float:
    middle, variance = _spread(gradients)
    signal = float(middle @ middle) - variance / len(gradients)
    # Where noise dominates the unbiased signal may be negative; a hundredth of the noise is as good as none.
    return variance / max(signal, 0.01 * variance) if variance > 0 else 0.0


def _second_moment(moment: Moment) -> float:
    total = 0.0
    for group in moment.optimizer.param_groups:
        for parameter in group["params"]:
            state = moment.optimizer.state[parameter]
            correction = 1 - group["betas"][1] ** float(state["step"])
            total += float(state["exp_avg_sq"].sum()) / correction
    return total


def lead_of(steps: Sequence[int], values: Sequence[float], onset: int) -> float:
    """Return how many steps before an onset a ratio first was at or above one; NaN if it never was.

    Args:
        steps: Steps of the readings, increasing.
        values: The ratio there.
        onset: The onset.

    Example:
        >>> lead_of([0, 10, 20], [0.9, 1.1, 0.8], 25), lead_of([0], [0.5], 25)
        (15.0, nan)
    """
    above = [step for step, value in zip(steps, values, strict=True) if value >= 1]
    return float(onset - above[0]) if above else math.nan
