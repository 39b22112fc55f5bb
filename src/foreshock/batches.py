"""Batches: several that count as one, parts of one, and whether every training step sees the same data.

2/η is the edge of stability of full-batch training. If batches differ, the noise of their curvature moves the
edge, and a forecast that rests on a single batch must take that into account.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from foreshock.representation import short_repr

_SETTLED = 10  # successive steps with the same data, after which data that have changed count as constant


class BatchWatch:
    """Find out whether every step sees the same data, from the identity of the tensors of each batch.

    No data are read, so the cost does not depend on the size of the batch.

    Args:
        constant: The answer, if the user knows it; None to find out.

    Example:
        >>> import torch
        >>> watch, batch = BatchWatch(), torch.ones(3)
        >>> watch.see(batch)
        >>> watch.constant is None
        True
        >>> watch.see(batch)
        >>> watch.constant
        True
    """

    def __init__(self, *, constant: bool | None = None) -> None:
        self._known = constant
        self._previous: list[tuple[weakref.ref[Tensor], int]] | None = None
        self._seen: bool | None = None
        self._same = 0

    @property
    def constant(self) -> bool | None:
        """Whether every step sees the same data; None if unknown, as before the second batch.

        False once two successive batches differ, until ten in a row are the same: data that are replaced from
        time to time, such as the targets of value regression, are not mini-batches.
        """
        return self._seen if self._known is None else self._known

    def see(self, batch: Any) -> None:
        """Take the batch of one step into account.

        Args:
            batch: Whatever the loss function takes. A batch without tensors does not change the answer.
        """
        if self._known is not None:
            return
        # Weak references keep no batch alive. The version counter notices data that are written in place into
        # the same tensor, as loaders with a static buffer do.
        present = [(weakref.ref(tensor), _version(tensor)) for tensor in tensors_in(batch)]
        if self._previous is not None and present:
            same = len(present) == len(self._previous) and all(
                old() is new() and old_version == new_version
                for (old, old_version), (new, new_version) in zip(self._previous, present, strict=True)
            )
            self._same = self._same + 1 if same else 0
            self._seen = same and (self._seen is not False or self._same >= _SETTLED)
        self._previous = present

    def state_dict(self) -> dict[str, Any]:
        """Return the answer so far, for a run that is resumed."""
        return {"seen": self._seen, "same": self._same}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._seen, self._same = state["seen"], int(state["same"])


def tensors_in(batch: Any) -> Iterator[Tensor]:
    """Yield the tensors of a batch, in order.

    Args:
        batch: Whatever a loss function takes: a tensor, or a (nested) sequence or mapping. Anything else has
            no tensors.

    Example:
        >>> import torch
        >>> [tensor.tolist() for tensor in tensors_in({"x": (torch.ones(1), "label"), "y": torch.zeros(1)})]
        [[1.0], [0.0]]
    """
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from tensors_in(value)
    elif isinstance(batch, MicroBatches):
        yield from tensors_in(batch.batches)
    elif isinstance(batch, Sequence) and not isinstance(batch, (str, bytes)):
        for value in batch:
            yield from tensors_in(value)


@dataclass(frozen=True)
class MicroBatches:
    """Several batches that count as one, whose mean losses are weighted by their numbers of examples.

    Attributes:
        batches: The micro-batches of an accumulation, or the batches of a data set; at least one.
        counts: Number of examples that each batch's mean loss is over (for language models: of predicted
            tokens), > 0. None: the length of each batch's first tensor.

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


def count_examples(batch: Any) -> int:
    """Return the number of examples in a batch: the length of its first tensor, or of a list of samples.

    Args:
        batch: A tensor, or a (nested) sequence or mapping with a tensor.

    Raises:
        ValueError: If the batch has no tensor of one dimension or more.

    Example:
        >>> import torch
        >>> count_examples({"scale": torch.tensor(2.0), "x": torch.ones(5, 3)})
        5
    """
    if _is_list_of_samples(batch):
        return len(batch)
    for tensor in tensors_in(batch):
        if tensor.ndim:
            return len(tensor)
    raise ValueError(
        f"a batch of type {type(batch).__name__} has no tensor of one dimension or more, whose length could "
        "be its number of examples: pass the counts to MicroBatches"
    )


def split_batch(batch: Any, parts: int = 2) -> MicroBatches:
    """Split a batch into parts that are batches themselves, each with every `parts`-th example.

    Dimension 0 of the tensors must be that of the examples. Tensors of the same length as the first one are
    split along it; everything else goes into each part unchanged. A list of more than two mappings with the
    same keys is taken for a list of samples that are not collated yet, and split as a list. `MicroBatches`
    with at least two batches are returned as they are.

    Args:
        batch: The argument of a loss function: a tensor, or a (nested) tuple, list or mapping with tensors.
        parts: Number of parts, ≥ 2.

    Returns:
        The parts with their numbers of examples.

    Raises:
        ValueError: If the batch has fewer than `parts` examples, or no tensor of one dimension or more.

    Example:
        >>> import torch
        >>> even, odd = split_batch((torch.arange(5), "label")).batches
        >>> even[0].tolist(), odd[0].tolist(), odd[1]
        ([0, 2, 4], [1, 3], 'label')
    """
    if isinstance(batch, MicroBatches) and len(batch.batches) > 1:
        return batch
    whole = batch.batches[0] if isinstance(batch, MicroBatches) else batch
    examples = count_examples(whole)
    if not 2 <= parts <= examples:
        raise ValueError(
            f"a batch of {examples} examples can't be split into {parts} parts; there must be at least 2 "
            "parts and an example for each: use larger batches"
        )
    if _is_list_of_samples(whole):
        pieces = [whole[start::parts] for start in range(parts)]
    else:
        pieces = [_every(whole, start, parts, examples) for start in range(parts)]
    return MicroBatches(pieces, [len(range(start, examples, parts)) for start in range(parts)])


def _every(batch: Any, start: int, stride: int, examples: int) -> Any:
    """Return the part of a batch with every `stride`-th example, in the same containers."""
    if isinstance(batch, Tensor):
        # Contiguous, since a kernel that takes the training batch may refuse a view with strides.
        split = batch.ndim and len(batch) == examples
        return batch[start::stride].contiguous() if split else batch
    if isinstance(batch, Mapping):
        return _like(batch, {key: _every(value, start, stride, examples) for key, value in batch.items()})
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_every(value, start, stride, examples) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(_every(value, start, stride, examples) for value in batch)
    return batch


def _like(mapping: Mapping[Any, Any], items: dict[Any, Any]) -> Mapping[Any, Any]:
    """Return items as a mapping of the same type, if that can be made from a mapping."""
    if type(mapping) is dict:
        return items
    try:
        return type(mapping)(items)  # type: ignore[call-arg]
    except TypeError:  # a defaultdict, for example, is made from a function
        return items


def _is_list_of_samples(batch: Any) -> bool:
    """Return whether a batch is a list of samples that are not collated yet.

    A list of two mappings is not: inputs and targets look the same.
    """
    return (
        type(batch) is list
        and len(batch) > 2
        and all(isinstance(one, Mapping) for one in batch)
        and len({frozenset(one) for one in batch}) == 1
    )


def _version(tensor: Tensor) -> int:
    """Return how often a tensor was written to; inference tensors do not count it."""
    return 0 if tensor.is_inference() else tensor._version
