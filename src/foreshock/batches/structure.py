"""What a batch consists of: its tensors, and along which of their dimensions its examples lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch import Tensor

from foreshock.representation import short_repr

_MOST_CANDIDATES = 6
_DEEPEST = 16  # containers inside each other


@dataclass(frozen=True)
class MicroBatches:
    """Several batches that count as one, whose mean losses are weighted by their numbers of examples.

    Attributes:
        batches: The micro-batches of an accumulation, or the batches of a data set; at least one.
        counts: Number of examples that each batch's mean loss is over (for language models: of predicted
            tokens), > 0. None: the number of examples that `count_examples` finds.

    Raises:
        ValueError: If there are no batches, or if the counts are not positive or not one per batch.

    Example:
        >>> import torch
        >>> data = MicroBatches([torch.ones(6, 2), torch.ones(2, 2)])
        >>> [count for _, count in data.weighted()]
        [6, 2]
        >>> tokens = MicroBatches([torch.ones(6, 2), torch.ones(2, 2)], counts=[90, 30])
    """

    batches: Sequence[Any]
    counts: Sequence[float] | None = None

    __repr__ = short_repr

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        if not len(self.batches):
            raise ValueError(
                "MicroBatches was given no batch; it needs at least one batch: a data loader that is an "
                "iterator may be exhausted"
            )
        if self.counts is not None and len(self.counts) != len(self.batches):
            raise ValueError(
                f"MicroBatches was given {len(self.batches)} batches but {len(self.counts)} counts; pass one "
                "count for each batch"
            )
        if self.counts is not None and not all(count > 0 for count in self.counts):
            raise ValueError(
                f"counts are {list(self.counts)}; counts must be positive: leave empty batches out"
            )

    def weighted(self) -> list[tuple[Any, float]]:
        """Return each batch with its count.

        Raises:
            ValueError: If there are no counts, and a batch has no tensor whose length could be its count.
        """
        counts = self.counts or [count_examples(batch) for batch in self.batches]
        return list(zip(self.batches, counts, strict=True))


def tensors_in(batch: Any) -> Iterator[Tensor]:
    """Yield the tensors of a batch, in order.

    Args:
        batch: Whatever a loss function takes: a tensor, or a (nested) sequence or mapping. Anything else has
            no tensors, nor has a container that can't be read, or that lies inside of itself.

    Example:
        >>> import torch
        >>> [tensor.tolist() for tensor in tensors_in({"x": (torch.ones(1), "label"), "y": torch.zeros(1)})]
        [[1.0], [0.0]]
    """
    if isinstance(batch, Tensor):
        yield batch
    else:
        yield from (tensor for _, tensor in named_tensors(batch))


def named_tensors(batch: Any, name: str = "batch") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a batch, in the order of `tensors_in`, with the expression that gives each.

    Args:
        batch: Whatever a loss function takes.
        name: Name of the batch itself.

    Example:
        >>> import torch
        >>> [name for name, _ in named_tensors({"x": (torch.ones(1), "label"), "y": torch.zeros(1)})]
        ["batch['x'][0]", "batch['y']"]
    """
    yield from _named(batch, name, ())


def _named(batch: Any, name: str, outside: tuple[int, ...]) -> Iterator[tuple[str, Tensor]]:
    if isinstance(batch, Tensor):
        yield name, batch
    elif isinstance(batch, MicroBatches):
        yield from _named(batch.batches, name, outside)
    elif id(batch) not in outside and len(outside) < _DEEPEST:
        for key, value in _items(batch):
            yield from _named(value, f"{name}[{key}]", (*outside, id(batch)))


def _items(batch: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a container holds, as far as it can be read: an odd batch must not end training."""
    try:
        if isinstance(batch, Mapping):
            yield from ((repr(key), value) for key, value in batch.items())
        elif isinstance(batch, Sequence) and not isinstance(batch, (str, bytes)):
            yield from ((str(place), value) for place, value in enumerate(batch))
    except Exception:  # noqa: BLE001 - such a container may raise anything
        return


@dataclass(frozen=True)
class ExampleAxes:
    """A reading of a batch: how many examples it has, and along which dimension of each tensor they lie.

    Attributes:
        examples: Number of examples.
        axes: For each tensor, in the order of `tensors_in`: 0 or 1; None for one that every example shares.
    """

    examples: int
    axes: tuple[int | None, ...]

    @property
    def coverage(self) -> int:
        """Number of tensors that have the dimension of the examples."""
        return sum(axis is not None for axis in self.axes)


def example_axes(batch: Any) -> tuple[ExampleAxes, ...]:
    """Return how the examples of a batch may lie in its tensors, the most plausible reading first.

    The number of examples is most plausibly the length that most tensors share at dimension 0. A tensor that
    has this length at dimension 1 only, as the hidden state (layers, B, H) of a recurrent network or a
    sequence (T, B, …) with time first, has its examples there. Shapes alone can't always tell: hence several.

    Args:
        batch: Whatever a loss function takes, without `MicroBatches`.

    Returns:
        No reading if the batch has no tensor of one dimension or more.

    Example:
        >>> import torch
        >>> hidden, x, y = torch.zeros(2, 16, 8), torch.zeros(16, 10), torch.zeros(16)
        >>> example_axes((hidden, x, y))[0]
        ExampleAxes(examples=16, axes=(1, 0, 0))
    """
    return _axes_of(tuple(shape_of(tensor) for tensor in tensors_in(batch)))


def shape_of(tensor: Tensor) -> tuple[int, ...]:
    """Return the shape of a tensor; that of a scalar for a nested tensor, which has none.

    Args:
        tensor: A tensor of a batch.
    """
    return () if tensor.is_nested else tuple(tensor.shape)


@lru_cache(maxsize=256)
def _axes_of(shapes: tuple[tuple[int, ...], ...]) -> tuple[ExampleAxes, ...]:
    first = Counter(shape[0] for shape in shapes if shape)
    second = Counter(shape[1] for shape in shapes if len(shape) > 1 and shape[1] != shape[0])
    # Counters keep the order of insertion, and sorting is stable: among equals the first tensor decides.
    lengths = sorted(first | second, key=lambda length: (-first[length], -first[length] - second[length]))
    readings: dict[ExampleAxes, None] = {}
    for length in lengths:
        axes = tuple(_axis(shape, length) for shape in shapes)
        readings[ExampleAxes(length, axes)] = None
        if first[length]:  # or the equality at dimension 1 is a coincidence, as of a number of classes
            readings[ExampleAxes(length, tuple(0 if axis == 0 else None for axis in axes))] = None
    return tuple(readings)[:_MOST_CANDIDATES]


def _axis(shape: tuple[int, ...], length: int) -> int | None:
    return next((axis for axis, size in enumerate(shape[:2]) if size == length), None)


def count_examples(batch: Any) -> int:
    """Return the number of examples in a batch: see `example_axes`; of a list of samples, its length.

    Args:
        batch: A tensor, or a (nested) sequence or mapping with a tensor; or `MicroBatches`.

    Raises:
        ValueError: If the batch has no tensor of one dimension or more.

    Example:
        >>> import torch
        >>> count_examples({"scale": torch.tensor(2.0), "x": torch.ones(5, 3)})
        5
    """
    if isinstance(batch, MicroBatches):
        return sum(map(count_examples, batch.batches))
    if is_list_of_samples(batch):
        return len(batch)
    readings = example_axes(batch)
    if not readings:
        raise ValueError(
            f"a batch of type {type(batch).__name__} has no tensor of one dimension or more, whose length "
            "could be its number of examples: pass the counts to MicroBatches"
        )
    return readings[0].examples


def usual_size(sizes: Iterable[int]) -> int:
    """Return the size of the usual batch: half of all examples come in batches of at most this size.

    Args:
        sizes: Numbers of examples of some batches, at least one.

    Example:
        >>> usual_size([1, 25, 1, 25, 1]), usual_size([16, 16, 16, 9])
        (25, 16)
    """
    ordered = sorted(sizes)
    half, seen = sum(ordered) / 2, 0
    for size in ordered:
        seen += size
        if seen >= half:
            break
    return size


def is_list_of_samples(batch: Any) -> bool:
    """Return whether a batch is a list of samples that are not collated yet.

    A list of two mappings is not: inputs and targets look the same.

    Args:
        batch: Whatever a loss function takes.
    """
    return (
        type(batch) is list
        and len(batch) > 2
        and all(isinstance(one, Mapping) for one in batch)
        and len({frozenset(one) for one in batch}) == 1
    )
