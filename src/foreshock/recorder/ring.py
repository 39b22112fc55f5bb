"""A bounded ring of snapshots in memory: copies into buffers that are kept, dense lately and thin before."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from foreshock.recorder.snapshot import Snapshot

Ids = tuple[int | str, ...]


@dataclass
class Slot:
    """The memory of one snapshot.

    Attributes:
        step: Its step; −1 while there is none, or it is being copied.
        buffers: Its tensors by name, in the memory of the host.
        tree: All else.
        ids: Of its examples.
        note: What comes along, in memory only.
        in_use: How many are reading it; it is not overwritten meanwhile.
        bytes: How much memory it takes.
        ready: Event that says that copies from a CUDA device have arrived; None if nothing is waited for.
    """

    step: int = -1
    buffers: dict[str, Tensor] = field(default_factory=dict)
    tree: Mapping[str, Any] = field(default_factory=dict)
    ids: Ids = ()
    note: Any = None
    in_use: int = 0
    bytes: int = 0
    ready: Any = None

    def snapshot(self) -> Snapshot:
        """Return what it holds; the tensors are the slot's own."""
        if self.ready is not None:
            self.ready.synchronize()
        return Snapshot(self.step, self.buffers, self.tree, self.ids, note=self.note)

    @torch.no_grad()
    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy tensors into its buffers, of which those that fit are used again.

        Args:
            tensors: Live tensors by name.
        """
        self.step = -1  # until all has been copied it is no snapshot
        before, self.buffers = self.buffers, {}
        for name, tensor in tensors.items():
            buffer = before.pop(name, None)
            if buffer is not None and buffer.shape == tensor.shape and buffer.dtype == tensor.dtype:
                self.buffers[name] = buffer
        before.clear()  # memory that is not used any more goes before more is taken
        away = any(tensor.is_cuda for tensor in tensors.values())
        for name, tensor in tensors.items():
            if name not in self.buffers:
                self.buffers[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        if tensors:
            torch._foreach_copy_(
                [self.buffers[name] for name in tensors], list(tensors.values()), non_blocking=away
            )
        self.ready = torch.cuda.current_stream().record_event() if away else None
        self.bytes = size_of(self.buffers)


class Ring:
    """Snapshots of one training, the oldest first.

    When it is full, the snapshot goes whose neighbours are nearest to each other for its age, so that ages
    about double from one to the next and few of them reach far back; the oldest goes once it is older than
    `reach`.

    Args:
        last: How many, ≥ 1.
        max_bytes: What they may take together.

    Attributes:
        reach: Steps after which the oldest is not needed any more.

    Example:
        >>> ring = Ring(last=5, max_bytes=1000)
        >>> for step in range(17):
        ...     _ = ring.put(step, {}, {"weight": torch.zeros(2)})
        >>> [16 - slot.step for slot in ring.slots]
        [16, 4, 2, 1, 0]
    """

    def __init__(self, *, last: int, max_bytes: int) -> None:
        self.last, self.max_bytes = last, max_bytes
        self.reach = 2**62
        self._slots: list[Slot] = []
        self._spare: list[Slot] = []

    @property
    def slots(self) -> Sequence[Slot]:
        """Those that hold a snapshot, the oldest first."""
        return tuple(slot for slot in self._slots if slot.step >= 0)

    @property
    def bytes(self) -> int:
        """What they take together."""
        return sum(slot.bytes for slot in (*self._slots, *self._spare))

    def put(
        self,
        step: int,
        tree: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        ids: Ids = (),
        note: Any = None,
    ) -> bool:
        """Copy a state into the ring; return False if there is no room, now or at all.

        Args:
            step: Step number, above that of the last one.
            tree: The state but for its tensors.
            tensors: Live tensors by name.
            ids: Of the step's examples.
            note: What comes along.
        """
        slot = self._room(step, size_of(tensors))
        if slot is None:
            return False
        slot.fill(tensors)
        slot.tree, slot.ids, slot.note, slot.step = tree, ids, note, step
        self._slots.append(slot)
        return True

    def drop_from(self, step: int) -> None:
        """Forget the snapshots of a step and of later ones: the training went back.

        Args:
            step: Step number.
        """
        later = [slot for slot in self._slots if slot.step >= step]
        self._slots = [slot for slot in self._slots if slot.step < step]
        # One that is being read keeps its content, and its memory goes with the reader.
        self._spare += [slot for slot in later if not slot.in_use]

    def clear(self) -> None:
        """Give all memory back, but for what is being read."""
        self._slots, self._spare = [], []

    def _room(self, step: int, needed: int) -> Slot | None:
        """Return a slot that may be filled within the bounds, taken out of the ring."""
        if needed > self.max_bytes:
            return None
        slot = self._spare.pop() if self._spare else None
        if slot is None:
            slot = Slot() if len(self._slots) < self.last else self._taken_out(step)
        # The memory of the slot itself is used again, or given back before more is taken.
        while slot is not None and self.bytes + needed > self.max_bytes:
            slot = self._spare.pop() if self._spare else self._taken_out(step)
        return slot

    def _taken_out(self, now: int) -> Slot | None:
        """Take the snapshot out that is missed least; None if all are being read."""
        steps = [slot.step for slot in self._slots]
        free = [index for index, slot in enumerate(self._slots) if not slot.in_use]
        if not free:
            return None
        return self._slots.pop(min(free, key=lambda index: _gap(steps, index, now, self.reach)))


def _gap(steps: Sequence[int], index: int, now: int, reach: int) -> float:
    """Return the gap that a snapshot would leave, over its age; nothing replaces the oldest within reach."""
    age = now - steps[index]
    if index == 0:
        return math.inf if age <= reach else 0.0
    after = steps[index + 1] if index + 1 < len(steps) else now
    return (after - steps[index - 1]) / max(age, 1)


def size_of(tensors: Mapping[str, Tensor]) -> int:
    """Return how much memory tensors take.

    Args:
        tensors: Tensors by name.
    """
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
