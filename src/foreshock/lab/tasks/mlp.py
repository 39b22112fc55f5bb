"""Regression with a fully connected network: a sum of sines in one dimension, a quadratic form in many."""

from __future__ import annotations

import itertools
import math
from typing import TypeAlias

import torch
from torch import Tensor, nn

from foreshock.demo.options import check_choice, check_count
from foreshock.lab.tasks.streams import stream_batches
from foreshock.lab.tasks.task import Task, build_seeded, squared_error

QUADRATIC_DIMENSION = 50
HELD_OUT = 200
DATA_SEED = 0  # the target and its points stay the same for every seed of the weights

Pair: TypeAlias = tuple[Tensor, Tensor]


def build_mlp(
    *,
    batch_size: int | None,
    seed: int,
    target: str = "sines",
    points: int = 200,
    width: int = 200,
    layers: int = 1,
) -> Task:
    """Build a tanh network that fits a function, mean squared error.

    Args:
        batch_size: Points in a batch; None for all.
        seed: Seed of the initial weights and of the batches.
        target: "sines", f(x) = sin x + sin 4x on an even grid of [−π, π]; or "quadratic",
            f(x) = wᵀx + xᵀ diag(v) x with standard normal w, v and x in 50 dimensions.
        points: Number of points, at least 2.
        width: Units in each hidden layer.
        layers: Number of hidden layers.

    Raises:
        ValueError: If an option is out of range.
    """
    check_choice("target", target, ("sines", "quadratic"))
    check_count("points", points, least=2)
    check_count("width", width)
    check_count("layers", layers)
    data, held_out = _sines(points) if target == "sines" else _quadratic(points)
    inputs = data[0].shape[1]
    return Task(
        name="mlp",
        model=build_seeded(lambda: perceptron(inputs, width=width, layers=layers), seed=seed),
        loss_fn=squared_error,
        batches=stream_batches(data, batch_size=batch_size, seed=seed),
        batch_size=batch_size,
        examples=points,
        validation=held_out,
    )


def _sines(points: int) -> tuple[Pair, Pair]:
    """Return the grid and, as what is held out, the middles between its points."""
    grid = torch.linspace(-math.pi, math.pi, points).unsqueeze(1)
    middles = (grid[1:] + grid[:-1]) / 2
    return _with_sines(grid), _with_sines(middles)


def _with_sines(x: Tensor) -> Pair:
    return x, torch.sin(x) + torch.sin(4 * x)


def _quadratic(points: int) -> tuple[Pair, Pair]:
    generator = torch.Generator().manual_seed(DATA_SEED)
    linear = torch.randn(QUADRATIC_DIMENSION, generator=generator)
    diagonal = torch.randn(QUADRATIC_DIMENSION, generator=generator)
    drawn = [torch.randn(count, QUADRATIC_DIMENSION, generator=generator) for count in (points, HELD_OUT)]
    train, held_out = ((x, (x @ linear + (x**2) @ diagonal).unsqueeze(1)) for x in drawn)
    return train, held_out


def perceptron(inputs: int, *, width: int, layers: int) -> nn.Module:
    """Return a tanh network with torch's default initial weights.

    Args:
        inputs: Number of inputs.
        width: Units in each hidden layer.
        layers: Number of hidden layers.

    Returns:
        A module that maps (N, inputs) to (N, 1).
    """
    modules: list[nn.Module] = []
    for size, following in itertools.pairwise([inputs] + [width] * layers):
        modules += [nn.Linear(size, following), nn.Tanh()]
    return nn.Sequential(*modules, nn.Linear(width, 1))
