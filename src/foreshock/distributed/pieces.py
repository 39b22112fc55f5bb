"""Which process has what of a model that is spread over several, by ``fully_shard`` or tensor parallelism.

Processes form a grid. Those with the same coordinates in tensor parallelism hold the same tensors once
``fully_shard`` has gathered them, and train on different batches: they are one *data group*. The others hold
other columns or rows, or copies, and train on the same batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foreshock.distributed.gathered import ShardedParameter, sharded_parameters, why_not_gathered


@dataclass(frozen=True)
class Piece:
    """What this process has of one parameter.

    Attributes:
        shape: Shape of the tensor in this process once it is gathered.
        dimension: Along which it is cut into chunks.
        count: Number of chunks; one for a tensor that is not cut.
        index: Which chunk this process has. The last ones may be empty.
        speaks: Whether this process, of those of the data group that have the same chunk, speaks for it.
        weight: One over the number of processes that have the same entries.
        gathered_weight: One over the number of processes with the same batch that have the same entries of
            the gathered tensor.
        seed: A number that only processes with the same entries share.
    """

    shape: torch.Size
    dimension: int
    count: int
    index: int
    speaks: bool
    weight: float
    gathered_weight: float
    seed: int

    def of(self, whole: Tensor) -> Tensor:
        """Return the part of this process, a view.

        Args:
            whole: The gathered tensor, flat or of its shape.

        Example:
            >>> piece = Piece(torch.Size([3, 2]), 0, 2, 1, True, 1.0, 1.0, 0)
            >>> piece.of(torch.arange(6.0))
            tensor([[4., 5.]])
        """
        whole = whole.view(self.shape)
        if self.count == 1:
            return whole
        # As torch cuts: chunks of equal length, rounded up, as far as it goes.
        length = -(-self.shape[self.dimension] // self.count)
        begin = min(self.index * length, self.shape[self.dimension])
        return whole.narrow(self.dimension, begin, min(length, self.shape[self.dimension] - begin))


@dataclass(frozen=True)
class Grid:
    """The processes that hold one model together.

    Attributes:
        ranks: All of them, as ``torch.distributed`` numbers them, in order.
        data_ranks: Those of the data group of this process, in order.
        parameters: How each parameter that ``fully_shard`` manages is spread, by identity.
    """

    ranks: tuple[int, ...]
    data_ranks: tuple[int, ...]
    parameters: dict[int, ShardedParameter]

    @classmethod
    def of(cls, model: nn.Module) -> Grid:
        """Return the grid of a model.

        Args:
            model: A model for which `why_not_spread` is empty, with its parameters as the optimizer has them.
        """
        managed = sharded_parameters(model)
        own = torch.distributed.get_rank()
        meshes = [one.device_mesh for one in _every(model, managed) if hasattr(one, "to_local")]
        ranks = max((_ranks(mesh) for mesh in meshes), key=len, default=(own,))
        data = _ranks(managed[0].mesh) if managed else (own,)
        return cls(ranks, data, {id(one.parameter): one for one in managed})

    @property
    def copies(self) -> int:
        """Number of processes that train on the same batch."""
        return len(self.ranks) // len(self.data_ranks)

    def pieces(self, parameters: Sequence[Tensor]) -> list[Piece]:
        """Return what this process has of each parameter.

        Args:
            parameters: As the optimizer has them.
        """
        return [self._piece(index, one) for index, one in enumerate(parameters)]

    def _piece(self, index: int, parameter: Any) -> Piece:
        cuts, seed = 1, index
        if hasattr(parameter, "to_local"):
            mesh = parameter.device_mesh
            for dimension, placement in enumerate(parameter.placements):
                if not placement.is_replicate():
                    cuts *= mesh.size(dimension)
                    seed = seed * 1009 + mesh.get_coordinate()[dimension] + 1
        weight = cuts / len(self.ranks)
        managed = self.parameters.get(id(parameter))
        if managed is None:
            here = parameter.to_local() if hasattr(parameter, "to_local") else parameter
            speaks = self.data_ranks[0] == torch.distributed.get_rank()
            return Piece(here.shape, 0, 1, 0, speaks, weight, cuts / self.copies, seed)
        return Piece(
            managed.shape,
            managed.dimension,
            managed.count,
            managed.index,
            managed.speaks,
            weight,
            cuts / managed.count / self.copies,
            seed,
        )


def is_spread(model: nn.Module) -> bool:
    """Return whether parameters of a model are spread over processes, as far as this can be seen.

    Args:
        model: The model.

    Example:
        >>> is_spread(nn.Linear(1, 1))
        False
    """
    return any(hasattr(one, "to_local") for one in model.parameters()) or bool(sharded_parameters(model))


def why_not_spread(model: nn.Module) -> str:
    """Return why processes can't measure a spread model together, and what to do; nothing if they can.

    Args:
        model: The model, for which `is_spread` holds.
    """
    reason = why_not_gathered(model)
    if reason:
        return reason
    managed = sharded_parameters(model)
    groups = {_ranks(one.mesh) for one in managed}
    if len(groups) > 1:
        return (
            "fully_shard spreads parts of the model over other processes than the rest (as for experts), so "
            "that they see other batches: use one mesh for all parts, or watch without a loss_fn"
        )
    grid = Grid.of(model)
    meshes = [set(_ranks(one.device_mesh)) for one in _every(model, managed) if hasattr(one, "to_local")]
    if any(not one <= set(grid.ranks) for one in meshes) or len(grid.ranks) % len(grid.data_ranks):
        return (
            "the meshes of the parameters are no parts of one mesh: take them from one init_device_mesh(…, "
            'mesh_dim_names=("dp", "tp")), as mesh["dp"] and mesh["tp"]'
        )
    if not managed and len(grid.ranks) < torch.distributed.get_world_size():
        return (
            f"{len(grid.ranks)} of {torch.distributed.get_world_size()} processes share the model by tensor "
            "parallelism, and how the others get their gradients can't be seen: use fully_shard on the other "
            "dimension of the mesh, or watch without a loss_fn"
        )
    return ""


def size_of(pieces: Sequence[Piece]) -> int:
    """Return the number of coordinates in this process once all is gathered.

    Args:
        pieces: What it has of each parameter.
    """
    return sum(math.prod(piece.shape) for piece in pieces)


def _every(model: nn.Module, managed: Sequence[ShardedParameter]) -> list[Any]:
    return [*model.parameters(), *(one.parameter for one in managed)]


def _ranks(mesh: Any) -> tuple[int, ...]:
    return tuple(sorted(mesh.mesh.flatten().tolist()))
