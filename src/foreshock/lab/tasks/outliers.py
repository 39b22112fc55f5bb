"""Now and then a batch that is corrupted: what a broken shard or a wrong label file does to training."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from foreshock.lab.tasks.streams import batch_generator
from foreshock.lab.tasks.task import Batch

OUTLIER_SEED_OFFSET = 17
REST = 20


class OutlierBatches:
    """Corrupt a random share of a stream's batches: real targets × `factor`, labels shuffled in the batch.

    Iterate over it instead of over the stream. The first 20 batches, and 20 after each outlier, are left
    alone, so that what an outlier does to the model can be told from the next outlier.

    Args:
        batches: Stream of (inputs, targets).
        share: Probability that a batch is corrupted where it can be, in (0, 1).
        seed: Seed of the choice; the global random state is left alone.
        factor: What real targets are multiplied by.

    Attributes:
        corrupted: Whether the last batch was.

    Raises:
        ValueError: If `share` lies outside its interval.

    Example:
        >>> stream = iter([(torch.ones(2), torch.ones(2))] * 100)
        >>> outliers = OutlierBatches(stream, share=0.5, seed=0)
        >>> sum(outliers.corrupted for _, targets in outliers)
        4
    """

    def __init__(self, batches: Iterator[Batch], *, share: float, seed: int, factor: float = 10.0) -> None:
        if not 0 < share < 1:
            raise ValueError(f"share is {share!r}; it is the share of corrupted batches, in (0, 1)")
        self._batches, self._share, self._factor = batches, share, factor
        self._generator = batch_generator(seed + OUTLIER_SEED_OFFSET)
        self._quiet = REST
        self.corrupted = False

    def __iter__(self) -> Iterator[Batch]:
        """Return itself."""
        return self

    def __next__(self) -> Batch:
        """Return the next batch."""
        inputs, targets = next(self._batches)
        drawn = float(torch.rand((), generator=self._generator))
        self.corrupted = self._quiet == 0 and drawn < self._share
        self._quiet = REST if self.corrupted else max(self._quiet - 1, 0)
        return (inputs, self._corrupt(targets)) if self.corrupted else (inputs, targets)

    def _corrupt(self, targets: Tensor) -> Tensor:
        if targets.is_floating_point():
            return targets * self._factor
        order = torch.randperm(len(targets), generator=self._generator)
        return targets[order]
