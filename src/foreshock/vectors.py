"""Flat vectors over lists of parameter tensors.

Eigensolvers work on one flat vector, Hessian products on the list of the model's tensors; `flatten` and
`split` convert between the two. Half-precision parameters get float32 vectors, because a Krylov basis in
bfloat16 (three digits) could not separate the two sides of the edge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

# How far one measurement turns the direction. With less it would lag behind the top eigenvector, with more it
# would follow the noise of single batches.
_TOWARDS_PRODUCT = 0.3


def vector_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    """Return the dtype of flat vectors over `tensors`: the widest of theirs, and at least float32.

    Args:
        tensors: The tensors that define the layout.

    Raises:
        TypeError: If one is complex.

    Example:
        >>> vector_dtype([torch.zeros(2, dtype=torch.bfloat16)])
        torch.float32
    """
    refuse_complex(tensors)
    dtype = torch.float32
    for one in {tensor.dtype for tensor in tensors}:
        dtype = torch.promote_types(dtype, one)
    return dtype


def refuse_complex(tensors: Sequence[Tensor]) -> None:
    """Refuse complex parameters, whose curvature is not one real matrix of their size.

    Args:
        tensors: The parameters.

    Raises:
        TypeError: If one is complex.
    """
    complex_ones = [tensor for tensor in tensors if tensor.dtype.is_complex]
    if complex_ones:
        raise TypeError(
            f"{len(complex_ones)} of {len(tensors)} parameters are complex (the first is "
            f"{complex_ones[0].dtype} of shape {tuple(complex_ones[0].shape)}), but curvature is that of "
            "real ones only: keep such a weight as a real parameter with a last dimension of two, and use "
            "torch.view_as_complex(weight) in forward()"
        )


def local(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds: its shard if it is distributed, else all of it.

    Args:
        tensor: A tensor, distributed or not.
    """
    # By attribute: importing DTensor takes long, and is needed by few.
    shard: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return shard


def _here(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor, for its shape: outside of any graph if distributed."""
    return local(tensor.detach()) if hasattr(tensor, "to_local") else tensor


def local_size(tensors: Sequence[Tensor]) -> int:
    """Return the number of entries that this process has of some tensors.

    Args:
        tensors: Tensors, distributed or not.

    Example:
        >>> local_size([torch.zeros(2, 2), torch.zeros(1)])
        5
    """
    return sum([_here(tensor).numel() for tensor in tensors])


def flatten(tensors: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensor:
    """Concatenate tensors into one new vector.

    Args:
        tensors: One tensor for each in `like`, of the same shape, dense or sparse; None stands for zeros.
        like: The tensors that define the layout.

    Returns:
        Shape (n,), with n the total size of `like`, on the device of its first tensor. Of distributed tensors
        only the shards of this process are used.

    Example:
        >>> like = [torch.zeros(2, 2), torch.zeros(1)]
        >>> flatten([torch.ones(2, 2), None], like)
        tensor([1., 1., 1., 1., 0.])
    """
    dtype, device = vector_dtype(like), like[0].device
    if all(tensor is None for tensor in tensors):
        return torch.zeros(local_size(like), dtype=dtype, device=device)
    parts = [
        torch.zeros(_here(one).shape, dtype=dtype, device=device) if tensor is None else _dense(tensor)
        for tensor, one in zip(tensors, like, strict=True)
    ]
    if all(part.dtype == dtype and part.device == device for part in parts):
        # One operation, where a copy into each part takes many times as long for small ones.
        return torch.cat([part.reshape(-1) for part in parts])
    vector = torch.empty(local_size(like), dtype=dtype, device=device)
    for place, part in zip(split(vector, like), parts, strict=True):
        place.copy_(part)
    return vector


def accumulate(
    vector: Tensor, tensors: Sequence[Tensor | None], like: Sequence[Tensor], *, weight: float
) -> None:
    """Add a multiple of tensors to a flat vector, in place and without a temporary vector.

    Args:
        vector: Shape (n,).
        tensors: One tensor for each in `like`; None stands for zeros.
        like: The tensors that define the layout.
        weight: The multiple.

    Example:
        >>> vector = torch.zeros(3)
        >>> accumulate(vector, [torch.ones(2), None], [torch.ones(2), torch.ones(1)], weight=0.5)
        >>> vector
        tensor([0.5000, 0.5000, 0.0000])
    """
    for part, tensor in zip(split(vector, like), tensors, strict=True):
        if tensor is not None:
            part.add_(_dense(tensor), alpha=weight)


def split(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return views of a flat vector, one for each tensor in `like` and of its shape.

    Args:
        vector: Shape (n,).
        like: The tensors that define the layout.

    Example:
        >>> [part.tolist() for part in split(torch.arange(3.0), [torch.zeros(2), torch.zeros(1, 1)])]
        [[0.0, 1.0], [[2.0]]]
    """
    shapes = [_here(tensor).shape for tensor in like]
    parts = torch.split(vector, [shape.numel() for shape in shapes])
    # As plain tuples: a torch.Size takes torch five times as long to read.
    return [part.view(tuple(shape)) for part, shape in zip(parts, shapes, strict=True)]


def reciprocal(vector: Tensor) -> Tensor:
    """Return 1/x where x > 0, else 0: the pseudoinverse of a non-negative diagonal matrix.

    Args:
        vector: Shape (n,).

    Example:
        >>> reciprocal(torch.tensor([4.0, 0.0]))
        tensor([0.2500, 0.0000])
    """
    # Through 1/∞ = 0, so that no 1/0 arises, which a later product with zero would turn into NaN.
    return torch.where(vector > 0, vector, torch.inf).reciprocal_()


def unit(vector: Tensor) -> Tensor | None:
    """Return a vector scaled to length one; None if its length is zero or not finite.

    Args:
        vector: Shape (n,).

    Example:
        >>> unit(torch.tensor([3.0, 4.0])), unit(torch.zeros(2))
        (tensor([0.6000, 0.8000]), None)
    """
    norm = float(torch.linalg.vector_norm(vector))
    return vector / norm if 0 < norm < math.inf else None


def turned(direction: Tensor, product: Tensor) -> Tensor:
    """Return a unit vector turned towards its product: w + 0.3·h/‖h‖, scaled to length one.

    Repeated over training, this is a power iteration. If h is zero or not finite, w is returned.

    Args:
        direction: w, shape (n,), of length one.
        product: h, shape (n,).

    Example:
        >>> turned(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 5.0]))
        tensor([0.9578, 0.2873])
    """
    length = float(torch.linalg.vector_norm(product))
    if not 0 < length < math.inf:
        return direction
    moved = torch.add(direction, product, alpha=_TOWARDS_PRODUCT / length)
    norm = float(torch.linalg.vector_norm(moved))
    return moved.div_(norm) if 0 < norm < math.inf else direction


def _dense(tensor: Tensor) -> Tensor:
    piece = local(tensor.detach())
    return piece if piece.layout == torch.strided else piece.to_dense()


def is_sharded(tensors: Sequence[Tensor]) -> bool:
    """Return whether any of the tensors is distributed over processes.

    Args:
        tensors: The tensors to look at.
    """
    return any(hasattr(tensor, "to_local") for tensor in tensors)


def inner_product(one: Tensor, other: Tensor, like: Sequence[Tensor]) -> Tensor:
    """Return the inner product of two vectors of which every process holds its shards, a scalar tensor.

    If a tensor is distributed, every process must call this. Cost: one all-reduce for each set of process
    groups that tensors are sharded over.

    Args:
        one: Shape (n,).
        other: Shape (n,).
        like: The tensors that define the layout.
    """
    if not is_sharded(like):
        return torch.dot(one, other)
    total = torch.zeros((), dtype=one.dtype, device=one.device)
    # Grouped by process groups, so that few sums are exchanged. A tensor that is replicated has no groups,
    # and adding up its copies would count it several times.
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
    """Return the process groups over which a tensor is sharded, not those over which it is replicated.

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


def inner_products(directions: Sequence[Tensor], vector: Tensor) -> Tensor:
    """Return the inner products of several vectors with one, shape (m,); over processes all in one sum.

    Args:
        directions: m vectors of shape (n,).
        vector: Shape (n,).

    Example:
        >>> inner_products([torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])], torch.tensor([3.0, 4.0]))
        tensor([3., 7.])
    """
    if has_torch_function((vector,)):
        found: Tensor = handle_torch_function(inner_products, (vector,), directions, vector)
        return found
    return torch.stack([torch.dot(one, vector) for one in directions]) if directions else vector.new_zeros(0)


def block_sums(one: Tensor, other: Tensor, like: Sequence[Tensor]) -> Tensor:
    """Return the inner product of two vectors block by block, shape (m,); over processes all in one sum.

    Args:
        one: Shape (n,).
        other: Shape (n,).
        like: The m tensors that define the layout.

    Example:
        >>> block_sums(torch.ones(3), torch.arange(3.0), [torch.zeros(2), torch.zeros(1)])
        tensor([1., 2.])
    """
    if has_torch_function((one, other)):
        found: Tensor = handle_torch_function(block_sums, (one, other), one, other, like)
        return found
    pairs = zip(split(one, like), split(other, like), strict=True)
    return torch.stack([torch.dot(a.reshape(-1), b.reshape(-1)) for a, b in pairs])


def random_like(vector: Tensor, seed: int) -> Tensor:
    """Return standard normal entries in a new vector; where processes have copies of an entry, the same.

    Args:
        vector: Shape (n,).
        seed: Of a generator of its own, so that the user's random numbers are not drawn from.
    """
    if has_torch_function((vector,)):
        found: Tensor = handle_torch_function(random_like, (vector,), vector, seed)
        return found
    generator = torch.Generator(vector.device).manual_seed(seed)
    return torch.randn(vector.shape, generator=generator, dtype=vector.dtype, device=vector.device)


def is_spread_vector(vector: Tensor) -> bool:
    """Return whether a vector is one of which each process has a part, so that each sum is an exchange.

    Args:
        vector: Shape (n,).
    """
    return hasattr(vector, "spread")


def dimension(vector: Tensor) -> int:
    """Return n, the number of entries of a vector, over all processes if it is spread over them.

    Args:
        vector: Shape (n,).

    Example:
        >>> dimension(torch.zeros(3))
        3
    """
    spread: Any = getattr(vector, "spread", None)
    return vector.numel() if spread is None else int(spread.size)


def aligned(gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """Return the gradients of parameters, placed as these are where tensor parallelism placed them.

    Autograd may leave the gradient of a parameter that several processes have as parts of a sum.

    Args:
        gradients: One for each parameter; None where the loss does not depend on it.
        parameters: The parameters.
    """
    return tuple(_placed(*pair) for pair in zip(gradients, parameters, strict=True))


def _placed(gradient: Tensor | None, parameter: Tensor) -> Tensor | None:
    placed: Any = gradient
    wanted = getattr(parameter, "placements", None)
    if placed is None or wanted is None or getattr(placed, "placements", wanted) == wanted:
        return gradient
    found: Tensor = placed.redistribute(placements=wanted)
    return found


def placed_as(part: Tensor, like: Tensor) -> Tensor:
    """Return what this process has of a tensor, placed over processes as another one is.

    Args:
        part: The part of this process.
        like: A tensor, distributed or not; of one that is not, `part` itself is returned.
    """
    placed: Any = like
    if not hasattr(placed, "to_local"):
        return part
    from torch.distributed.tensor import DTensor

    found: Tensor = DTensor.from_local(
        part, placed.device_mesh, placed.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
    return found


def rayleigh_quotient(vector: Tensor, product: Tensor, metric: Tensor | None = None) -> float:
    """Return xᵀ(Sx)/(xᵀMx), with M diagonal; NaN for a zero vector.

    Args:
        vector: x, shape (n,).
        product: Sx, shape (n,).
        metric: Diagonal of M, shape (n,); None for the identity.

    Example:
        >>> x = torch.tensor([1.0, 2.0])
        >>> rayleigh_quotient(x, torch.tensor([3.0, 6.0]))
        3.0
    """
    norm = torch.dot(vector, vector if metric is None else metric * vector)
    return float(torch.dot(vector, product) / norm)


def total_norm(
    tensors: Sequence[Tensor], *, order: float = 2, weights: Sequence[float] | None = None
) -> Tensor:
    """Return the norm of all tensors taken as one vector, a scalar tensor.

    Of distributed tensors it is that of the shards of this process: nothing is exchanged.

    Args:
        tensors: At least one tensor; sparse ones are allowed.
        order: 1 or 2.
        weights: A factor on the terms of each tensor, where processes have copies; None for one.

    Example:
        >>> total_norm([torch.tensor([3.0]), torch.tensor([4.0])])
        tensor(5.)
    """
    # A sparse gradient may list a row several times; coalesce() adds them up, or the norm would be wrong.
    detached = (tensor.detach() for tensor in tensors)
    dense = [one.coalesce().values() if one.is_sparse else local(one) for one in detached]
    # One fused kernel for all tensors: this runs at every step of training.
    norms = torch._foreach_norm(dense, order)
    if weights is not None:
        norms = torch._foreach_mul(norms, [weight ** (1 / order) for weight in weights])
    together = torch.stack([norm.to(norms[0].device, vector_dtype([norm])) for norm in norms])
    total: Tensor = torch.linalg.vector_norm(together, order)
    return total


def bit_checksum(tensors: Sequence[Tensor]) -> int:
    """Return a number from 0 to 2⁶⁴ − 1 that changes where a bit of one of the tensors does.

    Cost: the tensors are read once, and the host waits once.

    Args:
        tensors: At least one; of distributed tensors it is that of the shards of this process.

    Example:
        >>> one = torch.ones(3)
        >>> bit_checksum([one]) == bit_checksum([one.clone()])
        True
        >>> bit_checksum([one]) == bit_checksum([one.nextafter(torch.zeros(3))])
        False
    """
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    parts = [local(one.detach()) for one in tensors]
    sums = [part.view(integers[part.element_size()]).sum(dtype=torch.int64) for part in parts]
    found: list[int] = torch.stack([one.to(sums[0].device) for one in sums]).tolist()
    # Odd factors: what two tensors exchange must show.
    return int(sum((2 * place + 1) * one for place, one in enumerate(found)) % 2**64)
