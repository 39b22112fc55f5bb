"""Whether the loss has left its level: also where it is no multiple of it, for recovery."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from statistics import fmean, median, stdev
from typing import Any

_USUAL, _FEWEST, _FEW = 60, 30, 10  # losses that set the level
_LATEST = 5
_DEVIATIONS, _RISE, _JUMP = 6.0, 0.3, 12.0
_LASTING, _ERRORS, _SLIGHT = 20, 3.0, 0.1  # of losses after a change
_OF_NORMAL = 1.4826  # standard deviation of a normal over its median absolute deviation


class LossWatch:
    """Tell when the mean of five losses rises above the level of the sixty before.

    It must exceed their median by six standard deviations, from the median absolute deviation, and by
    three tenths; or the last one by twelve, and by the level itself. A loss that stays high is told once.

    Example:
        >>> watch = LossWatch()
        >>> [watch.rises(step, 1 + 0.01 * (step % 3)) for step in range(60)].count(True)
        0
        >>> [watch.rises(step, 2.0) for step in (60, 61, 62)]
        [False, True, False]
    """

    def __init__(self) -> None:
        self._losses: deque[tuple[int, float]] = deque(maxlen=_USUAL + _LATEST)
        self._high = False

    def rises(self, step: int, loss: float) -> bool:
        """Return whether the loss leaves its level at a step.

        Args:
            step: Step number.
            loss: Its loss.
        """
        if not math.isfinite(loss):
            return False
        self._losses.append((step, loss))
        values = [value for _, value in self._losses]
        usual, latest = values[:-_LATEST], values[-_LATEST:]
        if len(usual) < _FEWEST:
            return False
        level, spread = _level_and_spread(usual)
        rise, jump = fmean(latest) - level, loss - level
        high = rise > max(_DEVIATIONS * spread, _RISE * abs(level))
        high |= jump > max(_JUMP * spread, abs(level))
        before, self._high = self._high, high
        return self._high and not before

    def is_higher(self, since: int) -> bool:
        """Return whether the losses from a step on, at which something changed, are higher than those before.

        Their mean must exceed the level by a tenth, and by three standard errors: too little to be noticed
        where nothing changed.

        Args:
            since: The step.
        """
        usual = [value for step, value in self._losses if step < since]
        latest = [value for step, value in self._losses if step >= since]
        if len(usual) < _FEWEST or len(latest) < _LASTING:
            return False
        level, spread = _level_and_spread(usual)
        error = math.hypot(spread / math.sqrt(len(usual)), stdev(latest) / math.sqrt(len(latest)))
        return fmean(latest) - level > max(_ERRORS * error, _SLIGHT * abs(level))

    def bar(self, since: int) -> float:
        """Return the loss from which on a single one is high; NaN if too few are known.

        Args:
            since: Last step whose loss is usual.
        """
        usual = [value for step, value in self._losses if step <= since]
        if len(usual) < _FEW:
            return math.nan
        level, spread = _level_and_spread(usual)
        return level + max(_DEVIATIONS * spread, _RISE * abs(level))

    def back_to(self, step: int) -> None:
        """Forget the losses after a step, to which the training went back.

        Args:
            step: Step number.
        """
        kept = [one for one in self._losses if one[0] <= step]
        self._losses, self._high = deque(kept, maxlen=self._losses.maxlen), False

    def forget_before(self, step: int) -> None:
        """Forget the losses from before a step, from which on another level is usual.

        Args:
            step: Step number.
        """
        kept = [one for one in self._losses if one[0] >= step]
        self._losses, self._high = deque(kept, maxlen=self._losses.maxlen), False

    def state_dict(self) -> dict[str, Any]:
        """Return the losses that it remembers, as plain values."""
        return {"losses": [list(one) for one in self._losses], "high": self._high}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`.

        Args:
            state: What `state_dict` returned.
        """
        kept = [(int(step), float(loss)) for step, loss in state["losses"]]
        self._losses, self._high = deque(kept, maxlen=self._losses.maxlen), bool(state["high"])


def _level_and_spread(values: Sequence[float]) -> tuple[float, float]:
    level = median(values)
    return level, _OF_NORMAL * median(abs(value - level) for value in values)
