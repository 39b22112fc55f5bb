"""One step of a training, in the two halves between which a snapshot is taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from foreshock.batches import MicroBatches


@dataclass
class Loop:
    """A training as it was built at its start, and what one step of it does.

    `backward` is all that comes before `Monitor.observe` in your loop, and `update` all that comes after it.
    Where your loop does something else, override them in a class of your own.

    Attributes:
        model: The model.
        loss_fn: ``loss_fn(model, batch)`` → mean loss, a scalar tensor; with ``torch.autocast`` inside, if
            the run used it.
        optimizer: The optimizer.
        scheduler: The scheduler that is stepped after each step, if there is one.
        scaler: The gradient scaler, if there is one.
        clip: What the norm of all gradients is clipped to; None if it is not.
        others: Whatever else the recorder was given, by the same names.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> adam = torch.optim.Adam(model.parameters())
        >>> loop = Loop(model, lambda model, x: model(x).square().mean(), adam)
        >>> loss = loop.backward(torch.ones(3, 2))
        >>> loop.update()
    """

    model: nn.Module
    loss_fn: Callable[[nn.Module, Any], Tensor]
    optimizer: Optimizer
    scheduler: Any = None
    scaler: Any = None
    clip: float | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    def backward(self, batch: Any) -> Tensor:
        """Compute the gradients of a batch, up to where `Monitor.observe` is called; return the loss.

        Args:
            batch: A batch; of an accumulation, `foreshock.MicroBatches`, whose mean losses are weighted by
                their `counts`, or are all the same without any.
        """
        self.optimizer.zero_grad()
        total: Tensor | None = None
        for part, weight in _weighted(batch):
            loss = self.loss_fn(self.model, part)
            loss = loss if weight == 1 else loss * weight
            (loss if self.scaler is None else self.scaler.scale(loss)).backward()
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None  # noqa: S101 - MicroBatches has at least one
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        return total

    def update(self) -> None:
        """Do what comes after `Monitor.observe`: the step of optimizer, scaler and scheduler."""
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        if self.scheduler is not None:
            self.scheduler.step()

    def skip(self) -> None:
        """Leave out an update: what comes instead of `update` where a batch is passed over."""
        self.optimizer.zero_grad()
        if self.scaler is not None:
            self.scaler.update()
        if self.scheduler is not None:
            self.scheduler.step()


def _weighted(batch: Any) -> list[tuple[Any, float]]:
    if not isinstance(batch, MicroBatches):
        return [(batch, 1.0)]
    counts = batch.counts or [1.0] * len(batch.batches)
    total = sum(counts)
    return [(part, count / total) for part, count in zip(batch.batches, counts, strict=True)]
