"""Copies of tensors, to put them back bit by bit; and a few values of those that are too large to copy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

_SAMPLES = 8
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Copies:
    """Copies of some tensors, and samples of others.

    Args:
        budget: Bytes that copies may take in all, beyond those of tensors that must be copied.

    Example:
        >>> weight = torch.ones(3)
        >>> copies = Copies(budget=1000)
        >>> copies.add("weight", weight)
        >>> _ = weight.zero_()
        >>> copies.restore(), weight
        ([], tensor([1., 1., 1.]))
    """

    def __init__(self, *, budget: int) -> None:
        self._left = budget
        self._saved: dict[int, tuple[str, Tensor, Tensor | None, Tensor | None]] = {}
        self._versions: dict[int, tuple[Tensor, int]] = {}

    def add(self, name: str, tensor: Tensor, *, must: bool = False) -> None:
        """Copy a tensor, or a few of its values if there is no room for it.

        Args:
            name: What to call it if it changed and can't be put back.
            tensor: The tensor, not part of a graph. One that was added before is left out.
            must: Whether to copy it whatever its size.
        """
        if id(tensor) in self._saved:
            return
        # What forward and probe write raises the version counter, which would invalidate graphs that the user
        # keeps. Content that is put back is the content that such a graph saved.
        if not tensor.is_inference():
            self._versions[id(tensor)] = tensor, tensor._version
        size = _bytes(tensor)
        if must or size <= self._left:
            self._left -= 0 if must else size
            self._saved[id(tensor)] = (name, tensor, _copy(tensor), None)
        else:
            self._saved[id(tensor)] = (name, tensor, None, _sample(tensor))

    def restore(self) -> list[str]:
        """Put back what was copied; return the names of what changed and was not copied."""
        lost = []
        with torch.no_grad():
            for name, tensor, copy, sample in self._saved.values():
                if tensor.grad_fn is not None:
                    tensor.detach_()  # what was written in place made it a part of a graph
                # Written only where bits differ: a write into memory that is mapped from a file, or shared,
                # is no small thing.
                if copy is not None and not _same_bits(tensor, copy):
                    _write(tensor, copy)
                if copy is None and (self._is_newer(tensor) or not _same_bits(_sample(tensor), sample)):
                    lost.append(name)
        return lost

    def restore_versions(self) -> None:
        """Set the version counters back: a graph that the user keeps stays valid."""
        raised = [
            (tensor, version) for tensor, version in self._versions.values() if tensor._version != version
        ]
        if raised:
            tensors, versions = zip(*raised, strict=True)
            torch._C._autograd._unsafe_set_version_counter(tensors, versions)

    def _is_newer(self, tensor: Tensor) -> bool:
        _, version = self._versions.get(id(tensor), (tensor, None))
        return version is not None and tensor._version != version


def tensors_inside(value: Any, *, depth: int = 2) -> Iterator[Tensor]:
    """Yield a tensor, or the tensors in lists, tuples, sets and mappings.

    Args:
        value: Anything.
        depth: How many containers inside each other to look into.
    """
    if isinstance(value, Tensor):
        yield value
    elif depth and isinstance(value, dict | list | tuple | set):
        inner: Iterable[Any] = value.values() if isinstance(value, dict) else value
        for one in inner:
            yield from tensors_inside(one, depth=depth - 1)


def _copy(tensor: Tensor) -> Tensor:
    return _here(tensor).detach().clone()


def _here(tensor: Tensor) -> Tensor:
    # Of a distributed tensor every process puts back its own part: nothing is exchanged.
    here: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return here


def _write(tensor: Tensor, copy: Tensor) -> None:
    # `.data` leaves the version counter alone. A tensor that was resized, or set to other memory, gets
    # memory of its own back.
    here = _here(tensor).detach()
    if here.shape == copy.shape and here.dtype == copy.dtype and here.device == copy.device:
        here.data.copy_(copy)
    else:
        tensor.data = copy


def _same_bits(one: Tensor | None, other: Tensor | None) -> bool:
    """Return whether two tensors have the same bits: −0 and 0 differ, and a NaN is itself."""
    if one is None or other is None:
        return one is other
    one = _here(one).detach()
    if one.shape != other.shape or one.dtype != other.dtype or one.device != other.device:
        return False
    if one.layout != torch.strided or one.is_quantized:
        return torch.equal(one, other)
    if one.is_complex():
        one, other = torch.view_as_real(one.resolve_conj()), torch.view_as_real(other.resolve_conj())
    whole = _INTEGERS.get(one.element_size())
    if one.is_meta or whole is None or type(one) not in (Tensor, torch.nn.Parameter, torch.nn.Buffer):
        return one.is_meta or torch.equal(one, other)
    return torch.equal(one.view(whole), other.view(whole))


def _sample(tensor: Tensor) -> Tensor | None:
    """Return a few values of a tensor, or None where they can't be had cheaply."""
    here = _here(tensor).detach()
    plain = type(here) in (Tensor, torch.nn.Parameter, torch.nn.Buffer) and here.layout == torch.strided
    if not plain or not here.is_contiguous() or not here.numel():
        return None
    return here.view(-1)[:: max(1, here.numel() // _SAMPLES)].clone()


def _bytes(tensor: Tensor) -> int:
    here = _here(tensor)
    return here.numel() * here.element_size()
