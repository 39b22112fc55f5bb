"""Methods that only change the settings of Adam or AdamW."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from foreshock.lab.guardbench.methods.groups import parameter_groups
from foreshock.lab.guardbench.methods.method import Method
from foreshock.lab.tasks import OptimizerConfig

_CLASSES: dict[str, type[torch.optim.Adam]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
PLAIN = "adam"
"""The method that all others are compared with."""


def with_short_memory(config: OptimizerConfig) -> OptimizerConfig:
    """Return the settings with β₂ = .95.

    Args:
        config: The settings.
    """
    return replace(config, betas=(config.betas[0], 0.95))


def with_cosine(config: OptimizerConfig) -> OptimizerConfig:
    """Return settings whose rate falls to zero at the last step, after the warm-up if there is one.

    Args:
        config: Settings.

    Example:
        >>> with_cosine(OptimizerConfig(schedule="warmup", warmup_steps=5)).schedule
        'warmup-cosine'
    """
    return replace(config, schedule="warmup-cosine" if config.warmup_steps else "cosine")


def build_amsgrad(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return Adam or AdamW with the running maximum of the second moment."""
    make: type[torch.optim.Adam] = _CLASSES[config.name]
    return make(
        parameter_groups(model, config),
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        amsgrad=True,
    )


SETTINGS = (
    Method(PLAIN, "torch", "Kingma & Ba 2015; Loshchilov & Hutter 2019", "as the task sets it"),
    Method(
        "beta2-0.95",
        "torch",
        "usual for language models",
        configure=with_short_memory,
    ),
    Method(
        "betas-0.95",
        "torch",
        "β₁ = β₂, Orvieto & Gower 2025",
        configure=lambda config: replace(config, betas=(0.95, 0.95)),
    ),
    Method("amsgrad", "torch", "Reddi et al. 2018", build=build_amsgrad),
    Method("cosine", "torch", "Loshchilov & Hutter 2017", configure=with_cosine),
    Method(
        "lr-third",
        "torch",
        "a smaller learning rate",
        configure=lambda config: replace(config, learning_rate=config.learning_rate / 3),
    ),
)
"""Plain Adam first."""
