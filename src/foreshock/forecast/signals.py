"""What every step tells for free, smoothed: v that lags, a gradient that bursts, a loss off its level."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from foreshock.dynamics import LagWindow

_BURST_MEMORY = 5
_LEVEL_WINDOW = 100
_FEWEST = 20


@dataclass(frozen=True)
class StepSignals:
    """The smoothed signals at one step; NaN until enough steps were seen.

    Attributes:
        lag: v above g², see `foreshock.dynamics.LagWindow`. Where it is below about two, v follows g², and
            crossing the edge does little.
        reverse_lag: g² above v: √(‖g‖²/Σv̂) of this step.
        burst: √(EMA₅‖g‖² over its own median of the last 100 steps).
        loss_ratio: Mean loss of the last 5 steps over the median of the 100 before.
    """

    lag: float
    reverse_lag: float
    burst: float
    loss_ratio: float


class SignalTracker:
    """Take steps one by one.

    Example:
        >>> tracker = SignalTracker()
        >>> for _ in range(60):
        ...     signals = tracker.update(loss=1.0, squared_gradient=0.1, second_moment=1.0)
        >>> round(signals.lag, 6), round(signals.burst, 6)
        (10.0, 1.0)
    """

    def __init__(self) -> None:
        self._recent = math.nan
        self._window = LagWindow()
        self._levels: deque[float] = deque(maxlen=_LEVEL_WINDOW)
        self._losses: deque[float] = deque(maxlen=_LEVEL_WINDOW + _BURST_MEMORY)

    def update(self, *, loss: float, squared_gradient: float, second_moment: float) -> StepSignals:
        """Take one step into account and return the signals at it.

        Args:
            loss: Loss of the step; one that is not finite is passed over.
            squared_gradient: ‖g‖².
            second_moment: Σv̂ of this step over the same coordinates; NaN without a second moment.
        """
        if not math.isfinite(squared_gradient):
            return StepSignals(math.nan, math.nan, math.nan, math.nan)
        self._window.update(second_moment=second_moment, squared_gradient=squared_gradient)
        self._recent = _averaged(self._recent, squared_gradient, _BURST_MEMORY)
        self._levels.append(self._recent)
        if math.isfinite(loss):
            self._losses.append(loss)
        reverse = squared_gradient / second_moment if second_moment > 0 else math.nan
        return StepSignals(
            lag=self._window.lag,
            reverse_lag=math.sqrt(reverse),
            burst=self._burst(),
            loss_ratio=self._loss_ratio(),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed tracker needs, as plain values."""
        return {
            "window": self._window.state_dict(),
            "recent": self._recent,
            "levels": list(self._levels),
            "losses": list(self._losses),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._recent = float(state["recent"])
        self._window.load_state_dict(state["window"])
        for name in ("levels", "losses"):
            kept: deque[float] = getattr(self, f"_{name}")
            kept.clear()
            kept.extend(state[name])

    def _burst(self) -> float:
        if len(self._levels) < _FEWEST:
            return math.nan
        level = float(np.median(self._levels))
        return math.sqrt(self._recent / level) if level > 0 else math.nan

    def _loss_ratio(self) -> float:
        losses = list(self._losses)
        before = losses[:-_BURST_MEMORY]
        if len(before) < _FEWEST:
            return math.nan
        level = float(np.median(before))
        return float(np.mean(losses[-_BURST_MEMORY:])) / level if level > 0 else math.nan


def _averaged(average: float, value: float, memory: float) -> float:
    return value if math.isnan(average) else average + (value - average) / memory
