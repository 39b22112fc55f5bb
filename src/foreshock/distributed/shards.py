"""Flat vectors of which each process has a part: sums over them are sums over all processes.

An eigensolver is written once, for vectors in one memory. Of a vector that is spread over processes it needs
no more than that its sums – inner products, norms – are those of the whole: everything else it does entry by
entry. So a `ShardVector` is a tensor in which such sums are added up over processes, each entry counted once
however many processes have a copy of it, and an operation that would need other entries is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only

from foreshock.vectors import block_sums, inner_products, random_like

Total = Callable[[Tensor], Tensor]
"""Adds up numbers over processes."""


@dataclass(frozen=True)
class Spread:
    """How a vector is spread.

    Attributes:
        weights: One over the number of processes that have an entry, for each entry; or one number for all.
        total: Adds up over processes.
        draw: Number → standard normal entries, the same where several processes have an entry.
        size: Number of entries over all processes.
    """

    weights: Tensor | float
    total: Total
    draw: Callable[[int], Tensor]
    size: int

    def dot(self, one: Tensor, other: Tensor) -> Tensor:
        """Return what this process has of an inner product, in the precision of the vectors.

        Args:
            one: Shape (m,), the part of this process.
            other: Shape (m,).
        """
        if isinstance(self.weights, Tensor):
            one = one * self.weights.to(one.dtype)
            return torch.dot(one, other)
        return torch.dot(one, other) * self.weights

    def count(self, where: Tensor) -> Tensor:
        """Return how many entries of this process are not zero, copies counted once."""
        return self.dot(
            (where != 0).to(torch.float64), torch.ones(where.shape, dtype=torch.float64, device=where.device)
        )


class ShardVector(Tensor):
    """The part that this process has of a flat vector; see the module."""

    spread: Spread

    @classmethod
    def of(cls, part: Tensor, spread: Spread) -> Self:
        """Return a vector from the part of this process, which shares its memory.

        Args:
            part: Shape (m,).
            spread: How it is spread.

        Example:
            Two processes that have the same entries:

            >>> spread = Spread(0.5, total=lambda sums: 2 * sums, draw=lambda seed: torch.zeros(2), size=2)
            >>> vector = ShardVector.of(torch.tensor([3.0, 4.0]), spread)
            >>> torch.linalg.vector_norm(2 * vector)
            tensor(10.)
        """
        vector = part.as_subclass(cls)
        vector.spread = spread
        return vector

    @property
    def part(self) -> Tensor:
        """The part of this process, as an ordinary tensor that shares its memory."""
        with torch._C.DisableTorchFunctionSubclass():
            return self.as_subclass(Tensor)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation: a sum over all processes, any other one on the entries of this process."""
        del types
        kwargs = kwargs or {}
        leaves, _ = tree_flatten((args, kwargs))
        first = next(one for one in leaves if isinstance(one, ShardVector))
        with torch._C.DisableTorchFunctionSubclass():
            spread: Spread = first.spread
            shape = first.shape
            args, kwargs = tree_map_only(ShardVector, lambda one: one.as_subclass(Tensor), (args, kwargs))
            reduce = _SUMS.get(func)
            if reduce is not None:
                return reduce(spread, *args, **kwargs)
            found = func(*args, **kwargs)
            if not isinstance(found, Tensor) or func in _PARTS:
                return found
            if found.shape != shape:
                raise NotImplementedError(
                    f"{getattr(func, '__name__', func)} of a vector that processes share would be that "
                    "of one part alone"
                )
            return cls.of(found, spread)


def part_of(vector: Tensor) -> Tensor:
    """Return a vector, or the part that this process has of one that is spread, as an ordinary tensor.

    Args:
        vector: Shape (n,).
    """
    return vector.part if isinstance(vector, ShardVector) else vector


def _dot(spread: Spread, one: Tensor, other: Tensor) -> Tensor:
    return spread.total(spread.dot(one, other))


def _norm(spread: Spread, vector: Tensor, order: float = 2) -> Tensor:
    if order != 2:
        raise NotImplementedError(f"the norm of order {order} of a vector that is spread over processes")
    return spread.total(spread.dot(vector, vector)).sqrt()


def _inner_products(spread: Spread, directions: Sequence[Tensor], vector: Tensor) -> Tensor:
    if not directions:
        return vector.new_zeros(0)
    return spread.total(torch.stack([spread.dot(one, vector) for one in directions]))


def _block_sums(spread: Spread, one: Tensor, other: Tensor, like: Sequence[Tensor]) -> Tensor:
    weighted = one * spread.weights
    return spread.total(block_sums(weighted.to(one.dtype), other, like))


def _sum(spread: Spread, vector: Tensor) -> Tensor:
    return spread.total(spread.dot(vector, torch.ones_like(vector)))


def _count(spread: Spread, vector: Tensor) -> Tensor:
    # Copies are counted by fractions, whose sum is a whole number up to rounding.
    return spread.total(spread.count(vector)).round()


def _any(spread: Spread, vector: Tensor) -> Tensor:
    return _count(spread, vector) > 0


def _all(spread: Spread, vector: Tensor) -> Tensor:
    return _count(spread, vector == 0) == 0


def _random_like(spread: Spread, vector: Tensor, seed: int) -> ShardVector:
    return ShardVector.of(spread.draw(seed).to(vector), spread)


_SUMS: dict[Any, Callable[..., Any]] = {
    torch.dot: _dot,
    Tensor.dot: _dot,
    torch.matmul: _dot,
    Tensor.matmul: _dot,
    Tensor.__matmul__: _dot,
    torch.linalg.vector_norm: _norm,
    torch.sum: _sum,
    Tensor.sum: _sum,
    torch.count_nonzero: _count,
    Tensor.count_nonzero: _count,
    torch.any: _any,
    Tensor.any: _any,
    torch.all: _all,
    Tensor.all: _all,
    inner_products: _inner_products,
    block_sums: _block_sums,
    random_like: _random_like,
}
# They give parts, which are those of this process for who asks for them.
_PARTS = frozenset([torch.split, Tensor.split, Tensor.view, Tensor.__getitem__, Tensor.numpy])
