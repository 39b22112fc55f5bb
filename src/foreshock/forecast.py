r"""Readings of the stability ratio → when it will reach one.

Between spikes the logarithm of the ratio is nearly a straight line: v decays as β₂ᵗ, which alone gives
a slope of −½ ln β₂ a step, and the landscape and the schedule add theirs. The forecast fits that line
to the recent readings and extends it to zero. Its error has three parts, the uncertainty of the line, the
wandering of the ratio about any line, and the wandering of the slope itself, both random walks whose size
is read off the same readings:

.. math:: \operatorname{Var} x(k) = \operatorname{Var}(a + bk) + q k + q' k^3/3, \qquad x = \ln(\text{ratio})

The 80 % interval runs from the first k at which the upper limit of x(k) reaches zero to the first at
which the lower limit does. A forecast never sees the model or the loss.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

State = Literal["unknown", "stable", "rising", "edge", "armed", "recovery"]

_NORMAL_90 = 1.2815515655446004  # two-sided 80 %
_FURTHEST = 1e5  # steps; no straight line of some hundred readings is worth more
_AHEAD = np.concatenate(([0.0], np.geomspace(0.5, _FURTHEST, 600)))


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
            ratio surely grows; ``recovery`` after a sudden fall, until there are enough new readings;
            ``stable`` otherwise; ``unknown`` if it can't be told – which does not mean safe.
        basis: In words, what the forecast rests on, or what it lacks.
    """

    step: int
    stability_ratio: float
    steps_to_instability: float
    interval_low: float
    interval_high: float
    growth_rate: float
    state: State
    basis: str

    @property
    def announces(self) -> bool:
        """Whether an instability is present or forecast within the horizon."""
        return self.state in ("edge", "armed")

    def at(self, step: int) -> Forecast:
        """Return the same forecast, its times counted from a later step.

        Args:
            step: Where to count from.
        """
        passed = step - self.step
        times = (self.steps_to_instability, self.interval_low, self.interval_high)
        ahead, low, high = (t if math.isnan(t) else max(t - passed, 0.0) for t in times)
        return replace(self, steps_to_instability=ahead, interval_low=low, interval_high=high)

    def __str__(self) -> str:
        """Return one line for people."""
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


class Forecaster:
    """Fit ln(ratio) against the step over the recent readings; extend it to the threshold.

    Readings count less as they age, by exp(−age/`memory`). A reading that falls below what the two before it
    lead to, by more than `drop` and by more than the usual scatter, starts the line anew: a spike has lifted
    v, the old line is void.

    Args:
        horizon: An instability forecast within this many steps makes the state ``edge``, > 0.
        memory: Time constant of the weights, in steps, > 0; at least two readings' spacing is used.
        fewest: A line needs this many readings, ≥ 3.
        drop: Fall of ln(ratio) that voids the line, > 0.

    Raises:
        ValueError: If an argument lies outside its interval.

    Example:
        >>> forecaster = Forecaster()
        >>> for step in range(0, 100, 5):
        ...     ratio = 0.9 * 1.0005**step
        ...     forecast = forecaster.update(step, ratio, learning_rate=1e-3)
        >>> forecast.state, round(forecast.steps_to_instability)
        ('rising', 116)
    """

    def __init__(
        self, *, horizon: float = 100, memory: float = 30, fewest: int = 5, drop: float = 0.02
    ) -> None:
        if not horizon > 0 or not memory > 0:
            raise ValueError(f"horizon {horizon!r} and memory {memory!r} must be positive steps")
        if not fewest >= 3:
            raise ValueError(f"fewest is {fewest!r}; a line and its error need at least 3 readings")
        if not drop > 0:
            raise ValueError(f"drop is {drop!r}; it must be positive")
        self.horizon = horizon
        self.memory = memory
        self.fewest = fewest
        self.drop = drop
        self._readings: deque[_Reading] = deque(maxlen=64)
        self._surprises: deque[float] = deque(maxlen=16)
        self._fell = False

    def update(
        self, step: int, ratio: float, *, learning_rate: float, relative_error: float = 0.0
    ) -> Forecast:
        """Take one reading and return the forecast.

        Args:
            step: Step of the reading; must exceed the last one's.
            ratio: Stability ratio, λ_max(Ĥ)·η/2.
            learning_rate: η of that step. A change of η scales the ratio at once; earlier readings are
                converted to the present η.
            relative_error: Bound on the relative error of `ratio`, 0 if exact.

        Raises:
            ValueError: If `step` does not increase.
        """
        if self._readings and step <= self._readings[-1].step:
            last = self._readings[-1].step
            raise ValueError(f"step {step} follows step {last}; steps must increase")
        if not (math.isfinite(ratio) and learning_rate > 0):
            return unknown(step, "no finite stability ratio was measured")
        if ratio <= 0:
            return unknown(step, "the curvature is nowhere positive", stability_ratio=ratio)
        reading = _Reading(step, math.log(ratio / learning_rate), relative_error)
        if self._is_void(reading):
            self._readings.clear()
            self._fell = True
        self._readings.append(reading)
        if len(self._readings) < self.fewest:
            return self._too_few(step, ratio)
        self._fell = False
        return self._extend(step, ratio, math.log(learning_rate))

    def state_dict(self) -> dict[str, Any]:
        """Return the readings, as plain values."""
        return {
            "readings": [[r.step, r.log_curvature, r.error] for r in self._readings],
            "surprises": list(self._surprises),
            "fell": self._fell,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()` of another forecaster."""
        self._readings.clear()
        self._readings.extend(_Reading(int(s), float(x), float(e)) for s, x, e in state["readings"])
        self._surprises.clear()
        self._surprises.extend(state["surprises"])
        self._fell = bool(state["fell"])

    def _is_void(self, reading: _Reading) -> bool:
        if not self._readings:
            return False
        last = self._readings[-1]
        expected = last.log_curvature
        if len(self._readings) > 1:
            before = self._readings[-2]
            slope = (last.log_curvature - before.log_curvature) / (last.step - before.step)
            expected += slope * (reading.step - last.step)
        surprise = reading.log_curvature - expected
        usual = float(np.median(self._surprises)) if self._surprises else 0.0
        self._surprises.append(abs(surprise))
        return surprise < -max(self.drop, 4 * usual)

    def _too_few(self, step: int, ratio: float) -> Forecast:
        basis = f"{len(self._readings)} of {self.fewest} readings for a line"
        nan = math.nan
        if ratio >= 1:
            return Forecast(step, ratio, 0.0, 0.0, 0.0, nan, "armed", basis)
        state: State = "recovery" if self._fell else "unknown"
        return Forecast(step, ratio, nan, nan, nan, nan, state, basis)

    def _extend(self, step: int, ratio: float, log_rate: float) -> Forecast:
        steps = np.array([reading.step for reading in self._readings], dtype=np.float64)
        logs = np.array([reading.log_curvature for reading in self._readings], dtype=np.float64)
        errors = np.array([reading.error for reading in self._readings], dtype=np.float64)
        line = _Line.fit(steps - step, logs + log_rate, errors, self.memory)
        basis = f"line through {len(steps)} readings of {step - int(steps[0])} steps"
        if ratio >= 1:
            return Forecast(step, ratio, 0.0, 0.0, 0.0, line.slope, "armed", basis)
        middle = line.value + line.slope * _AHEAD
        deviation = line.deviation(_AHEAD)
        expected = max(-line.value / line.slope, 0.0) if line.slope > 0 else math.inf
        expected = expected if expected <= _FURTHEST else math.inf
        low = min(_first_reach(middle + deviation), expected)
        high = max(_first_reach(middle - deviation), expected)
        if expected <= self.horizon:
            state: State = "edge"
        else:
            state = "rising" if line.slope > line.slope_deviation else "stable"
        return Forecast(step, ratio, expected, low, high, line.slope, state, basis)


@dataclass(frozen=True)
class _Reading:
    step: int
    log_curvature: float  # ln(ratio/η)
    error: float


@dataclass(frozen=True)
class _Line:
    """Weighted least squares line x = value + slope·k through readings at k ≤ 0."""

    value: float
    slope: float
    covariance: NDArray[np.float64]
    walk: float
    bend: float
    quantile: float

    @classmethod
    def fit(
        cls,
        k: NDArray[np.float64],
        x: NDArray[np.float64],
        errors: NDArray[np.float64],
        memory: float,
    ) -> _Line:
        gaps = np.diff(k)
        memory = max(memory, 2 * float(np.median(gaps)))
        weights = np.exp(k / memory)
        design = np.stack([np.ones_like(k), k], axis=1)
        inverse = np.linalg.inv(design.T @ (weights[:, None] * design))
        value, slope = inverse @ (design.T @ (weights * x))
        residuals = x - design @ (value, slope)
        count = float(weights.sum() ** 2 / (weights**2).sum())
        freedom = max(count - 2, 1.0)
        mean_square = float(weights @ residuals**2 / weights.sum()) * count / freedom
        scatter = max(mean_square, float(np.mean(errors**2)), 1e-12)
        spread = design.T @ (weights[:, None] ** 2 * design)
        covariance = np.asarray(scatter * inverse @ spread @ inverse, dtype=np.float64)
        # White scatter of variance s moves each difference by 2s without any wandering.
        moves = np.diff(x) - slope * gaps
        walk = max(float(moves @ moves) - 2 * scatter * len(gaps), 0.0) / float(gaps.sum())
        # The slope changed by 2·(quadratic coefficient)·memory in the last `memory` steps.
        root = np.sqrt(weights)
        quadratic = np.linalg.lstsq(
            root[:, None] * np.stack([np.ones_like(k), k, k * k], axis=1), root * x, rcond=None
        )[0][2]
        bend = float(2 * quadratic) ** 2 * memory
        return cls(float(value), float(slope), covariance, walk, bend, _student_90(freedom))

    @property
    def slope_deviation(self) -> float:
        return self.quantile * math.sqrt(self.covariance[1, 1])

    def deviation(self, k: NDArray[np.float64]) -> NDArray[np.float64]:
        line = self.covariance[0, 0] + 2 * k * self.covariance[0, 1] + k * k * self.covariance[1, 1]
        wandering = self.walk * k + self.bend * k**3 / 3
        return np.asarray(self.quantile * np.sqrt(line + wandering), dtype=np.float64)


def _first_reach(x: NDArray[np.float64]) -> float:
    reached = np.flatnonzero(x >= 0)
    return float(_AHEAD[reached[0]]) if reached.size else math.inf


def _student_90(freedom: float) -> float:
    """Return the 90 % quantile of Student's t (Cornish–Fisher to 1/ν², within 2 % from ν = 2)."""
    z = _NORMAL_90
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / freedom + second / freedom**2
