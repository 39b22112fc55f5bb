"""The micro-batches of one optimizer step, as a trainer hands them over one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from foreshock.batches import MicroBatches
from foreshock.guarding import Guard, Policy
from foreshock.monitor import Monitor

GUARD_BUDGET = 0.2
"""Passes a step that a guard needs: with less, the noise of batches is measured too rarely for it."""


class Accumulation:
    r"""Gather the batches and losses of one step, L = Σ sᵢLᵢ with the share sᵢ that a trainer gives each.

    Attributes:
        batches: The micro-batches so far, in order.
        loss: L, detached; 0 before the first.

    Example:
        >>> import torch
        >>> step = Accumulation()
        >>> step.add("first", torch.tensor(2.0), share=0.5)
        >>> step.add("second", torch.tensor(4.0), share=0.5)
        >>> len(step), float(step.loss), step.batch.batches
        (2, 3.0, ('first', 'second'))
    """

    def __init__(self) -> None:
        self.batches: list[Any] = []
        self.loss: Tensor = torch.zeros(())

    def __len__(self) -> int:
        """Return the number of micro-batches."""
        return len(self.batches)

    def add(self, batch: Any, loss: Tensor, *, share: float = 1.0) -> None:
        """Add one micro-batch.

        Args:
            batch: The micro-batch.
            loss: Its loss, a scalar.
            share: What the trainer multiplies its loss by before ``backward()``.
        """
        part = loss.detach() * share
        self.batches.append(batch)
        self.loss = self.loss + part if self.batches[:-1] else part

    @property
    def batch(self) -> Any:
        """The batch of the step: itself if there is one, else `MicroBatches` of equal weight."""
        if len(self.batches) == 1:
            return self.batches[0]
        # Equal weights: how much a micro-batch counts for is in its loss. So no device is waited for.
        return MicroBatches(tuple(self.batches), counts=(1.0,) * len(self.batches))


def make_monitor(
    model: nn.Module,
    optimizer: Any,
    loss_fn: Callable[[nn.Module, Any], Tensor] | None,
    *,
    run: Any,
    guard: Guard | Policy | str | bool | None,
    options: Mapping[str, Any],
) -> Monitor:
    """Return the monitor of an integration, whose guard may be asked for by True.

    Args:
        model: The model.
        optimizer: Its optimizer, wrapped or not.
        loss_fn: ``loss_fn(model, batch)`` → mean loss.
        run: Folder of the run log.
        guard: True for ``"auto"``; False or None for none; else as `Monitor` takes it.
        options: Further arguments of `Monitor`.
    """
    chosen = "auto" if guard is True else (guard or None)
    given = dict(options)
    if chosen is not None and given.get("probe_every") is None:
        given.setdefault("budget", GUARD_BUDGET)
    return Monitor(model, optimizer, loss_fn, run=run, guard=chosen, **given)


def end_monitor(monitor: Monitor, *, guard: Guard | Policy | str | bool | None) -> None:
    """Close a monitor, and detach its guard unless that is the user's own.

    Args:
        monitor: What `make_monitor` returned.
        guard: The guard that `make_monitor` was given.
    """
    if monitor.guard is not None and monitor.guard is not guard:
        monitor.guard.detach()  # a second training with the same optimizer gets another one
    monitor.close()
