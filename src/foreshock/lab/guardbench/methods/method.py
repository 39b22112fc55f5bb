"""What a method is, and an optimizer for those whose update is a short function."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from foreshock.lab.tasks import OptimizerConfig, build_optimizer
from foreshock.lab.tasks.task import LossFunction

Source = Literal["torch", "pytorch_optimizer", "own", "foreshock"]
"""Whose code it is; "own" is a small implementation from the paper."""


@dataclass(frozen=True)
class Subject:
    """What is trained.

    Attributes:
        model: The model.
        optimizer: Its optimizer.
        loss_fn: ``loss_fn(model, batch)`` → mean loss, a scalar tensor.
        examples: Size of the training set; None if it is endless.
        full_batch: Whether every step sees the same data.
    """

    model: nn.Module
    optimizer: Optimizer
    loss_fn: LossFunction
    examples: int | None = None
    full_batch: bool = False


class Intervention(Protocol):
    """An action at each step in addition to the optimizer's."""

    @property
    def passes(self) -> float:
        """What was spent so far, in forward and backward passes of the batch (F)."""

    def before_step(self, batch: Any, loss: float) -> None:
        """Act between ``backward()`` and ``step()``."""

    def after_step(self) -> bool:
        """Return whether it changed the step that was just taken."""

    def close(self) -> None:
        """Detach from the optimizer."""

    def buffers(self) -> Any:
        """Return what it keeps, a (nested) container of tensors and plain values."""


class Plain:
    """Base of interventions that set no hook, keep no tensor and spend no pass."""

    passes = 0.0

    def close(self) -> None:
        """Do nothing."""

    def buffers(self) -> Any:
        """Return nothing."""
        return None


@dataclass(frozen=True)
class Method:
    """One row of the benchmark.

    Attributes:
        name: Unique, usable as a file name.
        source: Whose code it is.
        citation: Where it was proposed.
        note: How it was run, where that is not obvious; may be empty.
        configure: Changes the settings of the plain optimizer.
        build: Makes the optimizer from model and settings.
        intervene: Attaches to a run what acts at each step; None if nothing does.
        code: Modules or packages whose source the results depend on, in addition to the benchmark's.
    """

    name: str
    source: Source
    citation: str
    note: str = ""
    configure: Callable[[OptimizerConfig], OptimizerConfig] = lambda config: config
    build: Callable[[nn.Module, OptimizerConfig], Optimizer] = build_optimizer
    intervene: Callable[[Subject], Intervention] | None = None
    code: tuple[str, ...] = ()


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
