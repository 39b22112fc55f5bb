"""Small tensors, put together: on them the call of an operation takes longer than its work.

A network of a hundred layers has hundreds of biases and scales. A product over all of them is one
concatenation and one dot product instead of hundreds of dot products, on an accelerator of as many kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from foreshock.guarding.families import Slot
from foreshock.vectors import is_sharded

SMALL = 2**16
"""Coordinates of a tensor up to which it is put together with others."""

LARGEST = 2**20
"""Coordinates of a bundle at most: while it is used, a second copy of it exists."""

Bundle = tuple[Slot, ...]
"""Parameters of one group, device and type that made the same number of updates."""


def bundle(slots: Sequence[Slot], *, alone: Collection[Tensor] = ()) -> list[Bundle]:
    """Return parameters in bundles; large ones and shards are bundles of one.

    Args:
        slots: The parameters.
        alone: Parameters to be left alone.

    Example:
        >>> from foreshock.guarding.families import read_slots
        >>> layers = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
        >>> for parameter in layers.parameters():
        ...     parameter.grad = torch.zeros_like(parameter)
        >>> slots = read_slots(torch.optim.Adam(layers.parameters()))
        >>> [len(members) for members in bundle(slots)]
        [4]
        >>> [len(members) for members in bundle(slots, alone=[layers[0].bias])]
        [3, 1]
    """
    apart = {id(parameter) for parameter in alone}
    full: list[list[Slot]] = []
    open_: dict[object, tuple[list[Slot], int]] = {}
    for slot in slots:
        size = slot.parameter.numel()
        if size > SMALL or id(slot.key) in apart or is_sharded([slot.key]):
            full.append([slot])
            continue
        kind = _kind(slot)
        members, taken = open_.get(kind, ([], 0))
        if not members or taken + size > LARGEST:
            members, taken = [], 0
            full.append(members)
        members.append(slot)
        open_[kind] = (members, taken + size)
    return [tuple(members) for members in full]


def flat(members: Bundle, select: Callable[[Slot], Tensor]) -> Tensor:
    """Return one tensor of each member, concatenated; that of a single member as it is, without a copy.

    Args:
        members: The bundle.
        select: The tensor.
    """
    if len(members) == 1:
        return select(members[0])
    return torch.cat([select(slot).reshape(-1) for slot in members])


def _kind(slot: Slot) -> object:
    average = slot.state.get("exp_avg")
    return (
        id(slot.group),
        slot.updates,
        slot.parameter.device,
        slot.parameter.dtype,
        slot.gradient.dtype,
        None if average is None else average.dtype,
    )
