r"""Adam with other settings, and two variants of it that are a line of code each.

`adafactor-beta2` has Adafactor's schedule of the second moment's memory, :math:`β_{2,t} = 1 - t^{-0.8}`
(Shazeer and Stern 2018, *Adafactor*, arXiv 1804.04235, section 7.2). β₂ is 0 at the first step, so that v
needs no correction of its bias.

`adam-atan2` puts the arc tangent in place of the division and of ε:
:math:`u = \operatorname{atan2}(\hat m, \sqrt{\hat v})` (Everett et al. 2024, *Scaling Exponents Across
Parameterizations and Optimizers*, arXiv 2407.05872). The arc tangent is bounded by π/2, and below the
quotient; with the paper's λ = 1 no factor makes up for that.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from foreshock.lab.guardbench.methods.method import Method, RuleOptimizer, average, parameter_groups
from foreshock.lab.tasks import OptimizerConfig

_CLASSES: dict[str, type[torch.optim.Adam]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
MEMORY_EXPONENT = 0.8
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


def _growing(gradient: Tensor, first: Tensor, second: Tensor, step: int, group: dict[str, Any]) -> Tensor:
    """Return m̂/(√v + ε)."""
    beta1 = group["betas"][0]
    average(gradient, first, second, (beta1, 1 - step**-MEMORY_EXPONENT))
    direction: Tensor = (first / (1 - beta1**step)) / (second.sqrt() + group["eps"])
    return direction


def build_growing_memory(model: nn.Module, config: OptimizerConfig) -> RuleOptimizer:
    """Return the optimizer with a task's settings, all but its β₂."""
    groups = parameter_groups(model, config)
    return RuleOptimizer(groups, _growing, lr=config.learning_rate, betas=config.betas, eps=config.eps)


def _atan2(gradient: Tensor, first: Tensor, second: Tensor, step: int, group: dict[str, Any]) -> Tensor:
    """Return atan2(m̂, √v̂)."""
    beta1, beta2 = group["betas"]
    average(gradient, first, second, (beta1, beta2))
    return torch.atan2(first / (1 - beta1**step), (second / (1 - beta2**step)).sqrt())


def build_adam_atan2(model: nn.Module, config: OptimizerConfig) -> RuleOptimizer:
    """Return the optimizer with a task's settings; it has no ε."""
    groups = parameter_groups(model, config)
    return RuleOptimizer(groups, _atan2, lr=config.learning_rate, betas=config.betas)


ADAM_VARIANTS = (
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
    Method(
        "adafactor-beta2",
        "own",
        "Shazeer & Stern 2018",
        build=build_growing_memory,
        code=(__name__,),
    ),
    Method("adam-atan2", "own", "Everett et al. 2024", build=build_adam_atan2, code=(__name__,)),
)
"""Plain Adam first."""
