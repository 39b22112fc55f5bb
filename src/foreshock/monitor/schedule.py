"""When to probe next: the budget says how often, the forecast says where it matters."""

from __future__ import annotations

import math
from typing import Any

from foreshock.forecast import Forecast, noise_interval

_SHARE_OF_TIME_LEFT = 0.1
_LONGEST_WAIT = 200
CURVATURE_PROBE_INTERVAL = 50
"""Where batches differ: measurements of the noise from one probe of the curvature, expensive, to the next."""


class ProbeSchedule:
    """Decide whether to probe at a step.

    With `every`, probes come at fixed steps. Otherwise the wall time of probes is kept below `budget` of all
    wall time since the first step, and within that a probe is due after a tenth of the forecast time to
    instability, as an adaptive integrator picks its step: rarely far from the edge, densely near it.
    What is not spent far away is left for then.

    Args:
        budget: Share of wall time that probes may take, in (0, 1).
        every: Probe every so many steps instead, ≥ 1, whatever it costs.

    Raises:
        ValueError: If an argument lies outside its interval.

    Example:
        >>> schedule = ProbeSchedule(budget=0.05)
        >>> schedule.due(0, now=0.0, forecast=None)
        True
        >>> schedule.spent(0, seconds=1.0, now=1.0)
        >>> schedule.due(1, now=1.1, forecast=None), schedule.due(400, now=41.0, forecast=None)
        (False, True)
    """

    def __init__(self, *, budget: float = 0.05, every: int | None = None) -> None:
        if not 0 < budget < 1:
            raise ValueError(
                f"budget is {budget!r}; it is the share of wall time for probes, in (0, 1): 0.05 is 5 %"
            )
        if every is not None and not every >= 1:
            raise ValueError(f"probe_every is {every!r}; probe every 1 step or more, or None for a budget")
        self.budget = budget
        self.every = every
        self._began: float | None = None
        self._total = 0.0
        self._last_cost = 0.0
        self._last_step: int | None = None

    def due(
        self, step: int, *, now: float, forecast: Forecast | None, noise_lag: float | None = None
    ) -> bool:
        """Return whether to probe at this step.

        Args:
            step: Step number.
            now: Wall clock, seconds.
            forecast: The last forecast, if there is one.
            noise_lag: Where the noise of mini-batches decides, the lag of v: measurements are due after
                `noise_interval` steps. None where the forecast has a date.
        """
        if self.every is not None:
            return step % self.every == 0
        if self._began is None:
            self._began = now
        if self._last_step is None:
            return True
        wait = _wait(forecast) if noise_lag is None else noise_interval(noise_lag)
        if step - self._last_step < wait:
            return False
        return self._total + self._last_cost <= self.budget * (now - self._began)

    def spent(self, step: int, *, seconds: float, now: float) -> None:
        """Account for a probe.

        Args:
            step: Step it was made at.
            seconds: Wall time it took.
            now: Wall clock after it, seconds.
        """
        if self._began is None:
            self._began = now - seconds
        # The last cost stands for the next: the first probe, which chooses a backend, is the most expensive.
        self._total += seconds
        self._last_cost = seconds
        self._last_step = step

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed schedule needs, as plain values; the clock restarts."""
        return {"last_step": self._last_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._last_step = state["last_step"]


def _wait(forecast: Forecast | None) -> float:
    # Without a date more readings are needed first. With one its lower end counts too: a crossing that comes
    # early must not be missed.
    if forecast is None or math.isnan(forecast.steps_to_instability):
        return 1
    ahead = min(forecast.steps_to_instability, forecast.interval_low)
    return min(max(_SHARE_OF_TIME_LEFT * ahead, 1), _LONGEST_WAIT)
