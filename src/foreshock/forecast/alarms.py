"""Probabilities, step by step → alarms that begin, and that end when the danger is over.

There are two levels, each given once per episode: *watch* and *alarm*. An alarm begins where the probability
of a spike within the horizon reaches a threshold, and ends where it falls below half of it, so that a
probability that wavers about the threshold is one alarm. A watch is the same with half the threshold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from foreshock.forecast.record import Forecast, Level, Raised
from foreshock.representation import short_repr

ALARM_AT = 0.3
"""Probability of a spike within the horizon from which on it is an alarm, unless the user says otherwise."""

_ENDS = 0.5  # share of its threshold below which an episode ends


@dataclass(frozen=True)
class Alarm:
    """One alarm, with the numbers that made it.

    Attributes:
        step: Step it was given at.
        level: ``alarm``: a spike within the horizon is as probable as the threshold, or the loss is not
            finite. ``watch``: half as probable.
        reason: In words, with the numbers.
        forecast: The forecast behind it.
        burst: √(EMA₅‖g‖² over its median of 100 steps) at that step.
    """

    step: int
    level: Level
    reason: str
    forecast: Forecast
    burst: float

    __repr__ = short_repr

    def __str__(self) -> str:
        """Return one line for people."""
        return f"{self.level} at step {self.step}: {self.reason}"


class AlarmBook:
    """Follow the level of alarm, and give an alarm once for each level of an episode.

    A spike ends its episode: the next spike gets its own alarms. A loss that is not finite gives an alarm of
    its own, once until it is finite again.

    Args:
        alarm_at: Probability from which on it is an alarm, in (0, 1). A lower one misses fewer spikes, and is
            in alarm for more of the steps.

    Attributes:
        level: The present one; empty outside of episodes.

    Raises:
        ValueError: If `alarm_at` lies outside.

    Example:
        >>> book = AlarmBook(0.4)
        >>> [book.follow(probability) for probability in (0.1, 0.25, 0.5, 0.3, 0.15, 0.05)]
        ['', 'watch', 'alarm', 'alarm', 'watch', '']
    """

    def __init__(self, alarm_at: float = ALARM_AT) -> None:
        if not 0 < alarm_at < 1:
            raise ValueError(
                f"alarm_at is {alarm_at!r}; it is the probability of a spike from which on it is an alarm, "
                "between 0 and 1: 0.3 is usual, less misses fewer spikes and is in alarm for longer"
            )
        self.alarm_at = alarm_at
        self.level: Raised = ""
        self._given: set[Level] = set()
        self._failed = False

    def follow(self, probability: float) -> Raised:
        """Return the level after one more forecast.

        Args:
            probability: Of a spike within the horizon; NaN, which ends an episode, if it is unknown or one is
                going on.
        """
        alarm, watch = self.alarm_at, self.alarm_at / 2
        if probability >= (_ENDS * alarm if self.level == "alarm" else alarm):
            self.level = "alarm"
        elif probability >= (_ENDS * watch if self.level else watch):
            self.level = "watch"
        else:
            self.level = ""
        return self.level

    def failure(self, step: int, forecast: Forecast, *, loss: float, burst: float) -> Alarm | None:
        """Return the alarm of a loss that is not finite; None if it is, or if the alarm was given.

        Args:
            step: Step number.
            forecast: The forecast of that step.
            loss: The loss.
            burst: For the record.
        """
        failed, self._failed = self._failed, not math.isfinite(loss)
        if not self._failed or failed:
            return None
        reason = f"the loss is {loss}: the run has failed unless a gradient scaler left this step out"
        return Alarm(step, "alarm", reason, forecast, burst)

    def update(self, step: int, forecast: Forecast, *, trigger: str = "", burst: float) -> Alarm | None:
        """Return the alarm that is due at a step, if there is one.

        Args:
            step: Step number.
            forecast: The forecast of that step, with its level.
            trigger: What has been seen to grow, in words; empty if nothing.
            burst: For the record.
        """
        level = forecast.level
        if not level:
            self._given.clear()
            return None
        if level in self._given:
            return None
        # After an alarm a watch of the same episode would be no news.
        self._given |= {"watch", level}
        reason = f"{forecast}; {trigger}" if trigger else str(forecast)
        return Alarm(step, level, reason, forecast, burst)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed book needs, as plain values."""
        return {"given": sorted(self._given), "level": self.level, "failed": self._failed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._given = set(state["given"])
        self.level = state.get("level", "")
        self._failed = bool(state["failed"])
