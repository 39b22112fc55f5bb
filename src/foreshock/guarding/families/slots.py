"""The parameters that the next step will move, as the optimizer sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from foreshock.preconditioner import LiveParameter, live_groups, stock_name, unwrap
from foreshock.vectors import is_sharded, local

ADAM = ("torch.optim.Adam", "torch.optim.AdamW")
"""Whose step is that of Adam."""

_DECOUPLED = ("torch.optim.AdamW", "torch.optim.Adafactor")


class Slot(NamedTuple):
    """One parameter that has a gradient. Tensors are what this process holds of it.

    A tuple, because many are made at every step.

    Attributes:
        key: The parameter itself, to remember things by.
        parameter: Its values.
        gradient: Its ``.grad`` as it is.
        state: Its optimizer state; empty before the first step.
        group: Its parameter group.
        scale: What the gradient still has to be divided by.
        updates: t ≥ 1, the number of the update about to be made.
        decoupled: Whether weight decay is decoupled, where the group doesn't tell.
        plain_adam: Whether the optimizer is Adam or AdamW.
    """

    key: Tensor
    parameter: Tensor
    gradient: Tensor
    state: Mapping[str, Any]
    group: Mapping[str, Any]
    scale: float
    updates: int
    decoupled: bool = False
    plain_adam: bool = False

    @property
    def live(self) -> LiveParameter:
        """The parameter as a reader gets it."""
        gradient = self.gradient if self.scale == 1 else self.gradient / self.scale
        return LiveParameter(self.parameter, gradient, self.state, self.group)

    @property
    def sign(self) -> float:
        """−1 if the optimizer maximizes, else 1, over `scale`: turns ``.grad`` into what is descended."""
        return (-1.0 if self.group.get("maximize", False) else 1.0) / self.scale

    @property
    def coupled_decay(self) -> float:
        """Factor wd of L2 regularisation, which adds wd·θ to the gradient; 0 where decay is decoupled."""
        decoupled = self.group.get("decoupled_weight_decay", self.decoupled)
        return 0.0 if decoupled else float(self.group.get("weight_decay", 0.0))

    @property
    def used_gradient(self) -> Tensor:
        """g_t as the optimizer uses it; it may share memory with ``.grad``."""
        return self.live.used_gradient(self.coupled_decay)


def read_slots(optimizer: Optimizer, *, scale: float = 1.0, name: str | None = None) -> list[Slot]:
    """Return the parameters with a gradient, in order. Call it without gradients being recorded.

    Args:
        optimizer: The optimizer, or a wrapper around it.
        scale: What ``.grad`` still has to be divided by.
        name: Its `stock_name`, to save looking it up.
    """
    states = unwrap(optimizer).state
    found = [
        (parameter, states.get(parameter, {}), group)
        for group in live_groups(optimizer)
        for parameter in group["params"]
        if parameter.requires_grad and parameter.grad is not None
    ]
    numbers = _step_numbers([state for _, state, _ in found])
    name = name or stock_name(optimizer)
    here = [parameter for parameter, _, _ in found]
    converted = is_sharded(here) or any(parameter.is_complex() for parameter in here)
    decoupled, plain_adam = name in _DECOUPLED, name in ADAM
    slots = []
    for (parameter, state, group), number in zip(found, numbers, strict=True):
        values, gradient, held = (
            _real_local(parameter, state) if converted else (parameter.data, parameter.grad, state)
        )
        slots.append(Slot(parameter, values, gradient, held, group, scale, number + 1, decoupled, plain_adam))
    return slots


def renew_slots(slots: Sequence[Slot], *, scale: float) -> list[Slot]:
    """Return slots of the same parameters, states and groups, with what changed since they were read.

    Args:
        slots: Whole, real parameters with a gradient and a state.
        scale: What ``.grad`` still has to be divided by.
    """
    numbers = _step_numbers([slot.state for slot in slots])
    return [
        Slot(key, key.data, key.grad, state, group, scale, made + 1, decoupled, plain)  # type: ignore[arg-type]
        for (key, _, _, state, group, _, _, decoupled, plain), made in zip(slots, numbers, strict=True)
    ]


def all_parameters(optimizer: Optimizer) -> list[Tensor]:
    """Return all parameters of an optimizer, in order.

    Args:
        optimizer: The optimizer, unwrapped.
    """
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def per_group(slots: Sequence[Slot], compute: Callable[[Slot], float]) -> dict[int, float]:
    """Return a number for each parameter group, by its id: options may be tensors on an accelerator.

    Args:
        slots: Parameters.
        compute: The number from any parameter of a group.
    """
    first = {id(slot.group): slot for slot in reversed(slots)}
    return {group: compute(slot) for group, slot in first.items()}


def _real_local(parameter: Tensor, state: Mapping[str, Any]) -> tuple[Tensor, Tensor, Mapping[str, Any]]:
    """Return what this process holds of a parameter, its gradient and its state, as views of real numbers.

    To torch's optimizers a complex number is two real ones, each with a v of its own.
    """
    gradient = parameter if parameter.grad is None else parameter.grad
    here = {name: as_real(value) if isinstance(value, Tensor) else value for name, value in state.items()}
    return as_real(parameter.data), as_real(gradient), here


def as_real(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor, a complex number as two real ones.

    Args:
        tensor: Any tensor.
    """
    here = local(tensor)
    return torch.view_as_real(here) if here.is_complex() else here


def _step_numbers(states: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the updates made, with a single transfer where they are counted on an accelerator."""
    counts = [state.get("step", 0) for state in states]
    remote = [local(c) for c in counts if isinstance(c, Tensor) and c.device.type != "cpu"]
    fetched = iter(torch.stack(remote).tolist() if remote else ())
    return [
        int(next(fetched)) if isinstance(c, Tensor) and c.device.type != "cpu" else int(c) for c in counts
    ]
