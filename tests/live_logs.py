"""Records of runs to watch, and waiting for what threads do."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from foreshock.live.run import LiveRun

Rows = list[tuple[str, dict[str, Any]]]


def calm(first: int, last: int, *, loss: float = 1.0) -> Rows:
    """Return step records of a loss that only trembles."""
    return [
        (
            "step",
            {
                "step": step,
                "loss": loss * (1 + 0.01 * math.sin(step)),
                "gradient_norm": 0.5,
                "learning_rate": 1e-3,
                "instant_lag": 1.5,
                "decay_exponent": 0.2,
            },
        )
        for step in range(first, last)
    ]


def forecast(step: int, state: str = "stable", **fields: Any) -> tuple[str, dict[str, Any]]:
    """Return a forecast record."""
    found = {
        "step": step,
        "stability_ratio": 0.6,
        "steps_to_instability": math.inf,
        "interval_low": math.inf,
        "interval_high": math.inf,
        "state": state,
        "basis": "9 readings since the last fall",
        "typical_mean_square_ratio": math.nan,
        "lag": 1.5,
        "cause_hint": "",
        "measured": step,
    }
    return "forecast", found | fields


def spiky() -> Rows:
    """Return a run that is announced, spikes at step 400 and comes back."""
    rows = calm(0, 700)
    for step in range(400, 430):
        rows[step][1]["loss"] = 8.0 - 0.2 * (step - 400)
    for step in range(0, 700, 10):
        danger = 350 <= step < 420
        near = {"steps_to_instability": 400.0 - step, "interval_low": 10.0, "interval_high": 90.0}
        fields = {"probability": 0.8 if danger else 0.05, **(near if 350 <= step < 400 else {})}
        rows.append(forecast(step, "edge" if danger else "stable", **fields))
    alarm = {
        "step": 350,
        "level": "watch",
        "reason": "stability ratio 0.94, edge, unstable in about 50 steps",
    }
    rows.append(("alarm", alarm | {"forecast": forecast(350, "edge", probability=0.8)[1]}))
    blocks = [{"name": "0", "share": 0.7, "size": 80}, {"name": "2", "share": 0.3, "size": 20}]
    rows += [("curvature", {"step": s, "stability_ratio": 0.6, "blocks": blocks}) for s in (0, 300, 600)]
    rows.append(("event", {"step": 5, "name": "backend", "message": "double backward"}))
    return rows


def settle(run: LiveRun) -> None:
    """Let a run take what its log has by now."""
    while run.look():
        pass
    while run.scan():
        pass


def pause(seconds: float) -> None:
    """Let something be slower than what waits for it."""
    time.sleep(seconds)


def until(true: Callable[[], object], *, seconds: float = 60.0) -> None:
    """Wait until something is true, however slow the machine is."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)
