"""Mean losses of `(model, (inputs, targets))`."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from foreshock.lab.tasks.task import Batch


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
