"""Whether every training step sees the same data, and how many examples a batch has."""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from foreshock.batches.content import Content, content, same_content
from foreshock.batches.structure import count_examples, shape_of, tensors_in, usual_size

_SETTLED = 10  # successive steps with the same data, after which data that have changed count as constant
_FIRST = 4  # steps whose content is read at the beginning
_EVERY = 50  # steps between two readings of the content, of two batches in succession each
_RARELY = 500  # where batches differ, which seldom ends
_SIZES = 20
_SIZES_TOLD = 5

_Tensors = list[tuple[weakref.ref[Tensor], int]]
_Layout = list[tuple[tuple[int, ...], Any]]


class BatchWatch:
    """Find out whether every step sees the same data, whichever tensors they come in.

    The same tensors, not written to in between, hold the same data, and tensors of other shapes hold others:
    that costs nothing. Otherwise the content of two batches in succession is compared, at the first steps and
    then every fifty (every 500 where batches differ), which takes one pass over the data; an order of the
    examples that changes is no difference.

    Args:
        constant: The answer, if the user knows it; None to find out.

    Attributes:
        examples: Number of examples of the last batch; None before the first one, or if it has no tensors.
        elements: Number of values in its tensors; None before the first one, or if it has no tensors.

    Example:
        >>> import torch
        >>> watch, batch = BatchWatch(), torch.arange(3.0)
        >>> watch.see(batch)
        >>> watch.constant is None, watch.examples
        (True, 3)
        >>> watch.see(batch.flip(0))
        >>> watch.constant
        True
    """

    def __init__(self, *, constant: bool | None = None) -> None:
        self._known = constant
        self._previous: _Tensors | None = None
        self._layout: _Layout | None = None  # of its tensors
        self._content: Content | None = None  # of the last batch, if it was read
        self._reference: Content | None = None  # what was read last
        self._by_identity = False  # whether the last batch came in the tensors of the one before
        self._seen: bool | None = None
        self._same = 0  # steps in succession that saw the same data
        self._steps = 0
        self._sizes: deque[int] = deque(maxlen=_SIZES)
        self._told: set[int] = set()
        self.examples: int | None = None
        self.elements: int | None = None
        self._change = ""

    @property
    def constant(self) -> bool | None:
        """Whether every step sees the same data; None if unknown, as before the second batch.

        False once two successive batches differ, until ten in a row are the same: data that are replaced from
        time to time, such as the targets of value regression, are not mini-batches.
        """
        return self._seen if self._known is None else self._known

    @property
    def same_tensors(self) -> bool:
        """Whether the last batch came in the tensors of the one before, not written to in between."""
        return self._by_identity

    @property
    def usual_examples(self) -> int | None:
        """Number of examples of the usual batch among the last twenty, see `usual_size`; None if unknown."""
        return usual_size(self._sizes) if self._sizes else None

    @property
    def change(self) -> str:
        """What is new about the last batch's number of examples, in words; empty if nothing is."""
        return self._change

    def see(self, batch: Any) -> None:
        """Take the batch of one step into account.

        Args:
            batch: Whatever the loss function takes. A batch without tensors does not change the answer.
        """
        # Weak references keep no batch alive. The version counter notices data that are written in place into
        # the same tensor, as loaders with a static buffer do.
        tensors = list(tensors_in(batch))
        present: _Tensors = [(weakref.ref(tensor), _version(tensor)) for tensor in tensors]
        layout: _Layout = [(shape_of(tensor), tensor.dtype) for tensor in tensors]
        before, self._layout = self._layout, layout
        alike = before == layout
        # Batches of the same shapes have as many examples, which most steps are.
        if before is None or not (alike or [one[0] for one in layout] == [one[0] for one in before]):
            self._count(batch)
            self.elements = sum(math.prod(shape) for shape, _ in layout) or None
        else:
            self._count_again()
        if self._known is None and present:
            self._compare(batch, present, alike=alike)
        self._previous = present
        self._steps += 1

    def confirm(self, batch: Any) -> bool | None:
        """Return `constant`, made sure of for a batch that was just seen, before something rests on it.

        Where the same data come in new tensors, most steps compare nothing. Cost: one pass over the data
        there, nothing otherwise.

        Args:
            batch: The batch that `see` was given last.
        """
        if self._known is None and self._seen and not self._by_identity and self._content is None:
            self._content = content(batch)
            if not same_content(self._reference, self._content):
                self._judge(same=False)
            self._reference = self._content
        return self.constant

    def _count_again(self) -> None:
        self._change = ""
        if self.examples is not None:
            self._sizes.append(self.examples)

    def _count(self, batch: Any) -> None:
        """Note the number of examples, and what is new about it."""
        before, self._change = self.examples, ""
        try:
            self.examples = count_examples(batch)
        except Exception:  # noqa: BLE001 - no tensor that could have some, or a container that raises anything
            self.examples = None
            return
        self._sizes.append(self.examples)
        if self.examples in self._told or len(self._told) >= _SIZES_TOLD:
            return
        self._told.add(self.examples)
        if before is not None:
            self._change = f"the batch has {self.examples} examples; the one before had {before}"

    def _compare(self, batch: Any, present: _Tensors, *, alike: bool) -> None:
        """Compare a batch with the one before, as far as that is due."""
        previous, before, self._content = self._previous, self._content, None
        if previous and not alike:
            self._by_identity = False
            self._judge(same=False)
        elif previous and all(
            a() is b() and one == other for (a, one), (b, other) in zip(previous, present, strict=True)
        ):
            self._content = before  # what was read of it holds on
            self._by_identity = True
            self._judge(same=True)
        elif self._reads_content():
            self._content = self._reference = content(batch)
            if previous and (before is not None or self._content is None or self._by_identity):
                self._judge(same=same_content(before, self._content))
            self._by_identity = False

    def _judge(self, *, same: bool) -> None:
        self._same = self._same + 1 if same else 0
        self._seen = same and (self._seen is not False or self._same >= _SETTLED)

    def _reads_content(self) -> bool:
        """Return whether to read the content of this batch, which comes in other tensors than the last one.

        Two in succession are compared: of a data set that is cut into as many batches as lie between two
        readings, the same one would be met each time. Once some are the same again, all are read until that
        is settled.
        """
        beginning = self._steps < _FIRST or self._seen is None
        settling = self._seen is False and self._same > 0
        every = _RARELY if self._seen is False else _EVERY
        return beginning or settling or self._by_identity or self._steps % every in (0, 1)

    def state_dict(self) -> dict[str, Any]:
        """Return the answer so far, for a run that is resumed."""
        return {"seen": self._seen, "same": self._same, "sizes": list(self._sizes)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._seen, self._same = state["seen"], int(state["same"])
        self._sizes = deque(state.get("sizes", ()), maxlen=_SIZES)
        self._told = set(self._sizes)


def _version(tensor: Tensor) -> int:
    """Return how often a tensor was written to; inference tensors do not count it."""
    return 0 if tensor.is_inference() else tensor._version
