"""A forecast of curvature alone → one that knows what noise, and the memory of v, make of it."""

from __future__ import annotations

import math
from dataclasses import replace

from foreshock.forecast.noise import FEWEST_TYPICAL, NoiseAverage
from foreshock.forecast.record import Forecast, State

# The edge of the *typical* mean-square ratio, which lies below the ratio that theory puts at one: the noise
# has a heavy tail. Both were chosen on the development runs of SpikeBench, where .5 to .7 and 1.5 to 2 serve
# alike; at a lag of 2.5 tall spikes are missed.
NOISY_EDGE = 0.6
LAGGING = 2.0


def judge_noise(forecast: Forecast, noise: NoiseAverage, *, step: int, lag: float) -> Forecast:
    """Return the forecast where batches differ and their noise was measured.

    Args:
        forecast: As the curvature has it. Its times are dropped: noise leaves no date.
        noise: The measurements of the noise so far.
        step: Step number.
        lag: v above g².
    """
    nan = math.nan
    timeless = replace(
        forecast,
        step=step,
        stability_ratio=nan if step > forecast.step else forecast.stability_ratio,
        steps_to_instability=nan,
        interval_low=nan,
        interval_high=nan,
        growth_rate=nan,
        mean_square_ratio=noise.ratio,
        typical_mean_square_ratio=noise.typical_ratio,
        steps_to_spike=nan,
        severity=nan,
        cause_hint="",
    )
    if math.isnan(noise.typical_ratio):
        basis = f"{noise.usable} of {FEWEST_TYPICAL} usable measurements of the noise of mini-batches"
        return replace(timeless, state="unknown", basis=basis)
    state, words = _noisy_state(noise.typical_ratio, lag)
    basis = f"{words}; {noise.curvature_share:.0%} of the mean-square ratio is curvature, the rest its noise"
    return replace(timeless, state=state, basis=basis)


def qualified(forecast: Forecast, *, constant: bool | None) -> Forecast:
    """Return the forecast of a single batch with what batch noise leaves of it."""
    why = (
        "it can't be told whether every step sees the same data"
        if constant is None
        else "batches differ, so 2/η of one batch is not the edge: noise can destabilise below it"
    )
    # A single batch overestimates λ_max of the data: an alarm may be false, calm proves nothing.
    state = forecast.state if forecast.announces else "unknown"
    return replace(forecast, state=state, basis=f"{forecast.basis}; {why}")


def damped(forecast: Forecast, height: float) -> Forecast:
    """Return the forecast of an edge past which nothing visible is expected.

    Args:
        forecast: The forecast.
        height: The highest loss expected, as a multiple of its level.
    """
    why = f"v follows g²: a rise of the loss to {height:.2f} × is all that is expected past the edge"
    return replace(forecast, state="rising", basis=f"{forecast.basis}; {why}")


def cause_hint(growth_rate: float, beta2: float) -> str:
    """Say how much of the rise pure decay of v would make: at most −½ ln β₂ a step."""
    if not growth_rate > 0:
        return ""
    decay = -0.5 * math.log(beta2)
    if growth_rate <= 1.5 * decay:
        return "no faster than v decays: the preconditioner may explain the rise"
    return f"{growth_rate / decay:.1f} × as fast as v can decay: landscape or schedule drive the rise"


def _noisy_state(ratio: float, lag: float) -> tuple[State, str]:
    if ratio < NOISY_EDGE:
        return "stable", "below the edge of mini-batches"
    if lag > LAGGING:
        return "armed", f"past the edge of mini-batches, and v is {lag:.1f} × g²"
    follows = "v follows g²" if lag <= LAGGING else "there is no second moment to lag"
    return "rising", f"past the edge of mini-batches, but {follows}: what grows is damped at once"
