"""Value regression, as in reinforcement learning: an older copy of the network makes the targets."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from foreshock.demo.options import check_count
from foreshock.lab.tasks.mlp import perceptron
from foreshock.lab.tasks.streams import stream_batches
from foreshock.lab.tasks.task import Batch, Task, build_seeded, squared_error

DIMENSION = 4
DISCOUNT = 0.7
CONTRACTION = 0.9
HELD_OUT = 200
HORIZON = 200  # 0.7²⁰⁰ is far below the rounding of float32
DATA_SEED = 0


def build_value(
    *,
    batch_size: int | None,
    seed: int,
    transitions: int = 200,
    refresh: int = 50,
    width: int = 64,
    layers: int = 2,
) -> Task:
    """Build a tanh network that learns V(x) = r(x) + .7·V(x'), mean squared error.

    States in four dimensions follow x' = .9·Qx with a fixed rotation Q; the reward is the sum of sin 3x over
    the dimensions. The targets r + .7·V(x') come from a copy of the network that is renewed every `refresh`
    steps, so that the loss jumps there, by less each time. What is held out has the true values, a sum of 200
    discounted rewards.

    Args:
        batch_size: Transitions in a batch; None for all, the same tensors until the copy is renewed.
        seed: Seed of the initial weights and of the batches.
        transitions: Number of transitions in the training set.
        refresh: Steps between two renewals of the targets.
        width: Units in each hidden layer.
        layers: Number of hidden layers.

    Raises:
        ValueError: If an option is out of range.
    """
    for name, value in (("transitions", transitions), ("refresh", refresh), ("width", width)):
        check_count(name, value)
    check_count("layers", layers)
    generator = torch.Generator().manual_seed(DATA_SEED)
    rotation, _ = torch.linalg.qr(torch.randn(DIMENSION, DIMENSION, generator=generator))
    states = 4 * torch.rand(transitions + HELD_OUT, DIMENSION, generator=generator) - 2
    train, held_out = states.tensor_split([transitions])
    model = build_seeded(lambda: perceptron(DIMENSION, width=width, layers=layers), seed=seed)
    data = (train, CONTRACTION * train @ rotation.T, _reward(train))
    stream = stream_batches(data, batch_size=batch_size, seed=seed)
    return Task(
        name="value",
        model=model,
        loss_fn=squared_error,
        batches=_with_targets(stream, model, refresh),
        batch_size=batch_size,
        examples=transitions,
        validation=(held_out, _true_values(held_out, rotation)),
    )


def _reward(states: Tensor) -> Tensor:
    return torch.sin(3 * states).sum(dim=1, keepdim=True)


def _true_values(states: Tensor, rotation: Tensor) -> Tensor:
    values = torch.zeros(len(states), 1)
    for k in range(HORIZON):
        values += DISCOUNT**k * _reward(states)
        states = CONTRACTION * states @ rotation.T
    return values


def _with_targets(stream: Iterator[Batch], model: nn.Module, refresh: int) -> Iterator[Batch]:
    """Yield states and targets; the full batch's tensors change only when the targets are renewed."""
    older, last = model, None
    made: Batch = ()
    for step, (states, following, rewards) in enumerate(stream):
        renewed = step % refresh == 0
        if renewed:
            older = copy.deepcopy(model)
        if renewed or states is not last:
            with torch.no_grad():
                made = (states, rewards + DISCOUNT * older(following))
        last = states
        yield made
