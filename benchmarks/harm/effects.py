"""What a loss function does, or what befalls it, while a probe evaluates it, and only then."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Surroundings:
    """What a training loop has around its model, and its loss function can reach.

    Args:
        model: The model.
        optimizer: Its optimizer.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model, self.optimizer = model, optimizer
        self.other = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4))
        self.draws, self.numbers, self.choice = torch.Generator(), np.random.default_rng(3), random.Random(4)
        self.calls = 0  # of the loss function in probes


def clamp(around: Surroundings, batch: dict[str, Any]) -> None:
    for parameter in around.model.parameters():
        parameter.data.clamp_(-0.2, 0.2)


def pop(around: Surroundings, batch: dict[str, Any]) -> None:
    batch.pop("tag")


def normalise(around: Surroundings, batch: dict[str, Any]) -> None:
    batch["x"].mul_(0.7)


def run_another(around: Surroundings, batch: dict[str, Any]) -> None:
    around.other(batch["x"].float()).sum().backward()


def draw(around: Surroundings, batch: dict[str, Any]) -> None:
    torch.rand(2, generator=around.draws), around.numbers.random(), around.choice.random()
    torch.rand(1), np.random.rand(), random.random()


def seed(around: Surroundings, batch: dict[str, Any]) -> None:
    torch.manual_seed(5), np.random.seed(5), random.seed(5)


def freeze(around: Surroundings, batch: dict[str, Any]) -> None:
    next(around.model.parameters()).requires_grad_(False)


def lower_rate(around: Surroundings, batch: dict[str, Any]) -> None:
    around.optimizer.param_groups[0]["lr"] *= 0.5


def write_gradients(around: Surroundings, batch: dict[str, Any]) -> None:
    for parameter in around.model.parameters():
        parameter.grad = torch.ones_like(parameter)


def switch_mode(around: Surroundings, batch: dict[str, Any]) -> None:
    around.model.eval()


def stop_recording(around: Surroundings, batch: dict[str, Any]) -> None:
    torch.set_grad_enabled(False)


def add_buffer(around: Surroundings, batch: dict[str, Any]) -> None:
    around.model.register_buffer("fresh", torch.ones(2))


def step(around: Surroundings, batch: dict[str, Any]) -> None:
    write_gradients(around, batch)
    around.optimizer.step()


def fail(around: Surroundings, batch: dict[str, Any]) -> None:
    raise RuntimeError("on purpose")


def fail_later(around: Surroundings, batch: dict[str, Any]) -> None:
    if around.calls > 3:
        raise torch.OutOfMemoryError("on purpose")


EFFECTS: dict[str, Callable[[Surroundings, dict[str, Any]], None]] = {
    one.__name__.replace("_", " "): one
    for one in (
        clamp,
        pop,
        normalise,
        run_another,
        draw,
        seed,
        freeze,
        lower_rate,
        write_gradients,
        switch_mode,
        stop_recording,
        add_buffer,
        step,
        fail,
        fail_later,
    )
}
"""Effects before the model is evaluated, by name."""


def _detached(loss: Tensor) -> Any:
    return loss.detach()


VALUES: dict[str, Callable[[Tensor], Any]] = {
    "NaN": lambda loss: loss * float("nan"),
    "infinity": lambda loss: loss * float("inf"),
    "a number": lambda loss: loss.item(),
    "a vector": lambda loss: loss.repeat(3),
    "no graph": _detached,
}
"""What the loss function returns instead of the loss, by name."""
