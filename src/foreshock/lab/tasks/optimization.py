"""Adam and AdamW from a plain record, with the schedules of the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from foreshock.demo.options import check_choice, check_count

OPTIMIZERS = ("adam", "adamw")
SCHEDULES = ("constant", "warmup", "cosine", "warmup-cosine")


@dataclass(frozen=True)
class OptimizerConfig:
    """Settings of an optimizer.

    Attributes:
        name: "adam" (weight decay, if any, is L2) or "adamw" (decoupled, on matrices only).
        learning_rate: Highest learning rate of the schedule, η > 0.
        betas: Decay of the first and of the second moment, each in [0, 1).
        eps: ε, outside the root.
        weight_decay: Weight decay, ≥ 0.
        schedule: "constant"; "warmup", a linear rise over `warmup_steps`, constant afterwards;
            "cosine", a fall to zero at the last step; or "warmup-cosine".
        warmup_steps: Steps of the rise; 0 unless the schedule has one.
    """

    name: str = "adam"
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: If one is out of range.
        """
        check_choice("name", self.name, OPTIMIZERS)
        check_choice("schedule", self.schedule, SCHEDULES)
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive and finite, got {self.learning_rate!r}.")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {self.betas!r}.")
        if not 0 <= self.eps < math.inf:
            raise ValueError(f"eps must be finite and not negative, got {self.eps!r}.")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be finite and not negative, got {self.weight_decay!r}.")
        check_count("warmup_steps", self.warmup_steps, least=0)
        if self.schedule.startswith("warmup") != (self.warmup_steps > 0):
            raise ValueError(
                f"warmup_steps is {self.warmup_steps}, but the schedule is {self.schedule!r}; "
                "a warm-up needs at least one step, and the other schedules have none."
            )


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return a stock optimizer over the model's parameters.

    Args:
        model: The model.
        config: Settings; AdamW decays parameters of at least two dimensions only, not biases or norms.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if config.name == "adam":
        return torch.optim.Adam(
            parameters,
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
        )
    decayed = [parameter for parameter in parameters if parameter.ndim >= 2]
    others = [parameter for parameter in parameters if parameter.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
    )


def build_scheduler(optimizer: torch.optim.Optimizer, config: OptimizerConfig, steps: int) -> LambdaLR | None:
    """Return the scheduler, to be stepped after every optimizer step; None if the rate is constant.

    Args:
        optimizer: The optimizer of `build_optimizer`.
        config: Its settings.
        steps: Steps of the whole run, more than the warm-up has.

    Raises:
        ValueError: If `steps` is below one, or does not exceed the warm-up.
    """
    check_count("steps", steps)
    if not steps > config.warmup_steps:
        raise ValueError(f"steps is {steps}; it must exceed the warm-up of {config.warmup_steps} steps.")
    if config.schedule == "constant":
        return None
    return LambdaLR(optimizer, _factor(config, steps))


def _factor(config: OptimizerConfig, steps: int) -> Callable[[int], float]:
    warmup = config.warmup_steps
    falls = config.schedule.endswith("cosine")

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if not falls:
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min((step - warmup) / (steps - warmup), 1.0)))

    return factor
