"""The parameter groups of `build_optimizer`, for optimizers of other classes."""

from __future__ import annotations

from typing import Any

from torch import nn

from foreshock.lab.tasks import OptimizerConfig, build_optimizer


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Return the groups with their weight decay, as Adam or AdamW of these settings would have them.

    Args:
        model: The model.
        config: Settings.

    Example:
        >>> groups = parameter_groups(nn.Linear(2, 1), OptimizerConfig("adamw", weight_decay=0.1))
        >>> [(len(group["params"]), group["weight_decay"]) for group in groups]
        [(1, 0.1), (1, 0.0)]
    """
    groups = build_optimizer(model, config).param_groups
    return [{name: group[name] for name in ("params", "weight_decay")} for group in groups]
