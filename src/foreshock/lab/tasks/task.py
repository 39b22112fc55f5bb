"""A task: a freshly initialised model, its loss and its batches; the losses that families share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

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


def squared_error(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean squared error over all entries of the targets.

    Args:
        model: Maps inputs to predictions of the targets' shape.
        batch: Inputs and targets, both of shape (N, …).
    """
    inputs, targets = batch
    return functional.mse_loss(model(inputs), targets)


def one_hot_error(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean over examples and positions of ‖scores − one-hot label‖².

    This is the mean squared error × the number of classes: of order one at the start.

    Args:
        model: Maps inputs to scores, (N, classes) or (N, positions, classes).
        batch: Inputs, and integer labels (N,) or of the last positions, (N, at most positions).
    """
    scores, labels = _labelled_scores(model, batch)
    targets = functional.one_hot(labels, scores.shape[-1]).to(scores.dtype)
    error: Tensor = functional.mse_loss(scores, targets) * scores.shape[-1]
    return error


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean cross-entropy over examples and positions, in nats.

    Args:
        model: Maps inputs to logits, (N, classes) or (N, positions, classes).
        batch: Inputs, and integer labels (N,) or of the last positions, (N, at most positions).
    """
    logits, labels = _labelled_scores(model, batch)
    return functional.cross_entropy(logits.flatten(0, -2), labels.flatten())


LABEL_LOSSES = {"mse": one_hot_error, "ce": cross_entropy}
"""Losses of integer labels, by the name that the option `loss` has."""


def _labelled_scores(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the scores that have labels; the first positions of a sequence may have none.

    After one or two symbols several continuations are right. The entropy of that choice would hide
    spikes under a floor of the loss.
    """
    inputs, labels = batch
    scores: Tensor = model(inputs)
    return (scores[:, -labels.shape[1] :] if labels.ndim > 1 else scores), labels


def build_seeded(make: Callable[[], nn.Module], *, seed: int) -> nn.Module:
    """Return a model whose initial weights depend on the seed alone.

    Args:
        make: Builds the model from the global random state.
        seed: Seed of the initial weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()
