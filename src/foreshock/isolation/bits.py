"""The bits of tensors: copy them, compare them, put them back; those of many tensors with one operation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_PRIME = 7919
_PLAIN_TYPES = (Tensor, torch.nn.Parameter, torch.nn.Buffer)


class Together:
    """The bits of several tensors at one moment, in one tensor for each device and type.

    Args:
        places: Detached tensors for which `is_plain` holds.

    Example:
        >>> places = [torch.tensor([[1.0, 2.0]]), torch.tensor([0.0])]
        >>> together = Together(places)
        >>> _ = places[1].neg_()
        >>> together.changed()
        [(1, tensor([0.]))]
    """

    def __init__(self, places: Sequence[Tensor]) -> None:
        groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
        for index, place in enumerate(places):
            groups.setdefault((place.device, place.dtype), []).append(index)
        self._places = places
        # Joined alone, a tensor is not copied.
        self._groups = [
            (group, self._joined(group).clone() if len(group) == 1 else self._joined(group))
            for group in groups.values()
        ]

    def _joined(self, group: Sequence[int]) -> Tensor:
        # One operation for all of them, however they are strided.
        joined: Tensor = torch._C._nn.flatten_dense_tensors([self._places[index] for index in group])
        return joined

    def changed(self) -> list[tuple[int, Tensor]]:
        """Return the index of each tensor whose bits are others by now, and the content that it had."""
        found = []
        for group, saved in self._groups:
            if same_bits(self._joined(group), saved):
                continue
            start = 0
            for index in group:
                place = self._places[index]
                part = saved[start : start + place.numel()].view(place.shape)
                start += place.numel()
                if not same_bits(place, part):
                    found.append((index, part))
        return found


def some_values(place: Tensor, count: int, *, turn: int) -> Tensor | None:
    """Return a few values of a plain tensor, without a copy; None if it does not lie in a row.

    Args:
        place: A detached tensor for which `is_plain` holds.
        count: How many, at least, if it has as many.
        turn: Others are taken at each turn.
    """
    if place.ndim == 4 and not place.is_contiguous():
        place = place.permute(0, 2, 3, 1)  # channels last
    if not place.is_contiguous():
        return None
    step = max(1, place.numel() // count)
    return place.view(-1)[turn * _PRIME % step :: step]


def is_plain(tensor: Tensor) -> bool:
    """Return whether a tensor is memory in strides and nothing else: no subclass, not quantized, not meta.

    Args:
        tensor: The tensor.
    """
    plain = type(tensor) in _PLAIN_TYPES and tensor.layout == torch.strided
    return plain and not tensor.is_quantized and not tensor.is_meta


def copy_of(tensor: Tensor) -> Tensor:
    """Return a copy of a tensor, outside of any graph.

    Args:
        tensor: The tensor; of a distributed one the part of this process is copied.
    """
    return _here(tensor).detach().clone()


def write(tensor: Tensor, copy: Tensor) -> None:
    """Put content back; the version counter stays.

    Args:
        tensor: The tensor. One that was resized, or set to other memory, gets memory of its own back.
        copy: What `copy_of` returned.
    """
    here = _here(tensor).detach()
    if here.shape == copy.shape and here.dtype == copy.dtype and here.device == copy.device:
        here.data.copy_(copy)
    else:
        tensor.data = copy


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors have the same bits: −0 and 0 differ, and a NaN is itself.

    Args:
        one: A tensor.
        other: What `copy_of` returned.
    """
    one = _here(one).detach()
    if one.shape != other.shape or one.dtype != other.dtype or one.device != other.device:
        return False
    if one.layout != torch.strided or one.is_quantized:
        return torch.equal(one, other)
    if one.is_complex():
        one, other = torch.view_as_real(one.resolve_conj()), torch.view_as_real(other.resolve_conj())
    whole = _INTEGERS.get(one.element_size())
    if one.is_meta or whole is None or type(one) not in _PLAIN_TYPES:
        return one.is_meta or torch.equal(one, other)
    return torch.equal(one.view(whole), other.view(whole))


def bytes_of(tensor: Tensor) -> int:
    """Return how much memory a tensor takes in this process.

    Args:
        tensor: The tensor.
    """
    here = _here(tensor)
    return here.numel() * here.element_size()


def _here(tensor: Tensor) -> Tensor:
    # Of a distributed tensor every process puts back its own part: nothing is exchanged.
    here: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return here
