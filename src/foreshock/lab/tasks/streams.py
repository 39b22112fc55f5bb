"""Endless streams of batches: the full batch, epochs without replacement, examples drawn afresh."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from foreshock.lab.tasks.task import Batch

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
