"""How many bytes of tensors are alive at once, on any device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class ByteAccount(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the bytes of the tensors made inside the block that are alive after each operation.

    What an operation uses inside and frees again is not seen.

    Attributes:
        peak: The most bytes that were alive.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._bound = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if _dense(leaf)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            # A result that shares its storage with an argument is a view, or was written in place.
            if _dense(leaf) and (storage := leaf.untyped_storage())._cdata not in before:
                self._alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())  # type: ignore[no-untyped-call]
                self._bound += storage.nbytes()
        # Who is still alive is looked up only where it may be a new peak.
        if self._bound > self.peak:
            alive = {key: pair for key, pair in self._alive.items() if not pair[0].expired()}  # type: ignore[no-untyped-call]
            self._alive = alive
            self._bound = sum(size for _, size in self._alive.values())
            self.peak = max(self.peak, self._bound)
        return result


def _dense(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.layout == torch.strided
