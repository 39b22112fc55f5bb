"""How wide the intervals should be, from the errors of earlier forecasts."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np

from foreshock.forecast.motion import Array

LEADS = np.arange(0.0, 101.0, 4.0)
"""Steps ahead at which forecasts are kept, to be compared with the outcome."""

_SHORTEST = 30.0  # steps; errors over the next few readings say nothing about longer horizons
_PRIOR = 4.0  # comparisons that the filters' own deviations are worth
_FORGET = 0.95  # a comparison
_FURTHEST = 9.0  # squared deviations; one comparison counts no more
_LOWEST, _HIGHEST = 0.3, 3.0


class Calibration:
    """Compare each forecast of the level with the reading some 30 to 100 steps later.

    The root mean square of the errors, in the deviations that the forecasts gave for them, is what the next
    deviations are multiplied with. Forecasts that a fall overtakes are not compared.
    """

    def __init__(self) -> None:
        self._pending: deque[tuple[int, Array, Array]] = deque(maxlen=64)
        self._squares = _PRIOR
        self._count = _PRIOR

    @property
    def factor(self) -> float:
        """The factor for the deviations of the next forecast."""
        return min(max(math.sqrt(self._squares / self._count), _LOWEST), _HIGHEST)

    def keep(self, step: int, means: Array, deviations: Array) -> None:
        """Keep a forecast.

        Args:
            step: Step it is made at.
            means: Of the level at `LEADS`, shape (26,).
            deviations: The same.
        """
        self._pending.append((step, means, deviations))

    def compare(self, step: int, level: float) -> None:
        """Compare a reading with the forecasts that are old enough.

        Args:
            step: Step of the reading.
            level: The reading.
        """
        while self._pending and step - self._pending[0][0] >= _SHORTEST:
            made, means, deviations = self._pending.popleft()
            if step - made > LEADS[-1]:
                continue
            error = level - float(np.interp(step - made, LEADS, means))
            deviation = float(np.interp(step - made, LEADS, deviations))
            # Overlapping forecasts are wrong together: those of one stretch count as one comparison.
            share = 1 / (1 + len(self._pending))
            forget = _FORGET**share
            self._squares = _PRIOR + forget * (self._squares - _PRIOR)
            self._count = _PRIOR + forget * (self._count - _PRIOR)
            self._squares += share * min((error / deviation) ** 2, _FURTHEST)
            self._count += share

    def fell(self) -> None:
        """Drop the forecasts that a fall has overtaken."""
        self._pending.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return what is known, as plain values."""
        pending = [[step, means.tolist(), deviations.tolist()] for step, means, deviations in self._pending]
        return {"pending": pending, "squares": self._squares, "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()` of another one."""
        self._pending.clear()
        self._pending.extend((int(s), np.array(m), np.array(d)) for s, m, d in state["pending"])
        self._squares, self._count = float(state["squares"]), float(state["count"])
