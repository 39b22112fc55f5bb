"""What a monitor watches: a model and its optimizers, checked before training and described for the log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from foreshock.preconditioner import unwrap


def as_number(loss: Tensor | float) -> float:
    """Return the loss of a step as a number.

    Raises:
        ValueError: If it is not a scalar.
    """
    value = loss.detach() if isinstance(loss, Tensor) else loss
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(
            f"observe was given a loss of shape {tuple(value.shape)}; pass the scalar that backward() "
            "was called on"
        )
    return float(value)


def trained_parameters(optimizers: Sequence[Optimizer]) -> Iterator[Tensor]:
    """Yield the parameters that the optimizers train."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            yield from (parameter for parameter in group["params"] if parameter.requires_grad)


def trained_size(optimizers: Sequence[Optimizer]) -> int:
    """Return the number of coordinates that the optimizers train."""
    return sum(parameter.numel() for parameter in trained_parameters(optimizers))


def check_parameters(model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
    """Refuse optimizers that don't fit the model.

    Raises:
        ValueError: If they have parameters that are not the model's, or none to train, or complex ones.
    """
    owned = {id(parameter) for parameter in model.parameters()}
    moving = list(trained_parameters(optimizers))
    strangers = [parameter for parameter in moving if id(parameter) not in owned]
    if strangers:
        raise ValueError(
            f"{len(strangers)} of the optimizer's {len(moving)} parameters are not the model's (the first "
            f"has shape {tuple(strangers[0].shape)}): build the optimizer after the model was moved or "
            "wrapped, and put several models into one nn.ModuleList"
        )
    if not moving:
        raise ValueError("the optimizer has no parameter that requires a gradient")
    if any(parameter.is_complex() for parameter in moving):
        raise ValueError("complex parameters are not supported: their Hessian is not one real matrix")


def describe(model: nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, Any]:
    """Return what the log's header says of a run, as plain values."""
    group = optimizers[0].param_groups[0]
    description: dict[str, Any] = {
        "model": type(model).__name__,
        "optimizer": " + ".join(type(unwrap(optimizer)).__name__ for optimizer in optimizers),
        "parameters": trained_size(optimizers),
        "groups": sum(len(optimizer.param_groups) for optimizer in optimizers),
        "learning_rate": float(group["lr"]),
    }
    if "betas" in group:
        description["betas"] = [float(beta) for beta in group["betas"]]
    return description
