"""How much a rule may raise v within some steps, whatever it sees."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from foreshock.guarding.tracking import keep_recent

EPISODE = 100
"""Steps for which a raise counts against the limit, where nothing else is said."""

_LEAST = 1.001  # a smaller factor is what rounding leaves of the limit


class RaiseLimit:
    """Keep the product of the factors of some steps below a limit.

    v forgets at its own pace: what was raised too often stays raised for 1/(1 − β₂) steps.

    Args:
        most: The limit, > 1.
        steps: For how many steps a factor counts.

    Example:
        >>> limit = RaiseLimit(2.0)
        >>> [round(limit.grant(step, 1.5), 3) for step in (0, 1, 2, 100)]
        [1.5, 1.333, 1.0, 1.5]
    """

    def __init__(self, most: float, *, steps: int = EPISODE) -> None:
        self._most, self._steps = most, steps
        self._factors: deque[tuple[int, float]] = deque()

    def grant(self, step: int, factor: float) -> float:
        """Return how much of a raise is left, one if none is, and count it.

        Args:
            step: The step about to be taken.
            factor: The factor on √v that is asked for, ≥ 1.
        """
        keep_recent(self._factors, step, self._steps)
        left = min(factor, self._most / math.prod(one for _, one in self._factors))
        if not left > _LEAST:
            return 1.0
        self._factors.append((step, left))
        return left

    def state_dict(self) -> list[list[float]]:
        """Return what a resumed policy needs, as plain values."""
        return [list(pair) for pair in self._factors]

    def load_state_dict(self, state: Sequence[Sequence[float]]) -> None:
        """Continue from `state_dict()`."""
        self._factors = deque((int(step), float(factor)) for step, factor in state)
