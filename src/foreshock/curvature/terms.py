"""``loss_fn(model, batch)`` of a user → the loss that is differentiated."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from foreshock.batches import MicroBatches
from foreshock.isolation import fresh, plain_module
from foreshock.operators import Loss, LossTerm

LossFunction = Callable[[nn.Module, Any], torch.Tensor]


def loss_terms(model: nn.Module, loss_fn: LossFunction, batch: Any) -> Loss:
    """Return the loss to differentiate: that of a batch, or of micro-batches weighted by their counts.

    Args:
        model: The model.
        loss_fn: ``loss_fn(model, batch)`` → mean loss, a scalar tensor.
        batch: A batch, or `MicroBatches`.

    Raises:
        TypeError: If `loss_fn` can't be called with a model and a batch.
    """
    if not isinstance(batch, MicroBatches):
        check_loss_function(loss_fn)
        return lambda: loss_fn(plain_module(model), fresh(batch))
    return part_terms(model, loss_fn, batch)


def part_terms(model: nn.Module, loss_fn: LossFunction, batch: MicroBatches) -> list[LossTerm]:
    """Return the mean losses of micro-batches, weighted by their counts.

    Args:
        model: The model.
        loss_fn: ``loss_fn(model, batch)`` → mean loss, a scalar tensor.
        batch: The micro-batches.

    Raises:
        TypeError: If `loss_fn` can't be called with a model and a batch.
    """
    check_loss_function(loss_fn)
    return [_term(model, loss_fn, part, count) for part, count in batch.weighted()]


def check_loss_function(loss_fn: object) -> None:
    """Refuse what can't be called as ``loss_fn(model, batch)``, as far as its signature says that.

    Args:
        loss_fn: What was passed as the loss function.

    Raises:
        TypeError: If it is not callable, or takes another number of arguments.

    Example:
        >>> check_loss_function(lambda batch: batch.mean())
        Traceback (most recent call last):
        ...
        TypeError: loss_fn is called as loss_fn(model, batch), and <lambda>(batch) can't be: ...
    """
    if not callable(loss_fn):
        raise TypeError(f"loss_fn is {loss_fn!r}; pass a function loss_fn(model, batch) -> loss")
    try:
        # Not what a decorator wraps: that may take other arguments than the decorator does.
        signature = inspect.signature(loss_fn, follow_wrapped=False)
    except (TypeError, ValueError):
        return  # of a function in C nothing is known before it is called
    try:
        signature.bind(None, None)
    except TypeError:
        name = getattr(loss_fn, "__name__", type(loss_fn).__name__)
        shown = signature.replace(
            parameters=[
                one.replace(annotation=inspect.Parameter.empty) for one in signature.parameters.values()
            ],
            return_annotation=inspect.Signature.empty,
        )
        raise TypeError(
            f"loss_fn is called as loss_fn(model, batch), and {name}{shown} can't be: {_remedy(signature)}"
        ) from None


def _remedy(signature: inspect.Signature) -> str:
    needed = [
        one
        for one in signature.parameters.values()
        if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    if any(one.kind is one.KEYWORD_ONLY for one in needed):
        return "give its keyword arguments defaults, or set them with functools.partial"
    if len(needed) > 2:
        return (
            "a batch may be any object, so pack all that it needs into one, "
            "observe((inputs, targets), loss), and pass loss_fn=lambda model, batch: …(model, *batch)"
        )
    return (
        "a probe evaluates the model itself, on the batch given to observe: "
        "loss_fn=lambda model, batch: criterion(model(batch[0]), batch[1])"
    )


def _term(model: nn.Module, loss_fn: LossFunction, batch: Any, count: float) -> LossTerm:
    return LossTerm(lambda: loss_fn(plain_module(model), fresh(batch)), count)
