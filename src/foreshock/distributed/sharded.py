r"""One probe of a model that is spread over processes, by ``fully_shard`` or tensor parallelism.

The eigensolver's vectors stay spread: each process has its part, and sums over them are exchanged. For a
product a vector is gathered, each process computes H_r v of its batch with the whole parameters, and the mean

.. math:: Hv = \sum_r p_r H_r v

is cut into parts again.

Two sorts of messages keep that from ever hanging. A short one of fixed length, as in `joint`, comes first:
in it all say that they have come to the same place, or that they have failed. Only then something long is
sent, or a collective of the model itself begins, and nothing in between can fail.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from foreshock.distributed.channel import Channel
from foreshock.distributed.collectives import AgreedCollectives
from foreshock.distributed.gathered import gathered, twice_through_tensor_parallelism
from foreshock.distributed.joint import COLLECTIVE, GATHER, SUMS, JointProbe
from foreshock.distributed.pieces import Grid, size_of
from foreshock.distributed.shards import ShardVector, Spread, part_of
from foreshock.vectors import vector_dtype

_SCALARS = 64
_APART = 8  # numbers that each data group sums for itself in one message


class ShardedProbe(JointProbe):
    """A measurement of all processes that hold a model together; use it in a ``with`` block.

    The message of a whole vector is allocated before anyone waits for it: where it is filled.

    Args:
        channel: The connection of all.
        data: That of the data group of this process; None if it is the same, or has no other process.
        grid: How the model is spread.
        parameters: What vectors are over, as the optimizer has them.

    Attributes:
        gathered_size: Number of coordinates in this process once all is gathered.

    Raises:
        RuntimeError: If there is no memory for the messages.
    """

    def __init__(
        self, channel: Channel, data: Channel | None, grid: Grid, parameters: Sequence[Tensor]
    ) -> None:
        self._grid = grid
        groups = len(grid.data_ranks)
        scalars = max(_SCALARS, _APART * groups) if grid.copies > 1 else _SCALARS
        super().__init__(channel, 0, torch.float64, scalars=scalars)
        self.size = groups
        self._data = data if data is not None or groups == 1 else channel
        self._group = grid.data_ranks.index(torch.distributed.get_rank())
        self.share = 1 / groups
        self.over(parameters)

    def over(self, parameters: Sequence[Tensor]) -> None:
        """Let the vectors be over other parameters from here on.

        Args:
            parameters: As the optimizer has them.
        """
        self._pieces = self._grid.pieces(parameters)
        # Known once for all products: the entries of each tensor in this process, as a part and gathered.
        self._sizes = [one.of(torch.empty(one.shape, device="meta")).numel() for one in self._pieces]
        self._gathered_sizes = [one.shape.numel() for one in self._pieces]
        self._unmanaged = [id(one) not in self._grid.parameters for one in parameters]
        self._gathered_spread: Spread | None = None
        self.gathered_size = size_of(self._pieces)
        self._dtype = vector_dtype(parameters)
        self._long: Tensor | None = None
        device, size = parameters[0].device, sum(one.numel() for one in parameters)
        weights = _each([one.weight for one in self._pieces], self._sizes, device)
        self._spread = Spread(weights, self._total, self._draw, size)

    @contextmanager
    def inside(self, model: nn.Module) -> Iterator[None]:
        """Run a block in which the parameters are whole but for what tensor parallelism divides.

        Args:
            model: The model.
        """
        parallel = twice_through_tensor_parallelism() if self._grid.copies > 1 else nullcontext()
        with AgreedCollectives(self.agree), gathered(model), parallel:
            yield

    @property
    def is_managed(self) -> bool:
        """Whether ``fully_shard`` has parameters that a probe would gather."""
        return bool(self._grid.parameters)

    @property
    def _buffer(self) -> Tensor:
        """A message of a whole vector, made before the first: who only has shards never needs it."""
        if self._long is None:
            self._long = torch.empty(self.gathered_size, dtype=self._dtype)
        return self._long

    def whole(self, parameters: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return parameters as the model has them inside of the block.

        Args:
            parameters: As the optimizer has them.
        """
        managed = [self._grid.parameters.get(id(one)) for one in parameters]
        return tuple(
            one if found is None else found.whole for one, found in zip(parameters, managed, strict=True)
        )

    def vector(self, part: Tensor) -> Tensor:
        """Return a vector over the optimizer's parameters, whose sums are over all that have parts of it.

        Args:
            part: The part of this process.
        """
        return ShardVector.of(part_of(part), self._spread)

    def gathered_vector(self, vector: Tensor) -> Tensor:
        """Return a vector over the gathered parameters, whose sums are over all that have the same batch.

        Args:
            vector: What this process has of it.
        """
        if self._grid.copies == 1:
            return vector
        if self._gathered_spread is None:
            factors = [one.gathered_weight for one in self._pieces]
            weights = _each(factors, self._gathered_sizes, vector.device)
            self._gathered_spread = Spread(
                weights, self._total_of_group, self._draw_gathered, self._spread.size
            )
        return ShardVector.of(part_of(vector), self._gathered_spread)

    def gather(self, vector: Tensor) -> Tensor:
        """Return a vector over the optimizer's parameters as one over those inside of the block.

        Cost: one short sum, and one of n numbers over the data group.

        Args:
            vector: The part of this process.
        """
        part = part_of(vector)
        buffer = self._buffer.zero_()
        for piece, into, values in zip(self._pieces, self._split(buffer), self._own(part), strict=True):
            if piece.speaks:
                target = piece.of(into)
                target.copy_(values.view(target.shape))
        self.agree(GATHER)
        if self._data is not None:
            self._data.sum(self._buffer)
        return self._buffer.to(part.device, copy=True)

    def own(self, vector: Tensor) -> Tensor:
        """Return the part of this process of a vector over the gathered parameters.

        Args:
            vector: Over the parameters inside of the block.
        """
        parts = self._split(part_of(vector))
        cut = [piece.of(one) for piece, one in zip(self._pieces, parts, strict=True)]
        return self.vector(torch.cat([one.reshape(-1) for one in cut]))

    def averaged(self, gradient: Tensor) -> Tensor:
        """Average, in place, what ``fully_shard`` has not averaged: the gradient of what it does not manage.

        Cost: nothing where it manages all parameters; else one short sum, and one of the others' entries.

        Args:
            gradient: What a backward pass of this process left, in shards.
        """
        parts = zip(self._own(part_of(gradient)), self._unmanaged, strict=True)
        own = [part for part, unmanaged in parts if unmanaged]
        if own and self._data is not None:
            message = torch.cat(own).to("cpu", copy=True)
            self.agree(GATHER)
            self._data.sum(message)
            means = torch.split(message.div_(self.size), [len(one) for one in own])
            for part, mean in zip(own, means, strict=True):
                part.copy_(mean)
        return self.vector(gradient)

    def mean(self, vector: Tensor, *scalars: float, topic: int) -> tuple[Tensor, tuple[float, ...]]:
        """Return the mean of a vector over batches, weighted by the shares, and sums of scalars over them.

        Cost: one short sum, and one of n numbers over the data group.

        Args:
            vector: Over the gathered parameters, on any device.
            *scalars: Some numbers.
            topic: What this message is about, the same in all processes.

        Raises:
            OtherRankError: If another process failed, or is somewhere else.
            ProbeRefusedError: If one refused the probe for good.
            LeftOutError: If one leaves it out.
            ChannelError: If the others can't be reached.
        """
        self._buffer.copy_(part_of(vector)).mul_(self.share)
        sums = self._exchange(scalars, topic)
        if self._data is not None:
            self._data.sum(self._buffer)
        found = self._buffer.to(vector.device, copy=True)
        return self.gathered_vector(found), tuple(one / self._grid.copies for one in sums)

    def everyones(self, *scalars: float, topic: int) -> tuple[float, ...]:
        """Return sums of scalars over batches.

        Args:
            *scalars: Some numbers.
            topic: What this message is about.
        """
        return tuple(one / self._grid.copies for one in self._exchange(scalars, topic))

    def agree(self, topic: int = COLLECTIVE) -> None:
        """Wait until all processes have come to the same place.

        Args:
            topic: What comes then.

        Raises:
            OtherRankError: If another process failed, or is somewhere else.
        """
        self._exchange((), topic)

    def _total(self, sums: Tensor) -> Tensor:
        """Add up numbers over all processes."""
        flat = sums.reshape(-1).tolist()
        found: list[float] = []
        for begin in range(0, len(flat), _SCALARS):
            found += self._exchange(flat[begin : begin + _SCALARS], SUMS)
        return torch.tensor(found, dtype=sums.dtype, device=sums.device).view(sums.shape)

    def _total_of_group(self, sums: Tensor) -> Tensor:
        """Add up numbers over the processes that have the same batch, all groups in one message."""
        flat = sums.reshape(-1).tolist()
        found: list[float] = []
        for begin in range(0, len(flat), _APART):
            some = flat[begin : begin + _APART]
            message = [0.0] * (_APART * self.size)
            place = _APART * self._group
            message[place : place + len(some)] = some
            found += self._exchange(message, SUMS)[place : place + len(some)]
        return torch.tensor(found, dtype=sums.dtype, device=sums.device).view(sums.shape)

    def _split(self, vector: Tensor) -> Sequence[Tensor]:
        return torch.split(vector, self._gathered_sizes)

    def _own(self, part: Tensor) -> Sequence[Tensor]:
        return torch.split(part, self._sizes)

    def _draw(self, seed: int) -> Tensor:
        return torch.cat(
            [_normal(size, seed, one.seed) for one, size in zip(self._pieces, self._sizes, strict=True)]
        )

    def _draw_gathered(self, seed: int) -> Tensor:
        raise NotImplementedError("random vectors are over the optimizer's parameters")


def _each(weights: Sequence[float], sizes: Sequence[int], device: torch.device) -> Tensor | float:
    """Return the weight of each entry; one number if it is the same for all."""
    if len(set(weights)) == 1:
        return weights[0]
    wide = torch.float32 if device.type == "mps" else torch.float64
    pairs = zip(weights, sizes, strict=True)
    return torch.cat([torch.full((size,), weight, dtype=wide, device=device) for weight, size in pairs])


def _normal(size: int, seed: int, own: int) -> Tensor:
    generator = torch.Generator().manual_seed((seed * 1_000_003 + own) % 2**63)
    return torch.randn(size, generator=generator, dtype=torch.float64)
