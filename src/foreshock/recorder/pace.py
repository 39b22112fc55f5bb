"""What snapshots cost of a training's time, and how many steps therefore lie between them."""

from __future__ import annotations

import math
import time
from collections import deque
from statistics import median

FIRST = 10
"""Steps to the second snapshot, from which on it is known how long one takes."""
_FEWEST, _MOST = 5, 2000  # steps from one snapshot to the next
_LATELY = 64  # steps whose length is usual


class Pace:
    """How long steps and snapshots take.

    The length of steps is the median of the last ones: an evaluation, a checkpoint or the first step, which
    compiles, is no reason to take more snapshots.

    Attributes:
        taken: Snapshots so far.
        spent: Seconds that the training stood still for them.
    """

    def __init__(self) -> None:
        self.taken, self.spent = 0, 0.0
        self._last: float | None = None  # when the last step, or the snapshot in it, was seen
        self._steps: deque[float] = deque(maxlen=_LATELY)
        self._since = 0  # steps that are not among those trained
        self._usual = self._trained = 0.0  # seconds: of a step, and of all but these
        self._snapshots: deque[float] = deque(maxlen=5)

    def see(self) -> bool:
        """Count a step; return whether it is known anew how long steps are, without a snapshot in between."""
        now = time.perf_counter()
        if self._last is not None:
            self._steps.append(now - self._last)
            self._since += 1
        self._last = now
        if self._since < _LATELY:
            return False
        self._settle()
        return True

    def took(self, seconds: float) -> None:
        """Account for a snapshot that was just taken.

        Args:
            seconds: How long that took.
        """
        self.taken += 1
        self.spent += seconds
        if self.taken > 2:  # the first two take memory
            self._snapshots.append(seconds)
        self._settle()
        self._last = time.perf_counter()

    def spacing(self, share: float) -> int:
        """Return the steps from one snapshot to the next that cost a share of the time.

        Args:
            share: The share, in (0, 1).
        """
        if not self._snapshots or not self._usual > 0:
            return FIRST
        return min(max(math.ceil(median(self._snapshots) / (share * self._usual)), _FEWEST), _MOST)

    def spares(self, share: float, *, besides: float) -> bool:
        """Return whether all so far cost less than a share of the time.

        Args:
            share: The share, in (0, 1).
            besides: Seconds of processor time that writing took.
        """
        return self.spent + besides < share * (self._trained + self._since * self._usual)

    def _settle(self) -> None:
        """Find out how long steps are by now."""
        if self._steps:
            self._usual = median(self._steps)
        self._trained += self._since * self._usual
        self._since = 0

    @property
    def share(self) -> float:
        """Time of snapshots over that and the time of all steps."""
        passed = self.spent + self._trained + self._since * self._usual
        return self.spent / passed if passed > 0 else 0.0
