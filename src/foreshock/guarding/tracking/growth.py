"""How fast the gradient grows: far above the edge, the last displacement shows it only when it is too late.

Above the edge the deviation along the unstable direction grows by the same factor at every step, and ‖g‖²
with its square once that part outweighs the rest of the gradient, which is long before it outweighs the rest
of the displacement.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Sequence

SUSTAINED = 3
"""Steps on which ‖g‖² must grow alike: one large gradient makes one large factor."""

_WAKING = 2.0
_WAKING_STEPS = 2


class Growth:
    """Follow the factors by which ‖g‖² grew.

    Example:
        >>> growth = Growth()
        >>> for square in (1.0, 3.0, 12.0, 36.0):
        ...     growth.update(square)
        >>> growth.sustained
        3.0
    """

    def __init__(self) -> None:
        self._squares: deque[float] = deque(maxlen=SUSTAINED + 1)

    def update(self, squared_gradient: float) -> None:
        """Take one step into account; one with a gradient that is not finite begins anew.

        Args:
            squared_gradient: ‖g‖².
        """
        if not math.isfinite(squared_gradient):
            self._squares.clear()
            return
        self._squares.append(squared_gradient)

    @property
    def sustained(self) -> float:
        """The smallest of the last three factors; NaN before there are three."""
        return self._least(SUSTAINED)

    @property
    def wakes(self) -> bool:
        """Whether ‖g‖² doubled at each of the last two steps: no time to measure only now and then."""
        return self._least(_WAKING_STEPS) >= _WAKING

    def state_dict(self) -> list[float]:
        """Return what a resumed run needs."""
        return list(self._squares)

    def load_state_dict(self, state: Sequence[float]) -> None:
        """Continue from `state_dict()`."""
        self._squares.clear()
        self._squares.extend(state)

    def _least(self, steps: int) -> float:
        squares = list(self._squares)[-steps - 1 :]
        if len(squares) <= steps or not min(squares) > 0:
            return math.nan
        return min(now / before for before, now in itertools.pairwise(squares))
