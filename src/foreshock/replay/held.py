"""A second moment that is held at what it was, and a training in another precision."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer

from foreshock.replay.loop import Loop

_SECOND_MOMENTS = ("exp_avg_sq", "square_avg")


def hold_second_moment(optimizer: Optimizer) -> Callable[[], None]:
    """Return what puts v back to what it is now, to be called before each step.

    A step adds its own g² to it, as to any v, but the next one begins anew. It is v̂ that is held: where the
    optimizer corrects the bias of v, v follows the number of updates.

    Args:
        optimizer: The optimizer, with the state of the step from which on v is held.

    Raises:
        ValueError: If it keeps no second moment.
    """
    kept: list[tuple[dict[str, Tensor], str, Tensor, float]] = []
    for group in optimizer.param_groups:
        beta2 = float(group["betas"][1]) if "betas" in group else 0.0
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            names = [name for name in _SECOND_MOMENTS if torch.is_tensor(state.get(name))]
            kept += [(state, name, state[name] / _correction(state, beta2), beta2) for name in names]
    if not kept:
        raise ValueError(
            f"v=held can't be set: {type(optimizer).__name__} keeps no second moment, or made no step yet"
        )

    @torch.no_grad()
    def put_back() -> None:
        for state, name, corrected, beta2 in kept:
            state[name].copy_(corrected * _correction(state, beta2))

    return put_back


def _correction(state: dict[str, Tensor], beta2: float) -> float:
    updates = float(state["step"]) if "step" in state else 0.0
    return 1 - beta2**updates if beta2 and updates else 1.0


def cast_training(loop: Loop, dtype: torch.dtype) -> None:
    """Put model and optimizer into another precision, in place.

    Args:
        loop: The training.
        dtype: The precision.
    """
    loop.model.to(dtype)
    for group in loop.optimizer.param_groups:
        for parameter in group["params"]:
            if not parameter.is_floating_point():
                continue
            if parameter.dtype != dtype:  # one that is no part of the model
                gradient, parameter.grad = parameter.grad, None
                parameter.data = parameter.data.to(dtype)
                parameter.grad = None if gradient is None else gradient.to(dtype)
            state = loop.optimizer.state.get(parameter, {})
            for name, value in state.items():
                if name == "step" or not torch.is_tensor(value):  # the counter is a number of its own
                    continue
                if value.is_floating_point() and value.shape == parameter.shape:
                    state[name] = value.to(dtype)
