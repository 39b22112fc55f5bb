"""Peers from the package pytorch_optimizer: defaults of their papers, learning rate and decay of the task."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from foreshock.lab.guardbench.methods.method import Method, parameter_groups
from foreshock.lab.tasks import OptimizerConfig


def build_peer(name: str, **options: Any) -> Callable[[nn.Module, OptimizerConfig], Optimizer]:
    """Return a builder of one of the package's optimizers.

    Args:
        name: Name of its class.
        **options: Other options than learning rate, betas, weight decay and ε.

    Returns:
        Function of model and settings. It raises ImportError if the package is missing.
    """

    def build(model: nn.Module, config: OptimizerConfig) -> Optimizer:
        try:
            package: Any = importlib.import_module("pytorch_optimizer")
        except ImportError as error:
            raise ImportError(
                f"{name} is from pytorch_optimizer, which is not installed: pip install 'foreshock[bench]'"
            ) from error
        chosen = {"lr": config.learning_rate, "betas": config.betas, "eps": config.eps} | options
        made: Optimizer = getattr(package, name)(parameter_groups(model, config), **chosen)
        return made

    return build


_DECOUPLED = {"weight_decouple": True}

PEERS = (
    Method(
        "adopt",
        "pytorch_optimizer",
        "Taniguchi et al. 2024",
        "its own ε 1e-6 and β₂ .9999; decay decoupled",
        build=build_peer("ADOPT", eps=1e-6, betas=(0.9, 0.9999), **_DECOUPLED),
    ),
    Method(
        "stable-adamw",
        "pytorch_optimizer",
        "Wortsman et al. 2023",
        "its own β₂ .99",
        build=build_peer("StableAdamW", betas=(0.9, 0.99), **_DECOUPLED),
    ),
    Method(
        "spam",
        "pytorch_optimizer",
        "Huang et al. 2025",
        "no sparse momentum",
        build=build_peer("SPAM"),
    ),
    Method(
        "stable-spam",
        "pytorch_optimizer",
        "Huang et al. 2025",
        build=build_peer("StableSPAM"),
    ),
    Method(
        "adagc",
        "pytorch_optimizer",
        "Wang et al. 2025",
        build=build_peer("AdaGC", **_DECOUPLED),
    ),
    Method(
        "soap",
        "pytorch_optimizer",
        "Vyas et al. 2024",
        "its own β₁ = β₂ = .95; a new basis every ten steps",
        build=build_peer("SOAP", betas=(0.95, 0.95)),
    ),
)
