"""How many steps a second a run makes of late."""

from __future__ import annotations

import math
from collections import deque

_OVER = 30.0  # seconds


class Speed:
    """Steps a second over the last half minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, time: float, step: int) -> None:
        """Take into account how far the run is.

        Args:
            time: Seconds of any clock that never goes back.
            step: Its last step.
        """
        self._seen.append((time, step))
        while time - self._seen[0][0] > _OVER:
            self._seen.popleft()

    def now(self, time: float) -> float:
        """Return the steps a second; NaN if none came of late.

        Args:
            time: Seconds of the same clock.
        """
        if len(self._seen) < 2 or time - self._seen[-1][0] > _OVER:
            return math.nan
        (begin, first), (end, last) = self._seen[0], self._seen[-1]
        return (last - first) / (end - begin) if end > begin else math.nan
