"""Flat vectors over lists of parameter tensors.

Eigen-solvers work on one flat vector, Hessian products on the list of tensors that the model has;
`flatten` and `split` go between the two. Half-precision parameters get float32 vectors: a Krylov
basis in bfloat16 would lose the digits that the threshold test needs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def vector_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    """Return the dtype of flat vectors over `tensors`: theirs, but float32 at least."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def flatten(tensors: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensor:
    """Concatenate tensors into one new vector.

    Args:
        tensors: One tensor for each in `like`, of the same shape; None stands for zeros.
        like: The tensors that define the layout.

    Returns:
        Shape (n,), n the total size of `like`, on the device of its first tensor.
    """
    vector = torch.zeros(
        sum(tensor.numel() for tensor in like), dtype=vector_dtype(like), device=like[0].device
    )
    for part, tensor in zip(split(vector, like), tensors, strict=True):
        if tensor is not None:
            part.copy_(tensor.detach())
    return vector


def split(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return views of a flat vector, one for each tensor in `like` and of its shape.

    Args:
        vector: Shape (n,).
        like: The tensors that define the layout.
    """
    sizes = [tensor.numel() for tensor in like]
    return [part.view(tensor.shape) for part, tensor in zip(torch.split(vector, sizes), like, strict=True)]


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
