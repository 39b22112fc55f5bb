"""A training that is kept in memory, so that each of its steps can be looked at again or left another way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from foreshock.lab.reproduction.forks import Fork, clip, hold_up_v
from foreshock.lab.reproduction.plan import Moment
from foreshock.lab.spikebench.spikes import judged_column
from foreshock.lab.spikebench.trace import Column
from foreshock.lab.tasks import OptimizerConfig, Step, Training, TrainingConfig, build_optimizer

KEEP_EVERY = 5
"""Steps between two states that are kept."""
# Relative size of the displacement that tells whether a spike is a matter of chance.
_DISPLACEMENT = 1e-4

Losses = NDArray[np.float64]
Advance = Callable[[int], None]
"""Takes one step in place of ``optimizer.step()``; called with the steps since the fork."""
Begin = Callable[[Fork], Advance]
"""Called once where a branch leaves the course; returns what takes its steps."""


@dataclass(frozen=True)
class State:
    """A training before a step.

    Attributes:
        step: The step.
        model: State of the model.
        optimizer: State of the optimizer.
    """

    step: int
    model: dict[str, Any]
    optimizer: dict[str, Any]


class Course:
    """Train to the end, and keep every loss, every batch and the state at every fifth step.

    Args:
        config: What is trained; small enough that hundred states fit into memory.
        seed: Seed of the weights and of the batches.
        build: Builds the optimizer from model and settings.

    Attributes:
        training: The training, at whatever step was looked at last.
        losses: Loss before each update, shape (steps,). It ends with the first that is not finite.
        batches: The batch of each step.
        states: What was kept, by step.
    """

    def __init__(
        self,
        config: TrainingConfig,
        seed: int,
        *,
        build: Callable[[nn.Module, OptimizerConfig], Optimizer] = build_optimizer,
    ) -> None:
        self.training = Training(config, seed, build=build)
        self.whole = next(Training(_full(config), seed).batches)
        self.batches: list[Any] = []
        self.states: dict[int, State] = {}
        self._norms: list[float] = []
        self.losses: Losses = np.array([step.loss for step in self.training.run(before_step=self._keep)])

    @property
    def full_batch(self) -> bool:
        """Whether every step sees all data."""
        return self.training.config.full_batch

    @property
    def judged(self) -> Column:
        """The losses in which spikes are sought: in mini-batches the mean of five."""
        return judged_column(Column(np.arange(self.losses.size), self.losses), smooth=not self.full_batch)

    def _keep(self, step: Step) -> None:
        self.batches.append(step.batch)
        gradients = [p.grad for p in self.training.model.parameters() if p.grad is not None]
        self._norms.append(float(torch.stack([g.square().sum() for g in gradients]).sum()) ** 0.5)
        if step.index % KEEP_EVERY == 0:
            model = {name: value.clone() for name, value in self.training.model.state_dict().items()}
            self.states[step.index] = State(
                step.index, model, copy.deepcopy(self.training.optimizer.state_dict())
            )

    def draw_batches(self, count: int) -> None:
        """Draw batches beyond the end of the training, as it would have gone on, until there are so many.

        Args:
            count: How many batches to have in all.
        """
        while len(self.batches) < count:
            self.batches.append(next(self.training.batches))

    def last_state(self, step: int) -> State:
        """Return the last state kept at or before a step.

        Args:
            step: The step; below zero it is zero.
        """
        return self.states[max(step, 0) // KEEP_EVERY * KEEP_EVERY]

    def restore(self, state: State) -> None:
        """Put the training where it was before a step."""
        self.training.model.load_state_dict(state.model)
        self.training.optimizer.load_state_dict(copy.deepcopy(state.optimizer))

    def moment(self, state: State) -> Moment:
        """Return the training at a state, after ``backward()`` and before ``step()``."""
        self.restore(state)
        training, batch = self.training, self.batches[state.step]
        return Moment(
            state.step,
            self.backward(batch),
            batch,
            float("nan"),
            training.model,
            training.loss_fn,
            training.optimizer,
        )

    def backward(self, batch: Any) -> float:
        """Compute the gradients of a batch, where the training is now, and return its loss.

        Args:
            batch: A batch.
        """
        self.training.optimizer.zero_grad()
        loss: Tensor = self.training.loss_fn(self.training.model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def branch(
        self, state: State, begin: Begin, *, steps: int, look: Callable[[int], None] | None = None
    ) -> Losses:
        """Leave the course at a state, with the same batches, and return the losses of the branch.

        Args:
            state: Where.
            begin: How its steps are taken.
            steps: Updates; fewer if the batches of the course end before.
            look: Called before each update with the number of the step, counted as in the course.

        Returns:
            Loss before each update; a branch ends with the first that is not finite.
        """
        self.restore(state)
        training = self.training
        recent = self._norms[max(state.step - 100, 0) : state.step + 1]
        advance = begin(Fork(training.model, training.optimizer, float(np.median(recent))))
        losses = []
        for since, batch in enumerate(self.batches[state.step : state.step + steps]):
            losses.append(self.backward(batch))
            if not np.isfinite(losses[-1]):
                break
            if look is not None:
                look(state.step + since)
            advance(since)
        return np.array(losses)

    def branch_judged(self, state: State, losses: Losses) -> Losses:
        """Return the losses of a branch, in mini-batches the mean of five, those before the fork included.

        Args:
            state: Where it left the course.
            losses: Its losses.
        """
        before = self.losses[max(state.step - 4, 0) : state.step]
        joined = np.concatenate([before, losses])
        column = judged_column(Column(np.arange(joined.size), joined), smooth=not self.full_batch)
        values: Losses = column.values[before.size :]
        return values


def _full(config: TrainingConfig) -> TrainingConfig:
    return TrainingConfig(config.name, config.family, config.optimizer, 1, None, config.options)


def as_before(fork: Fork) -> Advance:
    """Take the steps that the optimizer would have taken."""

    def advance(since: int) -> None:
        del since
        _ordinary(fork)

    return advance


def displaced(fork: Fork) -> Advance:
    """Move the weights by 10⁻⁴, then take ordinary steps: a spike that this removes is a matter of chance."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in fork.model.parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.mul_(1 + _DISPLACEMENT * noise)
    return as_before(fork)


def freeze_v(fork: Fork) -> Advance:
    """Take steps with the second moment as it is at the fork; the first moment goes on as in AdamW."""
    optimizer = fork.optimizer
    scales: dict[Tensor, Tensor] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            correction = 1 - group["betas"][1] ** float(state["step"])
            scales[parameter] = (state["exp_avg_sq"] / correction).sqrt_().add_(group["eps"])

    @torch.no_grad()
    def advance(since: int) -> None:
        del since
        for group in optimizer.param_groups:
            rate, beta1 = group["lr"], group["betas"][0]
            for parameter in group["params"]:
                state = optimizer.state[parameter]
                state["step"] += 1
                state["exp_avg"].lerp_(parameter.grad, 1 - beta1)
                parameter.mul_(1 - rate * group["weight_decay"])
                correction = 1 - beta1 ** float(state["step"])
                parameter.addcdiv_(state["exp_avg"], scales[parameter], value=-rate / correction)

    return advance


def floor_v(fork: Fork) -> Advance:
    """Keep v at or above g²."""
    hold = hold_up_v(fork)

    def advance(since: int) -> None:
        hold(since)
        _ordinary(fork)

    return advance


def clip_norm(fork: Fork) -> Advance:
    """Clip ‖g‖ to its median over the hundred steps before the fork."""
    limit = clip(fork)

    def advance(since: int) -> None:
        limit(since)
        _ordinary(fork)

    return advance


def _ordinary(fork: Fork) -> None:
    fork.optimizer.step()
