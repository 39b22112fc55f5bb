"""What a forecast says."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from foreshock.representation import short_repr

State = Literal["unknown", "stable", "rising", "edge", "armed", "spike", "recovery"]


@dataclass(frozen=True)
class Forecast:
    """What is known about the next instability after one reading.

    Attributes:
        step: Step of the reading.
        stability_ratio: λ_max(Ĥ)·η/2 at that step; NaN if none was measured yet.
        steps_to_instability: Steps until the ratio reaches one; 0 at or above it, infinity if it does
            not rise, NaN if it can't be told.
        interval_low: Lower end of the 80 % interval of `steps_to_instability`.
        interval_high: Upper end; infinity if the rise itself is in doubt.
        growth_rate: Fitted growth of ln(ratio) a step; NaN if it can't be told.
        state: ``armed`` at or above one; ``edge`` if one is reached within the horizon; ``rising`` if the
            ratio surely grows, or reaches one where no visible rise of the loss is expected of it;
            ``recovery`` after a sudden fall, until there are enough new readings; ``spike`` while the loss
            has left its level; ``stable`` otherwise; ``unknown`` if it can't be told – which does not mean
            safe. Where batches differ, ``armed``: past the edge of `typical_mean_square_ratio` while v lags;
            ``rising``: past it while v follows g².
        basis: In words, what the forecast rests on, or what it lacks.
        mean_square_ratio: Stability ratio under the noise of mini-batches, in the mean square; one is the
            edge, as for `stability_ratio`. NaN before the fifth measurement. The guard's is the same.
        typical_mean_square_ratio: Geometric mean of its last five single measurements, by which the state is
            judged; its edge is .6, because single measurements have a heavy tail. NaN if unknown.
        lag: v above g²: the largest Σv̂ over the mean ‖g‖² of 30 steps, of the last 50 steps; about one
            while v follows g², and NaN if unknown.
        reverse_lag: g² above v: the root mean square of g/√v̂ over coordinates, per step; about one while v
            follows g², and NaN if unknown.
        steps_to_spike: Steps until the loss is expected to leave its level; infinity if none is expected,
            NaN if it can't be told.
        severity: Expected peak of the loss in the next spike, as a multiple of its level before; NaN if it
            can't be told.
        stage: Where in the cycle of a spike the run is, one of `foreshock.dynamics.Stage`; empty if unknown.
        cause_hint: In words, what drives the ratio; empty if unknown. A hint: only a test with one part
            frozen tells for sure.
    """

    step: int
    stability_ratio: float
    steps_to_instability: float
    interval_low: float
    interval_high: float
    growth_rate: float
    state: State
    basis: str
    mean_square_ratio: float = math.nan
    typical_mean_square_ratio: float = math.nan
    lag: float = math.nan
    reverse_lag: float = math.nan
    steps_to_spike: float = math.nan
    severity: float = math.nan
    stage: str = ""
    cause_hint: str = ""

    __repr__ = short_repr

    @property
    def announces(self) -> bool:
        """Whether an instability is present or forecast within the horizon."""
        return self.state in ("edge", "armed", "spike")

    def at(self, step: int) -> Forecast:
        """Return the same forecast, its times counted from a later step.

        Args:
            step: Where to count from.
        """
        passed = step - self.step
        times = (self.steps_to_instability, self.interval_low, self.interval_high, self.steps_to_spike)
        ahead, low, high, spike = (t if math.isnan(t) else max(t - passed, 0.0) for t in times)
        return replace(
            self,
            steps_to_instability=ahead,
            interval_low=low,
            interval_high=high,
            steps_to_spike=spike,
        )

    def __str__(self) -> str:
        """Return one line for people."""
        if math.isfinite(self.typical_mean_square_ratio):
            ratio = self.typical_mean_square_ratio
            return f"typical mean-square ratio {ratio:.2f}, {self.state}: {self.basis}"
        if not math.isfinite(self.stability_ratio):
            return f"no forecast: {self.basis}"
        text = f"stability ratio {self.stability_ratio:.3f}, {self.state}"
        if math.isfinite(self.steps_to_instability) and self.steps_to_instability > 0:
            high = "∞" if math.isinf(self.interval_high) else f"{self.interval_high:.0f}"
            text += f", unstable in about {self.steps_to_instability:.0f} steps"
            text += f" ({self.interval_low:.0f}–{high})"
        return text


def unknown(step: int, basis: str, *, stability_ratio: float = math.nan) -> Forecast:
    """Return the forecast that says that it can't tell, and why.

    Args:
        step: Step it is made at.
        basis: What is missing.
        stability_ratio: The last measured ratio, if there is one.
    """
    nan = math.nan
    return Forecast(step, stability_ratio, nan, nan, nan, nan, "unknown", basis)
