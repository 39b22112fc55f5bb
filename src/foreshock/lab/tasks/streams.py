"""Endless streams of batches: full batch, epochs without replacement, fresh draws, corrupted batches."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from foreshock.lab.tasks.task import Batch

# The choice of outliers must not depend on the numbers that order the batches.
OUTLIER_SEED_OFFSET = 17
# Steps without outliers after each: twice the memory of Adam's momentum at β₁ = .9.
REST = 20

BATCH_SEED_OFFSET = 1_000_003
"""Batches must not be drawn with the very numbers that initialise the weights."""


def stream_batches(tensors: tuple[Tensor, ...], *, batch_size: int | None, seed: int) -> Iterator[Batch]:
    """Return an endless stream of batches of a fixed training set.

    Args:
        tensors: The training set; dimension 0 of each tensor is the example.
        batch_size: Examples in a batch, at most as many as there are; None for all of them at every
            step, then the same tensor objects each time.
        seed: Seed of the order of the examples; the global random state is left alone.

    Returns:
        Iterator of tuples of tensors. Mini-batches go through the examples in a new random order each
        epoch; the last incomplete batch of an epoch is dropped.

    Raises:
        ValueError: If `batch_size` is not an integer between 1 and the number of examples.

    Example:
        >>> stream = stream_batches((torch.arange(5),), batch_size=2, seed=0)
        >>> epoch = torch.cat([next(stream)[0], next(stream)[0]])
        >>> len(epoch.unique())
        4
    """
    if batch_size is None:
        return itertools.repeat(tensors)
    check_batch_size(batch_size, examples=len(tensors[0]))
    return _epochs(tensors, batch_size, seed)


def draw_batches(draw: Callable[[torch.Generator], tuple[Tensor, ...]], *, seed: int) -> Iterator[Batch]:
    """Return an endless stream of batches drawn afresh at every step.

    Args:
        draw: Maps a generator to a batch.
        seed: Seed of that generator.
    """
    generator = batch_generator(seed)
    while True:
        yield draw(generator)


def batch_generator(seed: int) -> torch.Generator:
    """Return the generator of a stream of batches.

    Args:
        seed: Seed of the task.
    """
    return torch.Generator().manual_seed(seed + BATCH_SEED_OFFSET)


def check_batch_size(batch_size: int, *, examples: int | None) -> None:
    """Raise unless a batch size is possible.

    Args:
        batch_size: Examples in a batch.
        examples: Size of the training set; None for an endless one.

    Raises:
        ValueError: If `batch_size` is not an integer of at least 1 and at most `examples`.
    """
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise ValueError(f"batch_size must be an integer of at least 1, or None, got {batch_size!r}.")
    if examples is not None and batch_size > examples:
        raise ValueError(
            f"batch_size is {batch_size}, but the training set has {examples} examples; "
            "ask for fewer, or for None to use all of them at every step."
        )


def _epochs(tensors: tuple[Tensor, ...], batch_size: int, seed: int) -> Iterator[Batch]:
    generator = batch_generator(seed)
    examples = len(tensors[0])
    while True:
        order = torch.randperm(examples, generator=generator)
        for start in range(0, examples - batch_size + 1, batch_size):
            chosen = order[start : start + batch_size]
            yield tuple(tensor[chosen] for tensor in tensors)


class OutlierBatches:
    """Corrupt a random share of a stream's batches: real targets × `factor`, labels shuffled in the batch.

    Iterate over it instead of over the stream. The first 20 batches, and 20 after each outlier, are left
    alone, so that the effect of one outlier can be distinguished from the next.

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
