"""By what gradients were multiplied, so that those of two steps can be compared."""

from __future__ import annotations

import math


class ClipRecord:
    """Follow the factors on the gradients of the last step and of the coming one.

    Attributes:
        last: Factor on the gradients of the last step.

    Example:
        >>> record = ClipRecord()
        >>> record.told(0.5)
        >>> record.undoing
        (1.0, 2.0)
        >>> record.stepped()
        >>> record.undoing
        (2.0, 1.0)
    """

    def __init__(self, last: float = 1.0) -> None:
        self.last, self._coming = last, 1.0

    def told(self, factor: float) -> None:
        """Take over what somebody else multiplied the coming gradients by.

        Args:
            factor: In [0, 1].
        """
        self._coming = factor

    def multiplied(self, factor: float) -> None:
        """Take into account that the coming gradients were multiplied once more.

        Args:
            factor: By what.
        """
        self._coming *= factor

    def stepped(self) -> None:
        """Turn the coming step into the last one."""
        self.last, self._coming = self._coming, 1.0

    def skipped(self) -> None:
        """Forget the coming step, which the optimizer left out: the last one stays the last."""
        self._coming = 1.0

    @property
    def undoing(self) -> tuple[float, float]:
        """What the gradients of the last step and of the coming one are to be multiplied by.

        NaN for what can't be undone, so that there is no secant.
        """
        return _inverse(self.last), _inverse(self._coming)


def _inverse(factor: float) -> float:
    return 1 / factor if factor > 0 else math.nan
