"""Two levels of alarm, each given once per episode: *watch*, an instability is near; *alarm*, it begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from foreshock.forecast.record import Forecast
from foreshock.representation import short_repr

Level = Literal["watch", "alarm"]
_GAP = 20


@dataclass(frozen=True)
class Alarm:
    """One alarm, with the numbers that made it.

    Attributes:
        step: Step it was given at.
        level: ``watch``: an instability is forecast within the horizon, or the edge is passed. ``alarm``: the
            edge is passed *and* something grows: the gradient, or the curvature along it is beyond the edge.
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
    """Turn forecasts and triggers into alarms, one of each level per episode.

    An episode ends once `gap` steps passed in which the forecast announced nothing, or with a spike: the next
    spike gets its own alarms.

    Args:
        gap: Steps without an announcement that end an episode, ≥ 1.
    """

    def __init__(self, gap: int = _GAP) -> None:
        self._gap = gap
        self._given: set[Level] = set()
        self._last_announced: int | None = None

    def update(self, step: int, forecast: Forecast, *, trigger: str = "", burst: float) -> Alarm | None:
        """Return the alarm that is due at a step, if there is one.

        Args:
            step: Step number.
            forecast: The forecast as it stands.
            trigger: What has been seen to grow, in words; empty if nothing.
            burst: For the record.
        """
        quiet = self._last_announced is not None and step - self._last_announced > self._gap
        if forecast.state == "spike" or quiet:
            self._given.clear()
            self._last_announced = None
        if not forecast.announces or forecast.state == "spike":
            return None
        self._last_announced = step
        level: Level = "alarm" if trigger and forecast.state == "armed" else "watch"
        if level in self._given:
            return None
        # Whoever was told of the alarm need not be told of the watch any more.
        self._given |= {"watch", level}
        reason = f"{forecast}; {trigger}" if trigger and level == "alarm" else str(forecast)
        return Alarm(step, level, reason, forecast, burst)

    @property
    def level(self) -> Level | None:
        """The highest level given in the present episode; None outside of episodes."""
        if "alarm" in self._given:
            return "alarm"
        return "watch" if self._given else None

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed book needs, as plain values."""
        return {"given": sorted(self._given), "last_announced": self._last_announced}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._given = set(state["given"])
        self._last_announced = state["last_announced"]
