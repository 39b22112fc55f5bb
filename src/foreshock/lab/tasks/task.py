"""The record that a family hands to a training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor, nn

Batch: TypeAlias = Tensor | tuple[Tensor, ...]
LossFunction: TypeAlias = Callable[[nn.Module, Batch], Tensor]


@dataclass(frozen=True)
class Task:
    """Hold a freshly initialised model, its loss and its endless stream of batches.

    Attributes:
        name: The family.
        model: The untrained model, in training mode, float32, on the CPU.
        loss_fn: Maps `(model, batch)` to the mean loss over the examples of the batch, a scalar.
        batches: Endless iterator of batches: tensors, or tuples of tensors, whose dimension 0 is the
            example. With the full batch every step gets the same tensor objects.
        batch_size: Examples in a batch; None if every batch is the whole training set.
        examples: Examples in the training set; None if they are drawn afresh at every step.
        validation: A batch of examples that are not in the training set; None if the family has none left.
    """

    name: str
    model: nn.Module
    loss_fn: LossFunction
    batches: Iterator[Batch]
    batch_size: int | None
    examples: int | None
    validation: Batch | None = None
