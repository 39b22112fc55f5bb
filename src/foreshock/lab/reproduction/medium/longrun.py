"""A training of hours: it resumes where it stopped, and its last steps can be looked at again.

A checkpoint is the *oldest* state at hand, about a hundred steps back. What was measured later is measured
again after a resume, with the states and batches at hand that a spike needs to be taken apart.
"""

from __future__ import annotations

import copy
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreshock.demo.options import check_count
from foreshock.lab.reproduction.forks import Fork
from foreshock.lab.reproduction.plan import Moment
from foreshock.lab.reproduction.spikemap.course import Begin
from foreshock.lab.tasks import Training, TrainingConfig, build_task
from foreshock.lab.tasks.task import Batch
from foreshock.lab.tasks.training import to_device

KEEP_EVERY = 10
"""Steps between two states at hand."""
BACK = 120
"""Steps that can be looked back upon; a multiple of `KEEP_EVERY`."""
CHECKPOINT = "checkpoint.pt"

Columns = dict[str, list[tuple[int, float]]]
Losses = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class LongPlan(TrainingConfig):
    """A training at the middle scale, with the strides of its measurements.

    Attributes:
        probe_every: Steps between measurements of λ_max(Ĥ), a multiple of 10.
        direction_every: Steps between measurements of the curvature along the batch's gradient.
        probe_examples: Examples of the fixed batch on which λ_max(Ĥ) is measured, the first of the training
            set.
        events: Most spikes that are taken apart.
        checkpoint_seconds: Seconds between two checkpoints.

    Raises:
        ValueError: If a number is impossible.
    """

    probe_every: int = 20
    direction_every: int = 1
    probe_examples: int = 512
    events: int = 4
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        super().__post_init__()
        for name in ("probe_every", "direction_every", "probe_examples"):
            check_count(name, getattr(self, name))
        check_count("events", self.events, least=0)
        if self.probe_every % KEEP_EVERY:
            raise ValueError(
                f"probe_every is {self.probe_every}; it must be a multiple of {KEEP_EVERY}, the steps "
                "between two states that are kept"
            )

    def probe_batch(self, seed: int) -> Batch:
        """Return the first examples of the training set as one batch, on the device.

        Args:
            seed: Seed of the training.
        """
        task = build_task(self.family, batch_size=None, seed=seed, **self.options)
        whole = next(task.batches)
        first = tuple(tensor[: self.probe_examples] for tensor in whole)
        return to_device(first, self.torch_device)


@dataclass(frozen=True)
class State:
    """A training before a step.

    Attributes:
        step: The step.
        model: State of the model.
        optimizer: State of the optimizer.
        scheduler: State of the scheduler; None without one.
    """

    step: int
    model: dict[str, Any]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any] | None


class LongRun:
    """One training in progress, at whatever step was looked at last.

    Args:
        plan: What is trained.
        seed: Seed of the weights and of the batches.

    Attributes:
        training: Model, loss and optimizer.
        states: The states at hand, by step.
    """

    def __init__(self, plan: TrainingConfig, seed: int) -> None:
        self.training = Training(plan, seed)
        self.states: dict[int, State] = {}
        self._batches: dict[int, Batch] = {}
        self._drawn = 0

    def resume(self, state: State) -> None:
        """Go on from a state of an earlier process.

        Args:
            state: The state.
        """
        self.restore(state)
        for _ in range(state.step):
            next(self.training.batches)
        self._drawn = state.step

    def batch(self, step: int) -> Batch:
        """Return the batch of a step: a coming one, or one of the last that are at hand.

        Args:
            step: The step.
        """
        while self._drawn <= step:
            self._batches[self._drawn] = next(self.training.batches)
            self._drawn += 1
        return self._batches[step]

    def state(self, step: int) -> State:
        """Return a copy of the present state.

        Args:
            step: The step it is before.
        """
        training = self.training
        return State(
            step,
            {name: value.clone() for name, value in training.model.state_dict().items()},
            copy.deepcopy(training.optimizer.state_dict()),
            None if training.scheduler is None else training.scheduler.state_dict(),
        )

    def keep(self, step: int) -> None:
        """Keep the present state at every tenth step, and let go of what is too old.

        Args:
            step: The step it is before.
        """
        if step % KEEP_EVERY == 0:
            self.states[step] = self.state(step)
        for old in [kept for kept in self.states if kept < step - BACK]:
            del self.states[old]
        for old in [kept for kept in self._batches if kept < step - BACK]:
            del self._batches[old]

    def restore(self, state: State) -> None:
        """Put the training where it was before a step.

        Args:
            state: The state.
        """
        training = self.training
        training.model.load_state_dict(state.model)
        training.optimizer.load_state_dict(copy.deepcopy(state.optimizer))
        if training.scheduler is not None and state.scheduler is not None:
            training.scheduler.load_state_dict(state.scheduler)

    def backward(self, step: int) -> float:
        """Compute loss and gradient of the batch of a step, and return the loss.

        Args:
            step: The step.
        """
        training = self.training
        training.optimizer.zero_grad()
        loss: Tensor = training.loss_fn(training.model, self.batch(step))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    def update(self) -> None:
        """Take the step."""
        self.training.optimizer.step()
        if self.training.scheduler is not None:
            self.training.scheduler.step()

    def moment(self, state: State) -> Moment:
        """Return the training at a state, after ``backward()`` and before ``step()``.

        Args:
            state: The state.
        """
        self.restore(state)
        loss, training = self.backward(state.step), self.training
        return Moment(
            state.step,
            loss,
            self.batch(state.step),
            float("nan"),
            training.model,
            training.loss_fn,
            training.optimizer,
        )

    def branch(self, state: State, begin: Begin, *, steps: int) -> Losses:
        """Leave the course at a state, with the batches of the course, and return the losses of the branch.

        Args:
            state: Where.
            begin: How its steps are taken.
            steps: Updates.

        Returns:
            Loss before each update; a branch ends with the first that is not finite.
        """
        self.restore(state)
        advance = begin(Fork(self.training.model, self.training.optimizer, float("nan")))
        losses: list[float] = []
        for since in range(steps):
            losses.append(self.backward(state.step + since))
            if not np.isfinite(losses[-1]):
                break
            advance(since)
        return np.array(losses)


@dataclass
class Progress:
    """What a training has come to.

    Attributes:
        state: Where to go on; None at the start.
        columns: What was measured before it, by name.
        events: The spikes that were taken apart before it.
        seconds: Processor time so far.
    """

    state: State | None
    columns: Columns
    events: list[dict[str, float]]
    seconds: float = 0.0

    def save(self, path: Path) -> None:
        """Write it, whole or not at all.

        Args:
            path: The file.
        """
        partial = path.with_suffix(".partial")
        state = None if self.state is None else vars(self.state)
        torch.save({**vars(self), "state": state}, partial)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Progress:
        """Read what `save` wrote; an empty one if there is nothing to read.

        Args:
            path: The file.
        """
        try:
            kept = torch.load(path, map_location="cpu", weights_only=True)
            return cls(**{**kept, "state": None if kept["state"] is None else State(**kept["state"])})
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError):
            return cls(None, {}, [])  # none yet, or one that a full disk has torn


OnState = Callable[[int, float], bool]
"""Called with step and loss between ``backward()`` and ``step()``; True if the step begins a spike."""
OnSpike = Callable[[int], dict[str, float]]
"""Called with the onset of a spike, before the next step; returns what was found."""


def train(
    run: LongRun,
    progress: Progress,
    path: Path,
    *,
    look: OnState,
    take_apart: OnSpike,
) -> Iterator[int]:
    """Train to the last step, and save where to go on every few minutes.

    Args:
        run: The training, at its start.
        progress: What an earlier process has come to; columns are added to by `look`, events here.
        path: File of the checkpoints.
        look: Looks at a step.
        take_apart: Takes a spike apart; what it does to the training is undone.

    Yields:
        The steps done.
    """
    plan: LongPlan = run.training.config  # type: ignore[assignment]
    first = 0
    if progress.state is not None:
        first = progress.state.step
        run.resume(progress.state)
    clock, saved = time.process_time() - progress.seconds, time.monotonic()
    for step in range(first, plan.steps):
        run.keep(step)
        loss = run.backward(step)
        begins = look(step, loss)
        if not np.isfinite(loss):
            break
        run.update()
        if begins and len(progress.events) < plan.events:
            here = run.state(step + 1)
            progress.events.append(take_apart(step))
            run.restore(here)
        if time.monotonic() - saved > plan.checkpoint_seconds:
            progress.seconds, saved = time.process_time() - clock, time.monotonic()
            _until(progress, run.states[min(run.states)]).save(path)
        yield step + 1
    progress.seconds = time.process_time() - clock


def _until(progress: Progress, state: State) -> Progress:
    """Return what was known before a state."""
    columns = {
        name: [point for point in points if point[0] < state.step]
        for name, points in progress.columns.items()
    }
    events = [event for event in progress.events if event["onset"] < state.step]
    return Progress(state, columns, events, progress.seconds)
