r"""Adam with Adafactor's schedule of the second moment's memory.

.. math:: β_{2,t} = 1 - t^{-0.8}

Shazeer and Stern 2018, *Adafactor*, arXiv 1804.04235, section 7.2. β₂ is 0 at the first step, so that v needs
no correction of its bias.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from foreshock.lab.guardbench.methods.groups import parameter_groups
from foreshock.lab.guardbench.methods.method import Method
from foreshock.lab.guardbench.methods.rule import RuleOptimizer, average
from foreshock.lab.tasks import OptimizerConfig

EXPONENT = 0.8


def update(gradient: Tensor, first: Tensor, second: Tensor, step: int, group: dict[str, Any]) -> Tensor:
    """Return m̂/(√v + ε)."""
    beta1 = group["betas"][0]
    average(gradient, first, second, (beta1, 1 - step**-EXPONENT))
    direction: Tensor = (first / (1 - beta1**step)) / (second.sqrt() + group["eps"])
    return direction


def build(model: nn.Module, config: OptimizerConfig) -> RuleOptimizer:
    """Return the optimizer with a task's settings, all but its β₂."""
    groups = parameter_groups(model, config)
    return RuleOptimizer(groups, update, lr=config.learning_rate, betas=config.betas, eps=config.eps)


GROWING_MEMORY = Method("adafactor-beta2", "own", "Shazeer & Stern 2018", build=build, code=(__name__,))
