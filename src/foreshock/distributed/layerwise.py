r"""One probe of a model that ``fully_shard`` shares, in which nobody ever has all of its parameters.

Parameters, vectors and gradients are shards. FSDP2 gathers one layer at a time, as in training, and averages
gradients over the processes by itself. With the share p_r of the examples that process r has, and D processes
with batches of their own, each multiplies its loss by D·p_r, so that the mean is

.. math:: g = \frac1D \sum_r D\,p_r\, g_r = \sum_r p_r\, g_r .

Of parameters that ``fully_shard`` does not manage each process has a gradient of its own, and the mean is
taken here. To a solver all processes are one, whose batch is all of theirs: each comes to the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from foreshock.distributed.collectives import AgreedCollectives
from foreshock.distributed.joint import COUNTS
from foreshock.distributed.passes import own_passes, reset_passes
from foreshock.distributed.sharded import ShardedProbe


class LayerwiseProbe:
    """What a `ShardedProbe` is where parameters stay shards; its messages are those of the other.

    Args:
        whole: The measurement of all processes, whose ``with`` block this is used in.

    Attributes:
        share: One: what each process has is of the batches of all.
        size: One.
        factor: D·p_r, what the loss of this process is multiplied by.
        batches: D.
    """

    share, size = 1.0, 1

    def __init__(self, whole: ShardedProbe) -> None:
        self._whole = whole
        self.factor, self.batches = whole.size * whole.share, whole.size

    @contextmanager
    def inside(self, model: nn.Module) -> Iterator[None]:
        """Run a block in which forward and backward passes are those of FSDP2.

        Args:
            model: The model.
        """
        with AgreedCollectives(self._whole.agree), own_passes(model):
            yield

    def whole(self, parameters: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return parameters as the optimizer has them.

        Args:
            parameters: As the optimizer has them.
        """
        return parameters

    def vector(self, part: Tensor) -> Tensor:
        """Return a vector whose sums are over all processes.

        Args:
            part: The part of this process.
        """
        return self._whole.vector(part)

    def gather(self, vector: Tensor) -> Tensor:
        """Return a vector whose sums are over all processes: nothing is gathered.

        Args:
            vector: The part of this process.
        """
        return self._whole.vector(vector)

    def own(self, vector: Tensor) -> Tensor:
        """Return the same vector.

        Args:
            vector: The part of this process.
        """
        return self._whole.vector(vector)

    def reduced(self, gradient: Tensor) -> Tensor:
        """Return a gradient in which also that of parameters which FSDP2 does not manage is averaged.

        Args:
            gradient: What a backward pass left; changed in place.
        """
        return self._whole.averaged(gradient)

    def over(self, parameters: Sequence[Tensor]) -> None:
        """Let the vectors be over other parameters from here on.

        Args:
            parameters: As the optimizer has them.
        """
        self._whole.over(parameters)

    def between_passes(self, model: nn.Module) -> None:
        """Let go of what a forward pass has gathered, and remembers of itself for a backward pass.

        Args:
            model: The model.
        """
        reset_passes(model)

    def require_as_many(self, terms: int) -> None:
        """Refuse micro-batches of which other processes have another number: their passes would come apart.

        Args:
            terms: Number of micro-batches of this process.

        Raises:
            ValueError: If others have more or fewer.
        """
        mean, square = self.everyones(terms, terms**2, topic=COUNTS)
        if square != mean**2:
            raise ValueError(
                f"this process has {terms} micro-batches and others have {mean:g} on the mean: where "
                "parameters stay shards, pass as many in each process"
            )

    def everyones(self, *scalars: float, topic: int) -> tuple[float, ...]:
        """Return the means of scalars over all processes.

        Args:
            *scalars: Some numbers.
            topic: What this message is about, the same in all processes.
        """
        return tuple(one / self.batches for one in self._whole.everyones(*scalars, topic=topic))

    def mean(self, vector: Tensor, *scalars: float, topic: int) -> tuple[Tensor, tuple[float, ...]]:
        """Return a vector, which is that of all batches already, and the means of scalars over all processes.

        Args:
            vector: The part of this process.
            *scalars: Some numbers.
            topic: What this message is about, the same in all processes.
        """
        return self._whole.vector(vector), self.everyones(*scalars, topic=topic)

    def end(self, *scalars: float) -> tuple[float, ...]:
        """Return the means of scalars, once every process has come to the end of the measurement.

        Args:
            *scalars: Some numbers.
        """
        return tuple(one / self.batches for one in self._whole.end(*scalars))
