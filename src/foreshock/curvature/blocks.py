r"""In which parameters an eigenvector is concentrated.

A unit vector q is spread over the parameter tensors: block b has the share :math:`\sum_{i∈b} q_i^2`. For an
eigenvector of S the shares of the eigenvalue itself, :math:`\sum_{i∈b} q_i (Sq)_i / λ`, are the same numbers.
For any other vector the two differ, and a block's share of the quadratic form can be negative: its coupling
to the other blocks then lowers the curvature.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from foreshock.representation import short_repr
from foreshock.vectors import block_sums, local_size


@dataclass(frozen=True)
class BlockShare:
    """The share of one block of parameters in a vector.

    Attributes:
        name: Name of the parameter, or the common prefix of the modules that were counted together.
        share: Σ q_i² over the block, with q scaled to length one; the shares of all blocks add up to one.
        curvature_share: Σ q_i (Sq)_i / qᵀSq over the block; the shares of all blocks add up to one. None if
            no product was given, NaN if the quadratic form is zero.
        size: Number of entries of the block. A share far above size/n means that the vector is concentrated
            in it.
    """

    name: str
    share: float
    curvature_share: float | None
    size: int

    __repr__ = short_repr

    def __str__(self) -> str:
        """Return the name and the share."""
        return f"{self.name} {self.share:.0%}"


def block_shares(
    vector: Tensor,
    named_parameters: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]],
    *,
    product: Tensor | None = None,
    depth: int | None = None,
) -> tuple[BlockShare, ...]:
    """Return the share of every block in a vector, the largest first. Cost: no product.

    Args:
        vector: q, shape (n,), not zero; it need not have length one.
        named_parameters: The tensors that define the layout, in the order of the vector, with their names;
            see `name_parameters`. A tensor that appears under two names counts once, under the first.
        product: S·q, shape (n,), for `BlockShare.curvature_share`.
        depth: Count together the parameters of all modules whose names agree in the first `depth` parts:
            with 2, ``blocks.3.attn.qkv.weight`` counts for ``blocks.3``. None: each tensor is a block.

    Raises:
        ValueError: If `vector` is zero or not finite, if its size or that of `product` is not that of the
            parameters, or if `depth` is below one.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Linear(1, 1, bias=False))
        >>> for block in block_shares(torch.tensor([3.0, 0.0, 0.0, 4.0]), model.named_parameters(), depth=1):
        ...     print(block.name, round(block.share, 2), block.size)
        1 0.64 1
        0 0.36 3
    """
    if depth is not None and not depth >= 1:
        raise ValueError(
            f"depth is {depth!r}; it must be the number of leading parts of a module's name to group by, at "
            "least 1, or None for one block per tensor"
        )
    named = _once(named_parameters)
    size = local_size([tensor for _, tensor in named])
    for label, tensor in (("vector", vector), ("product", product)):
        if tensor is not None and tensor.shape != (size,):
            raise ValueError(
                f"{label} has shape {tuple(tensor.shape)}; it must be ({size},), one entry for each entry of "
                "the parameters: pass the parameters that the vector was computed for, in the same order"
            )
    squares = _sums(vector, vector, named)
    total = sum(squares)
    if not 0 < total < math.inf:
        raise ValueError(
            f"vector has the squared length {total}; it must be finite and not zero: a zero vector has no "
            "shares, and NaN comes from a probe that failed"
        )
    forms = None if product is None else _sums(vector, product, named)
    return _gather(named, [square / total for square in squares], forms, depth)


def name_parameters(module: nn.Module, parameters: Sequence[Tensor]) -> list[tuple[str, Tensor]]:
    """Return parameters in the given order, each with its name in a module.

    An optimizer keeps its parameters in the order of its groups, which need not be the module's. A tied
    parameter gets the first of its names.

    Args:
        module: The module whose names are used.
        parameters: The tensors to name. A tensor that `module` does not have is called ``unnamed.`` plus its
            position.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 1)
        >>> [name for name, _ in name_parameters(layer, [layer.bias, layer.weight, torch.ones(1)])]
        ['bias', 'weight', 'unnamed.2']
    """
    names: dict[int, str] = {}
    for name, tensor in module.named_parameters():
        names.setdefault(id(tensor), name)
    return [
        (names.get(id(tensor), f"unnamed.{position}"), tensor) for position, tensor in enumerate(parameters)
    ]


def _once(
    named_parameters: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]],
) -> list[tuple[str, Tensor]]:
    items = named_parameters.items() if isinstance(named_parameters, Mapping) else named_parameters
    seen: dict[int, tuple[str, Tensor]] = {}
    # By identity, since == compares tensors entry by entry. A tied tensor has its entries in q only once.
    for name, tensor in items:
        seen.setdefault(id(tensor), (name, tensor))
    return list(seen.values())


def _sums(left: Tensor, right: Tensor, named: Sequence[tuple[str, Tensor]]) -> list[float]:
    """Return the scalar product of two vectors block by block."""
    if not named:
        return []
    # One transfer from the device for all blocks, not one a block.
    values: list[float] = block_sums(left, right, [tensor for _, tensor in named]).double().tolist()
    return values


def _gather(
    named: Sequence[tuple[str, Tensor]],
    shares: Sequence[float],
    forms: Sequence[float] | None,
    depth: int | None,
) -> tuple[BlockShare, ...]:
    members: dict[str, list[int]] = {}
    for index, (name, _) in enumerate(named):
        members.setdefault(_prefix(name, depth), []).append(index)
    form = None if forms is None else sum(forms)
    blocks = []
    for name, indices in members.items():
        curvature = None
        if forms is not None and form is not None:
            curvature = sum(forms[index] for index in indices) / form if form else math.nan
        blocks.append(
            BlockShare(
                name=name,
                share=sum(shares[index] for index in indices),
                curvature_share=curvature,
                size=sum(named[index][1].numel() for index in indices),
            )
        )
    # By name where shares are equal, so that the order is the same on every machine.
    return tuple(sorted(blocks, key=lambda block: (-block.share, block.name)))


def _prefix(name: str, depth: int | None) -> str:
    """Return the first parts of the module's name; a parameter of the root module keeps its own name."""
    modules = name.split(".")[:-1]
    return name if depth is None or not modules else ".".join(modules[:depth])
