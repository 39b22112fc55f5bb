"""Split a batch into parts that are batches themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from foreshock.batches.structure import (
    ExampleAxes,
    MicroBatches,
    count_examples,
    example_axes,
    is_list_of_samples,
    tensors_in,
)

SplitFunction = Callable[[Any, int], MicroBatches | Sequence[Any]]
"""``split(batch, parts)`` → the parts, each with its share of the examples, as a user knows to make them."""


def split_batch(batch: Any, parts: int = 2, *, how: SplitFunction | None = None) -> MicroBatches:
    """Split a batch into parts that are batches themselves, each with every `parts`-th example.

    Tensors are split along the dimension of the examples, as the most plausible reading of `example_axes` has
    it; everything else goes into each part unchanged. A list of more than two mappings with the same keys is
    taken for a list of samples that are not collated yet, and split as a list. `MicroBatches` with at least
    two batches are returned as they are.

    Args:
        batch: The argument of a loss function: a tensor, or a (nested) tuple, list or mapping with tensors.
        parts: Number of parts, ≥ 2.
        how: ``how(batch, parts)`` → the parts, as a sequence or `MicroBatches`, for batches of another
            structure.

    Returns:
        The parts with their numbers of examples.

    Raises:
        ValueError: If the batch has fewer than `parts` examples, or no tensor of one dimension or more, or if
            two readings of its shapes are as plausible.

    Example:
        >>> import torch
        >>> even, odd = split_batch((torch.arange(5), "label")).batches
        >>> even[0].tolist(), odd[0].tolist(), odd[1]
        ([0, 2, 4], [1, 3], 'label')
        >>> words = ["a", "b", "c"], torch.ones(3)
        >>> odd_and_even = lambda batch, parts: [[one[i::parts] for one in batch] for i in range(parts)]
        >>> split_batch(words, how=odd_and_even).batches[1][0]
        ['b']
    """
    if isinstance(batch, MicroBatches) and len(batch.batches) > 1:
        return batch
    whole = batch.batches[0] if isinstance(batch, MicroBatches) else batch
    if how is not None:
        made = how(whole, parts)
        return made if isinstance(made, MicroBatches) else MicroBatches(made)
    examples = count_examples(whole)
    if is_list_of_samples(whole):
        _require_enough(examples, parts)
        pieces = [whole[start::parts] for start in range(parts)]
        return MicroBatches(pieces, [len(one) for one in pieces])
    readings = example_axes(whole)
    _require_enough(examples, parts)
    if is_ambiguous(readings):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors_in(whole))
        raise ValueError(
            f"the examples of a batch with tensors of the shapes {shapes} may lie along different "
            "dimensions: pass MicroBatches, or a function that splits the batch"
        )
    return split_along(whole, readings[0], parts)


def is_ambiguous(readings: Sequence[ExampleAxes]) -> bool:
    """Return whether shapes leave open which reading of a batch is right.

    As with (2, 16, 8) and (16, 10): a hidden state with 16 inputs, or 2 sequences with a table of positions.

    Args:
        readings: What `example_axes` returned; at least one.
    """
    leader = readings[0]
    return any(
        other.coverage > leader.coverage
        or (other.axes.count(0) == leader.axes.count(0) and other.coverage < leader.coverage)
        for other in readings[1:]
        if other.examples != leader.examples
    )


def split_along(batch: Any, reading: ExampleAxes, parts: int) -> MicroBatches:
    """Return the parts of a batch, split as a reading of its shapes has it.

    Args:
        batch: The argument of a loss function.
        reading: Where its examples are.
        parts: Number of parts, ≥ 2.

    Raises:
        ValueError: If the batch has fewer than `parts` examples.

    Example:
        >>> import torch
        >>> first, second = split_along(torch.arange(6).reshape(2, 3), ExampleAxes(3, (1,)), 2).batches
        >>> first.tolist(), second.tolist()
        ([[0, 2], [3, 5]], [[1], [4]])
    """
    _require_enough(reading.examples, parts)
    pieces = [_every(batch, start, parts, iter(reading.axes)) for start in range(parts)]
    return MicroBatches(pieces, [len(range(start, reading.examples, parts)) for start in range(parts)])


def _require_enough(examples: int, parts: int) -> None:
    if not 2 <= parts <= examples:
        raise ValueError(
            f"a batch of {examples} examples can't be split into {parts} parts; there must be at least 2 "
            "parts and an example for each: use larger batches"
        )


def _every(batch: Any, start: int, stride: int, axes: Iterator[int | None]) -> Any:
    """Return the part of a batch with every `stride`-th example, in the same containers."""
    if isinstance(batch, Tensor):
        axis = next(axes)
        if axis is None:
            return batch
        # Contiguous, since a kernel that takes the training batch may refuse a view with strides.
        return (batch[start::stride] if axis == 0 else batch[:, start::stride]).contiguous()
    if isinstance(batch, Mapping):
        return _like(batch, {key: _every(value, start, stride, axes) for key, value in batch.items()})
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_every(value, start, stride, axes) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)([_every(value, start, stride, axes) for value in batch])
    for _ in tensors_in(batch):  # a container that can't be rebuilt goes into each part as it is
        next(axes)
    return batch


def _like(mapping: Mapping[Any, Any], items: dict[Any, Any]) -> Mapping[Any, Any]:
    """Return items as a mapping of the same type, if that can be made from a mapping."""
    if type(mapping) is dict:
        return items
    try:
        return type(mapping)(items)  # type: ignore[call-arg]
    except TypeError:  # a defaultdict, for example, is made from a function
        return items
