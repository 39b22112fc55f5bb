"""‖g‖ of a step, on its way to the host while the step is made.

To know ‖g‖ before a step, the host waits until the device has computed the gradients. The device then has
nothing to do until the host has started the optimizer's kernels and those of the next forward pass. What is
read one step later is there by then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Clipped(NamedTuple):
    """What the training loop reported of gradients that it clipped.

    Attributes:
        total: Their norm before, which its device may still compute.
        max_norm: What it was clipped to.
    """

    total: Tensor
    max_norm: float


def clip_factor(total: float, max_norm: float) -> float:
    """Return by what gradients were multiplied, as ``torch.nn.utils.clip_grad_norm_`` computes it.

    Args:
        total: Their norm before.
        max_norm: What it was clipped to.

    Example:
        >>> round(clip_factor(10.0, 5.0), 6)
        0.5
    """
    return min(1.0, max_norm / (total + 1e-6))


class Late(NamedTuple):
    """What came late.

    Attributes:
        squared: ‖.grad‖².
        factor: By what the gradients had been multiplied; None where no clipping came late.
    """

    squared: float
    factor: float | None = None


class LateNorm:
    """Take norms on their device at one step, and return their sum of squares at the next.

    Attributes:
        empty: Whether there is nothing.
        on_its_way: Whether there are norms that nobody has asked for yet.

    Example:
        >>> late = LateNorm()
        >>> late.put([torch.tensor(3.0), torch.tensor(4.0)])
        >>> late.take(), late.take()
        (Late(squared=25.0, factor=None), None)
        >>> late.put([], clipped=Clipped(torch.tensor(10.0), 5.0))
        >>> late.take()
        Late(squared=24.9999..., factor=0.4999...)
    """

    def __init__(self) -> None:
        self._known: Late | None = None
        self._coming: Tensor | None = None
        self._event: torch.cuda.Event | None = None
        self._clipped: Clipped | None = None
        self.empty, self.on_its_way = True, False

    def put(self, norms: Sequence[Tensor], *, clipped: Clipped | None = None) -> None:
        """Take the norms of a step; what was there before is dropped.

        Args:
            norms: Scalars of one device; without any that of `clipped` counts, else at least one.
            clipped: What was reported of the step, with a tensor of any device.
        """
        self.drop()
        self._clipped, on_device = clipped, list(norms)
        if clipped is not None:
            on_device.append(clipped.total.to(norms[0]) if norms else clipped.total)
        stacked = torch.stack(on_device)
        self.empty, self.on_its_way = False, True
        if not stacked.is_cuda:
            self._coming = stacked
            return
        self._coming = torch.empty(stacked.shape, dtype=stacked.dtype, device="cpu", pin_memory=True)
        self._coming.copy_(stacked, non_blocking=True)
        self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._event.record(torch.cuda.current_stream(stacked.device))

    def take(self) -> Late | None:
        """Return what came of the step whose norms are here, and forget it; None if there are none."""
        value = self.peek()
        self.drop()
        return value

    def peek(self) -> Late | None:
        """Return the same without forgetting it."""
        if self._coming is not None:
            if self._event is not None:
                self._event.synchronize()
            self._known = _read(self._coming.tolist(), self._clipped)
            self._forget_norms()
        return self._known

    def drop(self) -> None:
        """Forget what is here."""
        self._known, self.empty = None, True
        self._forget_norms()

    def restore(self, value: Sequence[Any] | None) -> None:
        """Continue with what `peek` returned.

        Args:
            value: What came of the last step, or None.
        """
        self.drop()
        if value is not None:
            self._known, self.empty = Late(*value), False

    def _forget_norms(self) -> None:
        self._coming = self._event = self._clipped = None
        self.on_its_way = False


def _read(numbers: Sequence[float], clipped: Clipped | None) -> Late:
    if clipped is None:
        return Late(math.fsum(norm**2 for norm in numbers))
    *norms, total = numbers
    factor = clip_factor(total, clipped.max_norm)
    return Late(math.fsum(norm**2 for norm in norms) if norms else (factor * total) ** 2, factor)
