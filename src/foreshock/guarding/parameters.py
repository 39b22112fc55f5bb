"""The parameters that the next step will move, as the optimizer sees them; small ones put together.

A network of a hundred layers has hundreds of biases and scales, and on them the call of an operation takes
longer than its work. A product over all of them is one concatenation and one dot product instead of hundreds
of dot products, on an accelerator of as many kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from foreshock.preconditioner import LiveParameter, live_groups, unwrap, updates_made
from foreshock.vectors import is_sharded, local

SMALL = 2**16
"""Coordinates of a tensor up to which it is put together with others."""

LARGEST = 2**20
"""Coordinates of a bundle at most: while it is used, a second copy of it exists."""

SMALL_ON_ACCELERATOR, LARGEST_ON_ACCELERATOR = 2**24, 2**25
"""The same where starting an operation takes longer than its work on millions of coordinates."""


class Slot(NamedTuple):
    """One parameter that has a gradient. Tensors are what this process holds of it.

    Attributes:
        key: The parameter itself, to remember things by.
        parameter: Its values.
        gradient: Its ``.grad`` without any change.
        state: Its optimizer state; empty before the first step.
        group: Its parameter group.
        scale: What the gradient still has to be divided by.
        updates: t ≥ 1, the number of the update about to be made.
        decoupled: Whether weight decay is decoupled, where the group has no ``decoupled_weight_decay``.
        plain_adam: Whether the optimizer is Adam or AdamW of torch.
        sharded: Whether other processes hold other parts of it.
    """

    # Not the LiveParameter that readers get: that has the gradient with the scale divided out, a kernel for
    # each parameter, reads t from the state, on an accelerator a transfer for each, and as a frozen dataclass
    # takes three times as long to make. `live` makes one where a reader is asked.
    key: Tensor
    parameter: Tensor
    gradient: Tensor
    state: Mapping[str, Any]
    group: Mapping[str, Any]
    scale: float
    updates: int
    decoupled: bool = False
    plain_adam: bool = False
    sharded: bool = False

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


Bundle = tuple[Slot, ...]
"""Parameters of one group, device and type that made the same number of updates."""


def read_slots(
    optimizer: Optimizer, *, scale: float = 1.0, decoupled: bool = False, plain_adam: bool = False
) -> list[Slot]:
    """Return the parameters with a gradient, in order. Call it without gradients being recorded.

    Args:
        optimizer: The optimizer, or a wrapper around it.
        scale: What ``.grad`` still has to be divided by.
        decoupled: Whether weight decay is decoupled, where the group has no ``decoupled_weight_decay``.
        plain_adam: Whether the optimizer is Adam or AdamW of torch.
    """
    states = unwrap(optimizer).state
    found = [
        (parameter, states.get(parameter, {}), group)
        for group in live_groups(optimizer)
        for parameter in group["params"]
        if parameter.requires_grad and parameter.grad is not None
    ]
    numbers = updates_made([state for _, state, _ in found])
    here = [parameter for parameter, _, _ in found]
    split = is_sharded(here)
    converted = split or any(parameter.is_complex() for parameter in here)
    slots = []
    for (parameter, state, group), number in zip(found, numbers, strict=True):
        values, gradient, held = (
            _real_local(parameter, state) if converted else (parameter.data, parameter.grad, state)
        )
        sharded = split and is_sharded([parameter])
        slots.append(
            Slot(parameter, values, gradient, held, group, scale, number + 1, decoupled, plain_adam, sharded)
        )
    return slots


def renew_slots(slots: Sequence[Slot], *, scale: float, steps: int | None = None) -> list[Slot]:
    """Return slots of the same parameters, states and groups, with what changed since they were read.

    Args:
        slots: Whole, real parameters with a gradient and a state.
        scale: What ``.grad`` still has to be divided by.
        steps: Steps made since; None to read from the states how many of them were updates, for which the
            host may have to wait for the device.
    """
    states = [slot.state for slot in slots]
    numbers = updates_made(states) if steps is None else [slot.updates - 1 + steps for slot in slots]
    return [
        Slot(key, key.data, key.grad, state, group, scale, made + 1, decoupled, plain)  # type: ignore[arg-type]
        for (key, _, _, state, group, _, _, decoupled, plain, _), made in zip(slots, numbers, strict=True)
    ]


def all_parameters(optimizer: Optimizer) -> list[Tensor]:
    """Return all parameters of an optimizer, in order.

    Args:
        optimizer: The optimizer, unwrapped.
    """
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def columns(rows: Sequence[Sequence[float]]) -> list[float]:
    """Return the sums of the columns.

    Args:
        rows: Sums over the coordinates of each tensor, a row a tensor.
    """
    return [math.fsum(column) for column in zip(*rows, strict=True)]


def per_group(slots: Sequence[Slot], compute: Callable[[Slot], float]) -> dict[int, float]:
    """Return a number for each parameter group, by its id: options may be tensors on an accelerator.

    Args:
        slots: Parameters.
        compute: The number from any parameter of a group.
    """
    first = {id(slot.group): slot for slot in reversed(slots)}  # reversed: the first of a group stays
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
    here = tensor if type(tensor) is Tensor else local(tensor)
    return torch.view_as_real(here) if here.is_complex() else here


def bundle(slots: Sequence[Slot], *, alone: Collection[Tensor] = ()) -> list[Bundle]:
    """Return parameters in bundles; large ones and shards are bundles of one.

    Args:
        slots: The parameters.
        alone: Parameters to be left alone.

    Example:
        >>> from foreshock.guarding.parameters import read_slots
        >>> layers = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
        >>> for parameter in layers.parameters():
        ...     parameter.grad = torch.zeros_like(parameter)
        >>> slots = read_slots(torch.optim.Adam(layers.parameters()))
        >>> [len(members) for members in bundle(slots)]
        [4]
        >>> [len(members) for members in bundle(slots, alone=[layers[0].bias])]
        [3, 1]
    """
    # Only what the same formula holds for goes together: the same options, t, device and type.
    apart = {id(parameter) for parameter in alone}
    full: list[list[Slot]] = []
    open_: dict[object, list[Slot]] = {}
    taken: dict[object, int] = {}
    for slot in slots:
        size = slot.parameter.numel()
        small, largest = (
            (SMALL, LARGEST)
            if slot.parameter.device.type == "cpu"
            else (SMALL_ON_ACCELERATOR, LARGEST_ON_ACCELERATOR)
        )
        if size > small or id(slot.key) in apart or slot.sharded:
            full.append([slot])
            continue
        alike = _alike(slot)
        if alike not in taken or taken[alike] + size > largest:
            full.append([])
            open_[alike], taken[alike] = full[-1], 0
        open_[alike].append(slot)
        taken[alike] += size
    return [tuple(members) for members in full]


def flat(members: Bundle, select: Callable[[Slot], Tensor]) -> Tensor:
    """Return one tensor of each member, concatenated; that of a single member itself, without a copy.

    Args:
        members: The bundle.
        select: The tensor.
    """
    if len(members) == 1:
        return select(members[0])
    return concatenated([select(slot) for slot in members])


def concatenated(tensors: Sequence[Tensor]) -> Tensor:
    """Return the coordinates of tensors of one type and device one after the other.

    Args:
        tensors: The tensors, of any shapes.
    """
    # One call for all: of a hundred biases, views made in Python take longer than the copy.
    flattened: Tensor = torch._C._nn.flatten_dense_tensors(list(tensors))
    return flattened


def _alike(slot: Slot) -> object:
    average = slot.state.get("exp_avg")
    return (
        id(slot.group),
        slot.updates,
        slot.parameter.device,
        slot.parameter.dtype,
        slot.gradient.dtype,
        None if average is None else average.dtype,
    )
