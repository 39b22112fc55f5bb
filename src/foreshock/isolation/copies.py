"""Copies of tensors, to put them back bit by bit; and a few values of those that are not copied."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foreshock.isolation.bits import Together, bytes_of, copy_of, is_plain, same_bits, some_values, write
from foreshock.isolation.moved import MovedMemory

_SMALL = 2**14  # bytes: below that an operation takes longer than the copy, so that many are copied in one
_SAMPLES = 64


@dataclass(slots=True)
class _Entry:
    """A tensor, and how its content is known.

    Attributes:
        name: What to call it.
        tensor: The tensor.
        place: The memory that it has, detached; None for a tensor that is not plain.
        version: Its version counter; None for an inference tensor, which has none.
        parameter: Whether a memory may learn that it stands still.
        copy: Its content, if it is copied by itself.
    """

    name: str
    tensor: Tensor
    place: Tensor | None
    version: int | None
    parameter: bool
    copy: Tensor | None = None

    @property
    def written(self) -> bool:
        """Whether the version counter says that something wrote into it."""
        return self.version is not None and self.tensor._version != self.version

    def settle(self) -> None:
        """Put back where the tensor lies, not what lies there."""
        tensor, place = self.tensor, self.place
        if tensor.grad_fn is not None:
            tensor.detach_()  # what was written in place made it a part of a graph
        if place is None:
            return
        same = tensor.data_ptr() == place.data_ptr() and tensor.dtype == place.dtype
        if not (same and tensor.is_set_to(place)):
            tensor.data = place


class Copies:
    """Copies of some tensors, and samples of others.

    Args:
        budget: Bytes that copies may take in all, beyond those of tensors that must be copied.
        memory: Which parameters stood still in earlier probes, so that samples of them will do; it learns
            from this one. None to copy all.

    Attributes:
        surprising: After `restore`, the names of parameters that stood still earlier, but not this time.

    Example:
        >>> weight = torch.ones(3)
        >>> copies = Copies(budget=1000)
        >>> copies.add("weight", weight)
        >>> copies.take()
        >>> _ = weight.zero_()
        >>> copies.restore(), weight
        ([], tensor([1., 1., 1.]))
    """

    def __init__(self, *, budget: int, memory: MovedMemory | None = None) -> None:
        self._left, self._memory = budget, memory
        self._entries: dict[int, _Entry] = {}
        self._copied: list[_Entry] = []
        self._small: list[_Entry] = []  # added, and not taken yet
        self._sampled: list[tuple[_Entry, Tensor]] = []
        self._smalls: list[tuple[list[_Entry], Together]] = []
        self._samples: list[tuple[list[_Entry], Together]] = []
        self._watched: list[_Entry] = []
        self._too_large: list[_Entry] = []
        self.surprising: list[str] = []

    def add(self, name: str, tensor: Tensor, *, must: bool = False, parameter: bool = False) -> None:
        """Copy a tensor, or a few of its values if there is no room or no need for it; see `take`.

        Args:
            name: What to call it if it changed and can't be put back.
            tensor: The tensor, not part of a graph. One that was added before is left out.
            must: Whether to copy it whatever its size.
            parameter: Whether it need not be copied where it stood still in earlier probes.
        """
        if id(tensor) in self._entries:
            return
        place = tensor.detach() if is_plain(tensor) else None
        # What forward and probe write raises the version counter, which would invalidate graphs that the user
        # keeps. Content that is put back is the content that such a graph saved.
        version = None if tensor.is_inference() else tensor._version
        entry = self._entries[id(tensor)] = _Entry(name, tensor, place, version, parameter)
        size = bytes_of(tensor)
        if place is not None and size <= _SMALL:
            self._small.append(entry)
        elif (
            parameter
            and self._memory is not None
            and self._memory.stood_still(tensor)
            and self._sample(entry)
        ):
            self._watched.append(entry)
        elif must or size <= self._left:
            self._left -= 0 if must else size
            entry.copy = copy_of(tensor)
            self._copied.append(entry)
        else:
            self._too_large.append(entry)
            self._sample(entry)

    def _sample(self, entry: _Entry) -> bool:
        """Note that samples are to be taken of a tensor; return whether it has any."""
        turn = 0 if self._memory is None else self._memory.turn
        values = None if entry.place is None else some_values(entry.place, _SAMPLES, turn=turn)
        if values is not None:
            self._sampled.append((entry, values))
        return values is not None

    def take(self) -> None:
        """Copy the small tensors, and take the samples, of what was added since the last call."""
        if self._small:
            places = [entry.place for entry in self._small if entry.place is not None]
            self._smalls.append((self._small, Together(places)))
            self._small = []
        if self._sampled:
            entries, values = zip(*self._sampled, strict=True)
            self._samples.append((list(entries), Together(values)))
            self._sampled = []

    def restore(self) -> list[str]:
        """Put back what was copied; return the names of what changed and never was."""
        for entry in self._entries.values():
            entry.settle()
        with torch.no_grad():
            for entry in self._copied:
                self._restore_copied(entry)
            for entries, together in self._smalls:
                for index, content in together.changed():
                    write(entries[index].tensor, content)
            changed = {
                id(entries[index]) for entries, together in self._samples for index, _ in together.changed()
            }
        for entry in self._watched:
            moved = entry.written or id(entry) in changed
            self.surprising += [entry.name] if moved else []
            self._learn(entry, moved=moved)
        return [entry.name for entry in self._too_large if entry.written or id(entry) in changed]

    def _restore_copied(self, entry: _Entry) -> None:
        # Written only where bits differ: a write into memory that is mapped from a file, or shared, is no
        # small thing.
        moved = entry.copy is not None and not same_bits(entry.tensor, entry.copy)
        if moved and entry.copy is not None:
            write(entry.tensor, entry.copy)
        self._learn(entry, moved=moved)

    def _learn(self, entry: _Entry, *, moved: bool) -> None:
        if self._memory is not None and entry.parameter:
            self._memory.learn(entry.tensor, moved=moved or entry.written)

    def restore_versions(self) -> None:
        """Set the version counters back: a graph that the user keeps stays valid."""
        raised = [
            (entry.tensor, entry.version)
            for entry in self._entries.values()
            if entry.version is not None and entry.tensor._version != entry.version
        ]
        if raised:
            tensors, versions = zip(*raised, strict=True)
            torch._C._autograd._unsafe_set_version_counter(tensors, versions)


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
