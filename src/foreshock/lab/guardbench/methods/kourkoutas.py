r"""Kourkoutas-β: Adam whose β₂ falls where a tensor's gradient is larger than it used to be.

With the norm ρ of a tensor's gradient and its running mean :math:`r ← αr + (1-α)ρ`,

.. math:: s = \frac{ρ}{r + τ}, \qquad β_2 = β_{max} - (β_{max} - β_{min})\,\frac{s}{1+s}.

Kassinos 2025, *Kourkoutas-β: A Sunspike-Driven Adam Optimizer with Desert Flair*, arXiv 2508.12996: α = .93,
β₂ between .88 and .999, τ = 1e-9, each tensor a layer, and v's bias corrected by β_max. The optional parts of
the author's code, off there by default, are off: leaky AMSGrad, a bound of the step, a larger ε. A steady
gradient has s = 1, so that its β₂ is in the middle, about .94.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from foreshock.lab.guardbench.methods.method import Method, RuleOptimizer, average, parameter_groups
from foreshock.lab.tasks import OptimizerConfig

LEAST, MOST = 0.88, 0.999  # β₂
WEIGHT = 0.93  # α
TINY = 1e-9  # τ


class KourkoutasBeta(RuleOptimizer):
    """The optimizer.

    Args:
        params: Parameter groups, each with its own ``weight_decay``, which is decoupled.
        lr: Learning rate.
        beta1: Decay of the first moment.
        eps: ε.
    """

    def __init__(self, params: list[dict[str, Any]], *, lr: float, beta1: float, eps: float) -> None:
        self._norms: dict[Tensor, Tensor] = {}
        super().__init__(params, self._direction, lr=lr, betas=(beta1, MOST), eps=eps)

    def _direction(
        self, gradient: Tensor, first: Tensor, second: Tensor, step: int, group: dict[str, Any]
    ) -> Tensor:
        """Return m̂/(√v̂ + ε)."""
        beta1, beta2 = group["betas"][0], self._memory(gradient, first)
        average(gradient, first, second, (beta1, beta2))
        denominator = (second / (1 - MOST**step)).sqrt() + group["eps"]
        direction: Tensor = first / (1 - beta1**step) / denominator
        return direction

    def _memory(self, gradient: Tensor, tensor: Tensor) -> float:
        """Return β₂; the running mean is kept by the tensor's first moment, which lives as long."""
        norm = gradient.norm()
        before = self._norms.get(tensor, torch.zeros_like(norm))
        self._norms[tensor] = mean = WEIGHT * before + (1 - WEIGHT) * norm
        raised = norm / (mean + TINY)
        return float(MOST - (MOST - LEAST) * raised / (1 + raised))


def build_kourkoutas(model: nn.Module, config: OptimizerConfig) -> KourkoutasBeta:
    """Return the optimizer with a task's settings, all but its β₂.

    Args:
        model: The model.
        config: Settings.
    """
    groups = parameter_groups(model, config)
    return KourkoutasBeta(groups, lr=config.learning_rate, beta1=config.betas[0], eps=config.eps)


KOURKOUTAS = Method(
    "kourkoutas-beta",
    "own",
    "Kassinos 2025",
    "β₂ between .88 and .999, without its optional parts",
    build=build_kourkoutas,
    code=(__name__,),
)
