"""Dense matrices as operators, and a count of the vectors that live at once."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Matrix:
    """A dense matrix as an operator."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.products = 0

    def __call__(self, vector: Tensor) -> Tensor:
        self.products += 1
        return self.matrix @ vector


class Diagonal:
    """A diagonal matrix as an operator whose product allocates nothing but its result."""

    def __init__(self, diagonal: Tensor) -> None:
        self.diagonal = diagonal
        self.products = 0

    def __call__(self, vector: Tensor) -> Tensor:
        self.products += 1
        return self.diagonal * vector


def symmetric(eigenvalues: Tensor, seed: int = 0) -> Tensor:
    """Return a matrix with these eigenvalues and random eigenvectors."""
    generator = torch.Generator().manual_seed(seed)
    square = torch.randn(len(eigenvalues), len(eigenvalues), generator=generator).double()
    rotation, _ = torch.linalg.qr(square)
    return rotation @ torch.diag(eigenvalues) @ rotation.T


class VectorAccount(TorchDispatchMode):
    """Count the vectors of size n that are alive after each operation, by their storage.

    Tensors from before the ``with`` block count only once something is written into them.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                vectors = math.ceil(storage.nbytes() // leaf.element_size() / self.size)
                if storage.nbytes() >= self.size * leaf.element_size():
                    self._alive[storage._cdata] = (StorageWeakRef(storage), vectors)
        self._alive = {key: pair for key, pair in self._alive.items() if not pair[0].expired()}
        self.peak = max(self.peak, sum(vectors for _, vectors in self._alive.values()))
        return result
