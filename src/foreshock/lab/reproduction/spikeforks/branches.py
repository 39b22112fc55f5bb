"""One branch of a fork: the spike is let pass or prevented for a window, then plain AdamW goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from foreshock.guarding import guard
from foreshock.lab.reproduction.forks import Fork, scale_rate
from foreshock.lab.reproduction.spikemap.course import Course, Losses, State
from foreshock.lab.tasks import Training, perturb_weights

AHEAD = 40
"""Steps before the onset at which branches leave the course."""
WINDOW = 100
"""Steps from the fork in which a spike is prevented; in all branches nothing is done afterwards."""
LOOK_EVERY = 10

BeforeStep = Callable[[int, Any], None]
"""Called with the steps since the fork and the batch, between ``backward()`` and ``step()``."""


@dataclass(frozen=True)
class Looks:
    """Loss on the whole training set and on what is held out, at the same steps.

    Attributes:
        training: The first.
        validation: The second.
    """

    training: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)

    def add(self, course: Course, training: float | None = None) -> None:
        """Evaluate the model as it is now.

        Args:
            course: Whose training has the model.
            training: Loss on the whole training set, where it is known.
        """
        model, loss_fn = course.training.model, course.training.loss_fn
        with torch.no_grad():
            whole = float(loss_fn(model, course.whole)) if training is None else training
            self.training.append(whole)
            self.validation.append(float(loss_fn(model, course.training.task.validation)))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Branch:
    """One branch.

    Attributes:
        losses: Loss before each update, in mini-batches the mean of five; it ends with the first that is not
            finite.
        looks: Losses on the whole sets every ten steps.
        complete: Whether it was followed to the end, or to a loss that is not finite: a branch that did
            not do in its window what it should is left there.
    """

    losses: Losses
    looks: Looks
    complete: bool


@contextmanager
def _passing(training: Training, *, full_batch: bool) -> Iterator[BeforeStep]:
    del training, full_batch

    def before(since: int, batch: Any) -> None:
        del since, batch

    yield before


@contextmanager
def _guarded(training: Training, *, full_batch: bool) -> Iterator[BeforeStep]:
    watched = guard(training.optimizer)

    def before(since: int, batch: Any) -> None:
        if since == WINDOW:
            watched.detach()
        elif since < WINDOW and not full_batch:
            watched.measure(training.model, training.loss_fn, batch)

    try:
        yield before
    finally:
        watched.detach()


@contextmanager
def _at_half_rate(training: Training, *, full_batch: bool) -> Iterator[BeforeStep]:
    del full_batch
    change = scale_rate(0.5, steps=WINDOW)(Fork(training.model, training.optimizer, math.nan))

    def before(since: int, batch: Any) -> None:
        del batch
        change(since)

    yield before


WAYS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {"pass": _passing, "guard": _guarded, "rate": _at_half_rate}
)
"""What is done in the window: nothing; `foreshock.guard`, in mini-batches with ``measure``; half the rate."""
PREVENTIONS = ("guard", "rate")


def follow(course: Course, state: State, way: str, *, start: int, steps: int, bar: float) -> Branch:
    """Leave a course at a state, from weights that are perturbed by 10⁻⁶, with the same batches.

    Args:
        course: The training.
        state: Where.
        way: What is done in the window: a name in `WAYS`.
        start: Number of the perturbed start; 0 leaves the weights as they are.
        steps: Updates, at least the window's.
        bar: Loss above which there is a spike. A branch that lets it pass and has none in the window, or
            that prevents it and has one, is not followed further.
    """
    course.draw_batches(state.step + steps)
    course.restore(state)
    training = course.training
    perturb_weights(training.model, start)
    looks, losses = Looks(), list[float]()
    with WAYS[way](training, full_batch=course.full_batch) as before:
        for since, batch in enumerate(course.batches[state.step : state.step + steps]):
            if since == WINDOW and _spiked(course, state, losses, bar) != (way == "pass"):
                break
            loss = course.backward(batch)
            losses.append(loss)
            if not math.isfinite(loss):
                break
            if since % LOOK_EVERY == 0:
                looks.add(course, loss if course.full_batch else None)
            before(since, batch)
            training.optimizer.step()
    did = _spiked(course, state, losses[:WINDOW], bar) == (way == "pass")
    return Branch(course.branch_judged(state, np.array(losses)), looks, complete=did)


def _spiked(course: Course, state: State, losses: list[float], bar: float) -> bool:
    judged = course.branch_judged(state, np.array(losses))
    return not bool(np.isfinite(judged).all() and judged.max() < bar)


def look_back(course: Course) -> dict[int, tuple[float, float]]:
    """Return the losses on the whole training set and on what is held out, by step, every ten steps.

    Args:
        course: The training.
    """
    found = {}
    for step, state in course.states.items():
        if step % LOOK_EVERY == 0:
            course.training.model.load_state_dict(state.model)
            looks = Looks()
            looks.add(course)
            found[step] = looks.training[0], looks.validation[0]
    return found
