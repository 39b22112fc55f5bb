"""‖g‖ of a step, on its way to the host while the step is made.

To know ‖g‖ before a step, the host waits until the device has computed the gradients. The device then has
nothing to do until the host has started the optimizer's kernels and those of the next forward pass. What is
read one step later is there by then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class LateNorm:
    """Take norms on their device at one step, and return their sum of squares at the next.

    Example:
        >>> late = LateNorm()
        >>> late.put([torch.tensor(3.0), torch.tensor(4.0)])
        >>> late.take(), late.take()
        (25.0, None)
    """

    def __init__(self) -> None:
        self._coming: Tensor | None = None
        self._event: torch.cuda.Event | None = None
        self._known: float | None = None

    @property
    def on_its_way(self) -> bool:
        """Whether there are norms that nobody has asked for yet."""
        return self._coming is not None

    def put(self, norms: Sequence[Tensor]) -> None:
        """Take the norms of a step; what was there before is dropped.

        Args:
            norms: Scalars of one device, at least one.
        """
        stacked, self._known = torch.stack(tuple(norms)), None
        if not stacked.is_cuda:
            self._coming, self._event = stacked, None
            return
        self._coming = torch.empty(stacked.shape, dtype=stacked.dtype, pin_memory=True)
        self._coming.copy_(stacked, non_blocking=True)
        self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._event.record(torch.cuda.current_stream(stacked.device))

    def take(self) -> float | None:
        """Return ‖.grad‖² of the step whose norms are here, and forget it; None if there are none."""
        value = self.peek()
        self.drop()
        return value

    def peek(self) -> float | None:
        """Return the same without forgetting it."""
        if self._coming is not None:
            if self._event is not None:
                self._event.synchronize()
            self._known = math.fsum(norm**2 for norm in self._coming.tolist())
            self._coming = self._event = None
        return self._known

    def drop(self) -> None:
        """Forget what is here."""
        self._coming = self._event = self._known = None

    def restore(self, value: float | None) -> None:
        """Continue with what `peek` returned.

        Args:
            value: ‖.grad‖² of the last step, or None.
        """
        self.drop()
        self._known = value
