"""Whether every training step sees the same data.

2/η is the edge of stability of full-batch training. Where batches differ, the noise of their curvature moves
the edge, and a forecast that rests on one batch must say so.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor


class BatchWatch:
    """Compare each batch with the one before, by identity of its tensors: no data is read.

    Args:
        constant: The answer, if the user knows it; None to find out.
    """

    def __init__(self, *, constant: bool | None = None) -> None:
        self._known = constant
        self._previous: list[tuple[weakref.ref[Tensor], int]] | None = None
        self._seen: bool | None = None

    @property
    def constant(self) -> bool | None:
        """True while every batch was the same, False once two differed, None if it can't be told."""
        return self._seen if self._known is None else self._known

    def see(self, batch: Any) -> None:
        """Take the batch of one step into account."""
        if self._known is not None or self._seen is False:
            return
        present = [(weakref.ref(tensor), tensor._version) for tensor in _tensors(batch)]
        if self._previous is not None and present:
            self._seen = len(present) == len(self._previous) and all(
                old() is new() and old_version == new_version
                for (old, old_version), (new, new_version) in zip(self._previous, present, strict=True)
            )
        self._previous = present


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from _tensors(value)
    elif isinstance(batch, Sequence) and not isinstance(batch, (str, bytes)):
        for value in batch:
            yield from _tensors(value)
