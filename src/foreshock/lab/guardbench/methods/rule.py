"""Adam-like optimizers whose update of one parameter is a short function."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

Update = Callable[[Tensor, Tensor, Tensor, int, dict[str, Any]], Tensor]
"""Maps gradient, first and second moment (both changed in place), t ≥ 1 and the group to the direction u."""


class RuleOptimizer(Optimizer):
    """Move parameters by θ ← (1 − η·decay)·θ − η·u.

    Args:
        params: Parameter groups, each with its own ``weight_decay``, which is decoupled.
        update: How u is made.
        lr: Learning rate η.
        betas: β₁ and β₂, for `update` to use.
        eps: ε, for `update` to use.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        update: Update,
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self._update = update

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step; closures are not called."""
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state.update(step=0, exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(parameter))
        state["step"] += 1
        direction = self._update(gradient, state["exp_avg"], state["exp_avg_sq"], state["step"], group)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(direction, alpha=-group["lr"])


def average(gradient: Tensor, first: Tensor, second: Tensor, betas: tuple[float, float]) -> None:
    """Update both moments in place: m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g²."""
    first.lerp_(gradient, 1 - betas[0])
    second.mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
