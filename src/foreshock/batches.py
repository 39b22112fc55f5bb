"""Batches: several that stand for one, and whether every training step sees the same data.

2/η is the edge of stability of full-batch training. Where batches differ, the noise of their curvature moves
the edge, and a forecast that rests on one batch must say so.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from foreshock.representation import short_repr

_SETTLED = 10  # steps running with the same data


class BatchWatch:
    """Compare each batch with the one before, by identity of its tensors: no data is read.

    Args:
        constant: The answer, if the user knows it; None to find out.
    """

    def __init__(self, *, constant: bool | None = None) -> None:
        self._known = constant
        self._previous: list[tuple[weakref.ref[Tensor], int]] | None = None
        self._seen: bool | None = None
        self._same = 0

    @property
    def constant(self) -> bool | None:
        """Whether every step sees the same data; None if it can't be told.

        False once two batches differed, until ten in a row were the same: data that are renewed now and then,
        as the targets of value regression are, make no mini-batches.
        """
        return self._seen if self._known is None else self._known

    def see(self, batch: Any) -> None:
        """Take the batch of one step into account."""
        if self._known is not None:
            return
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
        """Return what a resumed run needs, so that its first batch is not the first one ever."""
        return {"seen": self._seen, "same": self._same}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._seen, self._same = state["seen"], int(state["same"])


def tensors_in(batch: Any) -> Iterator[Tensor]:
    """Yield the tensors of a batch, in order: of a tensor itself, sequences and mappings, nested.

    Args:
        batch: Whatever a loss function takes.
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
    """Several batches that stand for one: their mean loss is weighted by counts, never a mean of means.

    Attributes:
        batches: The micro-batches of an accumulation, or the batches of a data set; not empty.
        counts: Number of examples behind each batch's mean loss (for language models: of predicted tokens);
            None to take the length of each batch's first tensor.

    Raises:
        ValueError: If there are no batches, or the counts don't pair up with them or are not positive.

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
            raise ValueError("MicroBatches needs at least one batch")
        if self.counts is not None and len(self.counts) != len(self.batches):
            raise ValueError(f"{len(self.batches)} batches but {len(self.counts)} counts; they must pair up")
        if self.counts is not None and not all(count > 0 for count in self.counts):
            raise ValueError("counts must be positive: leave empty batches out")

    def weighted(self) -> list[tuple[Any, float]]:
        """Return each batch with its count.

        Raises:
            ValueError: If a batch has no tensor whose length could be its count.
        """
        counts = self.counts or [count_examples(batch) for batch in self.batches]
        return list(zip(self.batches, counts, strict=True))


def count_examples(batch: Any) -> int:
    """Return the number of examples in a batch: the length of its first tensor, or of a list of samples.

    Args:
        batch: A tensor, or a sequence or mapping that has one.

    Raises:
        ValueError: If it has no tensor of one dimension or more.
    """
    if _is_list_of_samples(batch):
        return len(batch)
    for tensor in tensors_in(batch):
        if tensor.ndim:
            return len(tensor)
    raise ValueError(
        "a batch has no tensor whose length could be its number of examples: pass the counts to MicroBatches"
    )


def split_batch(batch: Any, parts: int = 2) -> MicroBatches:
    """Return parts of a batch that are batches themselves: every `parts`-th example each.

    Tensors whose dimension 0 has the length of the first one are split along it, all else goes into each
    part as it is: dimension 0 has to be that of the examples. A list of more than two mappings with the same
    keys is a list of samples that are yet to be collated. `MicroBatches` of two or more are parts already.

    Args:
        batch: What a loss function takes: a tensor, or a (nested) tuple, list or mapping with tensors.
        parts: How many parts, ≥ 2.

    Raises:
        ValueError: If the batch has too few examples, or is of a kind that can't be split.

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
        raise ValueError(f"a batch of {examples} examples can't be split into {parts} parts")
    if _is_list_of_samples(whole):
        pieces = [whole[start::parts] for start in range(parts)]
    else:
        pieces = [_every(whole, start, parts, examples) for start in range(parts)]
    return MicroBatches(pieces, [len(range(start, examples, parts)) for start in range(parts)])


def _every(batch: Any, start: int, stride: int, examples: int) -> Any:
    """Return the part of a batch with every `stride`-th example, in the same containers."""
    if isinstance(batch, Tensor):
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
    """Return items as a mapping of the same type, where that is made from a mapping."""
    if type(mapping) is dict:
        return items
    try:
        return type(mapping)(items)  # type: ignore[call-arg]
    except TypeError:  # a defaultdict is made from something else
        return items


def _is_list_of_samples(batch: Any) -> bool:
    """Return whether a batch is a list of samples, yet to be collated: of two it can't be told."""
    return (
        type(batch) is list
        and len(batch) > 2
        and all(isinstance(one, Mapping) for one in batch)
        and len({frozenset(one) for one in batch}) == 1
    )


def _version(tensor: Tensor) -> int:
    """Return how often a tensor was written to; tensors made for inference don't count it."""
    return 0 if tensor.is_inference() else tensor._version
