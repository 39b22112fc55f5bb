"""The record that a network of the demo hands to its training loop, and the checks of their settings."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

Batch: TypeAlias = Any
LossFunction: TypeAlias = Callable[[nn.Module, Batch], Tensor]


@dataclass(frozen=True)
class Workload:
    """Hold everything that a training loop needs; nothing in it has been trained.

    Attributes:
        name: Short identifier, usable as a file name.
        description: One sentence for people: the model, the data, the optimizer.
        model: The freshly initialised model.
        optimizer: A stock `torch.optim` optimizer over the model's parameters.
        loss_fn: Maps `(model, batch)` to the scalar loss.
        batch: The whole training set; every step uses all of it.
        steps: Number of optimizer steps of the run.
    """

    name: str
    description: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss_fn: LossFunction
    batch: Batch
    steps: int


def check_adam_settings(*, learning_rate: float, betas: tuple[float, float]) -> None:
    """Raise unless the learning rate and betas are ones that Adam accepts.

    Args:
        learning_rate: Constant learning rate, η.
        betas: Decay of the first and of the second moment, (β₁, β₂).

    Raises:
        ValueError: If `learning_rate` is not positive and finite, or a beta lies outside [0, 1).
    """
    if not 0 < learning_rate < math.inf:
        raise ValueError(
            f"learning_rate must be positive and finite, got {learning_rate!r}; "
            "the default of this run is known to spike."
        )
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas must be two numbers in [0, 1), got {betas!r}.")
