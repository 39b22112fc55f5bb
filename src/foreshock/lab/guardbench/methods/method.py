"""What a method is: how it changes settings, the optimizer, and each step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import nn
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
    """Something that acts at each step besides the optimizer."""

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


@dataclass(frozen=True)
class Method:
    """One row of the benchmark.

    Attributes:
        name: Unique, usable as a file name.
        source: Whose code it is.
        citation: Where it was proposed.
        note: What a reader must know of how it was run; empty if nothing.
        configure: Changes the settings of the plain optimizer.
        build: Makes the optimizer from model and settings.
        intervene: Attaches to a run what acts at each step; None if nothing does.
        code: Modules or packages whose source results depend on, besides the benchmark's.
    """

    name: str
    source: Source
    citation: str
    note: str = ""
    configure: Callable[[OptimizerConfig], OptimizerConfig] = lambda config: config
    build: Callable[[nn.Module, OptimizerConfig], Optimizer] = build_optimizer
    intervene: Callable[[Subject], Intervention] | None = None
    code: tuple[str, ...] = ()
