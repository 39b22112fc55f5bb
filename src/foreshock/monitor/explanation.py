"""Why a probe failed, where its user can mend it: the wrong `loss_fn`, batch or place to call `observe`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from foreshock.batches import tensors_in
from foreshock.curvature import LossFunction
from foreshock.failures import ProbeRefusedError
from foreshock.isolation import alone, fresh, isolated, plain_module
from foreshock.monitor.findings import Finding
from foreshock.preconditioner import moving_parameters

_RETURN = "let loss_fn(model, batch) return the mean loss that backward() is called on, a scalar tensor"


def explain_failure(
    error: Exception,
    model: nn.Module,
    loss_fn: LossFunction,
    batch: Any,
    *,
    optimizers: Sequence[Optimizer],
    stepped: bool,
) -> Finding | None:
    """Return what a user did to make a probe fail; None if that is unknown.

    `loss_fn` is called once more, inside of `isolated`, and, if it raises, once with its arguments exchanged.

    Args:
        error: What the probe raised.
        model: The model.
        loss_fn: The loss function.
        batch: The batch given to `observe`.
        optimizers: The optimizers.
        stepped: Whether an optimizer has made a step before.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> _ = [setattr(p, "grad", torch.ones_like(p)) for p in model.parameters()]
        >>> swapped = lambda batch, model: model(batch).mean()
        >>> batch = torch.ones(3, 2)
        >>> explain_failure(
        ...     TypeError(), model, swapped, batch, optimizers=[optimizer], stepped=False
        ... ).name
        'swapped arguments'
    """
    gradients = [parameter.grad for parameter in moving_parameters(optimizers) if parameter.grad is not None]
    if not gradients:
        return _no_gradient("no parameter has a .grad", stepped=stepped)
    if isinstance(error, (torch.OutOfMemoryError, FloatingPointError, ProbeRefusedError)):
        return None
    with alone(model), isolated(model, loss_fn):
        try:
            with torch.enable_grad():
                loss: Any = loss_fn(plain_module(model), fresh(batch))
        except Exception as raised:  # noqa: BLE001 - it is the very failure that is being explained
            return _explain_raised(raised, model, loss_fn, batch)
        finding = _explain_returned(loss)
        if finding is None and not any(map(_any, gradients)):
            found = torch.autograd.grad(loss, moving_parameters(optimizers), allow_unused=True)
            # Where the loss itself is flat a zero is right.
            if any(gradient is not None and _any(gradient) for gradient in found):
                finding = _no_gradient("every .grad is zero", stepped=stepped)
    return finding


def explain_lack_of_memory(error: Exception) -> Exception:
    """Return the error for a probe that did not fit into the memory of the device.

    Args:
        error: What the probe raised.

    Example:
        >>> raised = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …")
        >>> print(explain_lack_of_memory(raised))  # doctest: +ELLIPSIS
        CUDA out of memory. Tried to allocate 2.00 GiB. A probe needs more memory than a step: ...
    """
    first = ". ".join(str(error).strip().split(". ")[:2]).rstrip(".")
    return torch.OutOfMemoryError(
        f"{first}. A probe needs more memory than a step: it was left out, and its memory is free again. "
        "Pass the batch as foreshock.MicroBatches, whose graphs are in memory one at a time, "
        "hvp='difference', which needs no more than a step and a few vectors, or budget=0 to measure nothing"
    )


def unusable_loss(batch: Any, loss: Any) -> Exception:
    """Return the error for a loss that `observe` can't take.

    Args:
        batch: The batch given to `observe`.
        loss: The loss given to it: no number, or a tensor of more than one element.

    Example:
        >>> str(unusable_loss(torch.ones(4), torch.ones(3)))
        'observe was given a loss of shape (3,); pass the scalar that backward() was called on'
    """
    swapped = isinstance(batch, float) or (isinstance(batch, Tensor) and batch.ndim == 0)
    hint = ": the arguments seem to be swapped, it is observe(batch, loss)" if swapped else ""
    what = f"of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"of type {type(loss).__name__}"
    message = f"observe was given a loss {what}; pass the scalar that backward() was called on{hint}"
    return ValueError(message) if isinstance(loss, Tensor) else TypeError(message)


def _explain_raised(raised: Exception, model: nn.Module, loss_fn: LossFunction, batch: Any) -> Finding | None:
    what = f"loss_fn raised {type(raised).__name__}: {raised}"
    if isinstance(loss_fn, nn.Module):
        return Finding(
            "loss module",
            f"{what}; loss_fn is a {type(loss_fn).__name__}, which takes predictions and targets; pass a "
            "function of the model and the batch: loss_fn=lambda model, batch: criterion(model(batch[0]), "
            "batch[1])",
        )
    with suppress(Exception):  # exchanged, it may raise anything too, which says nothing
        exchanged: Any = loss_fn(fresh(batch), plain_module(model))
        if isinstance(exchanged, Tensor):
            return Finding(
                "swapped arguments",
                f"{what}; with the arguments the other way round it returns a loss: define it as "
                "loss_fn(model, batch)",
            )
    if not any(True for _ in tensors_in(batch)):
        return Finding(
            "batch without tensors",
            f"{what}; the batch given to observe is of type {type(batch).__name__} and holds no tensor: "
            "pass what loss_fn takes as its second argument, the batch of this step",
        )
    return None


def _explain_returned(loss: Any) -> Finding | None:
    if not isinstance(loss, Tensor):
        first = ": return loss alone, not (loss, logits)" if isinstance(loss, (tuple, list)) else ""
        return Finding("no tensor", f"loss_fn returned {type(loss).__name__}; {_RETURN}{first}")
    if loss.numel() != 1:
        return Finding(
            "per-example losses",
            f"loss_fn returned a tensor of shape {tuple(loss.shape)}; {_RETURN}: add .mean()",
        )
    if not loss.requires_grad:
        return Finding(
            "no graph",
            "the loss that loss_fn returned does not require a gradient: evaluate the model that is trained, "
            "without detach(), item() or no_grad()",
        )
    return None


def _no_gradient(what: str, *, stepped: bool) -> Finding:
    where = "after zero_grad()" if stepped else "before backward() or after zero_grad()"
    return Finding(
        "no gradient",
        f"{what}: observe was called {where}; call it after backward() and before optimizer.step()",
    )


def _any(gradient: Tensor) -> bool:
    return bool((gradient.coalesce().values() if gradient.is_sparse else gradient).any())
