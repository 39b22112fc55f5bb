r"""Adam-atan2: the arc tangent takes the place of the division and of ε.

.. math:: u = \operatorname{atan2}(\hat m, \sqrt{\hat v})

Everett et al. 2024, *Scaling Exponents Across Parameterizations and Optimizers*, arXiv 2407.05872. The arc
tangent is bounded by π/2, and below the quotient; with the paper's λ = 1 no factor makes up for that.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from foreshock.lab.guardbench.methods.groups import parameter_groups
from foreshock.lab.guardbench.methods.method import Method
from foreshock.lab.guardbench.methods.rule import RuleOptimizer, average
from foreshock.lab.tasks import OptimizerConfig


def update(gradient: Tensor, first: Tensor, second: Tensor, step: int, group: dict[str, Any]) -> Tensor:
    """Return atan2(m̂, √v̂)."""
    beta1, beta2 = group["betas"]
    average(gradient, first, second, (beta1, beta2))
    return torch.atan2(first / (1 - beta1**step), (second / (1 - beta2**step)).sqrt())


def build(model: nn.Module, config: OptimizerConfig) -> RuleOptimizer:
    """Return the optimizer with a task's settings; it has no ε."""
    groups = parameter_groups(model, config)
    return RuleOptimizer(groups, update, lr=config.learning_rate, betas=config.betas)


ADAM_ATAN2 = Method("adam-atan2", "own", "Everett et al. 2024", build=build, code=(__name__,))
