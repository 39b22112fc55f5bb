"""A neural ordinary differential equation with a fixed number of steps, fitted to whole trajectories."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from foreshock.demo.options import check_count
from foreshock.lab.tasks.streams import stream_batches
from foreshock.lab.tasks.task import Batch, Task, build_seeded

STEP = 0.25
FINE = 20  # steps of the true solution within one of the model's
HELD_OUT = 50
DATA_SEED = 0


def build_flow(
    *, batch_size: int | None, seed: int, trajectories: int = 50, length: int = 8, width: int = 48
) -> Task:
    """Build a tanh vector field whose midpoint steps of .25 follow a van der Pol oscillator, μ = 1.5.

    Args:
        batch_size: Trajectories in a batch; None for all.
        seed: Seed of the initial weights and of the batches.
        trajectories: Number of trajectories, from starts uniform in [−2, 2]².
        length: Steps of each.
        width: Units in each of the two hidden layers of the field.

    Raises:
        ValueError: If an option is out of range.
    """
    for name, value in (("trajectories", trajectories), ("length", length), ("width", width)):
        check_count(name, value)
    generator = torch.Generator().manual_seed(DATA_SEED)
    starts = 4 * torch.rand(trajectories + HELD_OUT, 2, generator=generator) - 2
    paths = _true_paths(starts, length)
    return Task(
        name="flow",
        model=build_seeded(lambda: Flow(length, width), seed=seed),
        loss_fn=log_cosh_error,
        batches=stream_batches(
            (starts[:trajectories], paths[:trajectories]), batch_size=batch_size, seed=seed
        ),
        batch_size=batch_size,
        examples=trajectories,
        validation=(starts[trajectories:], paths[trajectories:]),
    )


class Flow(nn.Module):
    """Follow a learnt vector field by the midpoint rule."""

    def __init__(self, length: int, width: int) -> None:
        """Create the field.

        Args:
            length: Steps to take.
            width: Units in each hidden layer.
        """
        super().__init__()
        self.length = length
        hidden = [nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()]
        self.field = nn.Sequential(*hidden, nn.Linear(width, 2))

    def forward(self, states: Tensor) -> Tensor:
        """Map starts of shape (N, 2) to the states after each step, (N, length, 2)."""
        path = []
        for _ in range(self.length):
            middle = states + STEP / 2 * self.field(states)
            states = states + STEP * self.field(middle)
            path.append(states)
        return torch.stack(path, dim=1)


def log_cosh_error(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean of ln cosh(error): half its square where it is small, its modulus where it is large.

    Args:
        model: Maps inputs to predictions of the targets' shape.
        batch: Inputs and targets, both of shape (N, …).
    """
    inputs, targets = batch
    error = (model(inputs) - targets).abs()
    # ln cosh e = e + ln(1 + exp(−2e)) − ln 2 does not overflow.
    mean: Tensor = (error + torch.log1p(torch.exp(-2 * error)) - math.log(2)).mean()
    return mean


def _true_paths(states: Tensor, length: int) -> Tensor:
    path = []
    for _ in range(length):
        for _ in range(FINE):
            middle = states + STEP / FINE / 2 * _oscillator(states)
            states = states + STEP / FINE * _oscillator(middle)
        path.append(states)
    return torch.stack(path, dim=1)


def _oscillator(states: Tensor) -> Tensor:
    x, speed = states.unbind(dim=1)
    return torch.stack([speed, 1.5 * (1 - x**2) * speed - x], dim=1)
