"""Flat vectors over lists of parameter tensors.

Eigen-solvers work on one flat vector, Hessian products on the list of tensors that the model has;
`flatten` and `split` go between the two. Half-precision parameters get float32 vectors: a Krylov
basis in bfloat16 would lose the digits that the threshold test needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_TOWARDS_PRODUCT = 0.3


def vector_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    """Return the dtype of flat vectors over `tensors`: theirs, but float32 at least."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def local(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor: its shard if it is distributed, else all of it."""
    shard: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return shard


def flatten(tensors: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensor:
    """Concatenate tensors into one new vector.

    Args:
        tensors: One tensor for each in `like`, of the same shape, dense or sparse; None stands for zeros.
        like: The tensors that define the layout.

    Returns:
        Shape (n,), n the total size of `like`, on the device of its first tensor. Of distributed tensors the
        shards of this process are taken.
    """
    size = sum(local(tensor.detach()).numel() for tensor in like)
    vector = torch.empty(size, dtype=vector_dtype(like), device=like[0].device)
    for part, tensor in zip(split(vector, like), tensors, strict=True):
        if tensor is None:
            part.zero_()
        else:
            part.copy_(_dense(tensor))
    return vector


def accumulate(
    vector: Tensor, tensors: Sequence[Tensor | None], like: Sequence[Tensor], *, weight: float
) -> None:
    """Add a multiple of tensors to a flat vector, in place and without another vector.

    Args:
        vector: Shape (n,).
        tensors: One tensor for each in `like`; None stands for zeros.
        like: The tensors that define the layout.
        weight: The multiple.
    """
    for part, tensor in zip(split(vector, like), tensors, strict=True):
        if tensor is not None:
            part.add_(_dense(tensor), alpha=weight)


def split(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return views of a flat vector, one for each tensor in `like` and of its shape.

    Args:
        vector: Shape (n,).
        like: The tensors that define the layout.
    """
    shapes = [local(tensor.detach()).shape for tensor in like]
    parts = torch.split(vector, [shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def reciprocal(vector: Tensor) -> Tensor:
    """Return 1/x where x > 0, else 0: the inverse of a diagonal on what it does not remove.

    Args:
        vector: Shape (n,).
    """
    return torch.where(vector > 0, vector, torch.inf).reciprocal()


def unit(vector: Tensor) -> Tensor | None:
    """Return a vector at length one; None if its length is zero or not finite."""
    norm = float(torch.linalg.vector_norm(vector))
    return vector / norm if 0 < norm < math.inf else None


def turned(direction: Tensor, product: Tensor) -> Tensor:
    """Return a unit vector turned towards its product: w + 0.3·h/‖h‖, at length one.

    A power iteration that is spread over training. Where there is no product to turn to, w stays.

    Args:
        direction: w, shape (n,), of length one.
        product: h, shape (n,).
    """
    towards = unit(product)
    moved = None if towards is None else unit(direction + _TOWARDS_PRODUCT * towards)
    return direction if moved is None else moved


def _dense(tensor: Tensor) -> Tensor:
    piece = local(tensor.detach())
    return piece if piece.layout == torch.strided else piece.to_dense()


def is_sharded(tensors: Sequence[Tensor]) -> bool:
    """Return whether some tensors are distributed over processes."""
    return any(hasattr(tensor, "to_local") for tensor in tensors)


def inner_product(one: Tensor, other: Tensor, like: Sequence[Tensor]) -> Tensor:
    """Return the inner product of two vectors of which every process holds its shards, a scalar tensor.

    Every process must call it. Without distributed tensors it is that of the two vectors at hand. Cost: one
    all-reduce for each way in which tensors are sharded.

    Args:
        one: Shape (n,).
        other: Shape (n,).
        like: The tensors that define the layout.
    """
    if not is_sharded(like):
        return torch.dot(one, other)
    total = torch.zeros((), dtype=one.dtype, device=one.device)
    sums: dict[tuple[Any, ...], Tensor] = {}
    for left, right, tensor in zip(split(one, like), split(other, like), like, strict=True):
        groups = shard_groups(tensor)
        sums[groups] = sums.get(groups, torch.zeros_like(total)) + (left * right).sum()
    for groups, value in sums.items():
        for group in groups:
            torch.distributed.all_reduce(value, group=group)
        total += value
    return total


def shard_groups(tensor: Any) -> tuple[Any, ...]:
    """Return the process groups over which a tensor is split, and not merely copied.

    Args:
        tensor: A tensor, distributed or not.
    """
    if not hasattr(tensor, "to_local"):
        return ()
    return tuple(
        tensor.device_mesh.get_group(dimension)
        for dimension, placement in enumerate(tensor.placements)
        if placement.is_shard()
    )


def rayleigh_quotient(vector: Tensor, product: Tensor, metric: Tensor | None = None) -> float:
    """Return xᵀ(Sx)/(xᵀMx), with M diagonal; NaN for a zero vector.

    Args:
        vector: x, shape (n,).
        product: Sx, shape (n,).
        metric: Diagonal of M, shape (n,); the identity if None.
    """
    norm = torch.dot(vector, vector if metric is None else metric * vector)
    return float(torch.dot(vector, product) / norm)


def total_norm(tensors: Sequence[Tensor], *, order: float = 2) -> Tensor:
    """Return the norm of all tensors taken as one vector, a scalar tensor.

    Args:
        tensors: At least one tensor; sparse ones are allowed.
        order: 1 or 2.
    """
    dense = [tensor.coalesce().values() if tensor.is_sparse else tensor for tensor in tensors]
    norms = torch._foreach_norm([tensor.detach() for tensor in dense], order)
    together = torch.stack([norm.to(norms[0].device, vector_dtype([norm])) for norm in norms])
    total: Tensor = torch.linalg.vector_norm(together, order)
    return total
