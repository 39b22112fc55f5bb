r"""The noise of mini-batches: measurements → the mean-square ratio → the state of a run, and when to measure.

The mean-square ratio is the edge of stability under a random curvature; one is the edge:

.. math:: \text{MSS} = μ + \frac{n}{c}\,\frac{σ^2}{μ}

in the units of `foreshock.curvature.NoiseReading`, where μ is a multiple of the full-batch edge and n/c is
1/c for Adam. Single measurements have a heavy tail, because a batch with a rare example curves many times
more. `NoiseAverage` makes two statistics of them, which serve the guard and the forecast alike:

- the *ratio of the averages*, μ and σ² each averaged over about eight measurements: what theory puts at one;
- the *typical ratio*, the geometric mean of the last five single ratios: one outlier in five moves it by a
  fifth of its logarithm. It lies below the former. On the development runs of SpikeBench it announces as many
  spikes with fewer steps armed, most of all on those that are like language models.

Batches drawn from few examples differ less than independent ones: among N without replacement, the variance
of the mean of B is smaller by (N − B)/(N − 1); see `foreshock.dynamics.population_factor`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from foreshock.forecast.record import NOISY_EDGE, Forecast, State
from foreshock.representation import changed

NOISE_INTERVAL = 10
"""Steps between two measurements of the noise while v lags, unless the user says otherwise."""

FEWEST_TYPICAL = 3
"""Usable measurements among the last five before the typical ratio is given."""

SETTLED = 100
"""Updates before v averages enough gradients for what rests on its size to mean anything."""

_FEWEST = 5

# Chosen on the development runs of SpikeBench, where 1.5 to 2 serve alike; at 2.5 tall spikes are missed.
LAGGING = 2.0

_MEMORY = 8
_LAST = 5
_RELAXED = 5
_WORTH_MEASURING = 1.5  # lag; a run counts as armed from 2, and the average should be known by then
# Mean-square ratios, and the factor on the steps between two measurements below the second. On 41 trainings
# in mini-batches one of 227 averages below .3 was above .9 five measurements later, and two of 351 below .5
# were so two measurements later.
_FAR, _NOT_NEAR, _DISTANT = 0.3, 0.5, 2


def noise_interval(lag: float, *, every: int = NOISE_INTERVAL, ratio: float = math.nan) -> int:
    """Return the steps between two measurements of the noise: noise destabilises only while v lags.

    Args:
        lag: v above g², see `foreshock.dynamics.LagWindow`; NaN if unknown.
        every: Steps while v lags and the ratio is near, ≥ 1; five times as many while v follows g².
        ratio: Mean-square ratio so far over that from which it matters: below .3 there are five times as many
            steps as well, and twice as many below .5. NaN if unknown.

    Example:
        >>> noise_interval(3.0), noise_interval(1.0), noise_interval(float("nan"))
        (10, 50, 50)
        >>> noise_interval(3.0, ratio=0.2), noise_interval(3.0, ratio=0.4), noise_interval(3.0, ratio=0.9)
        (50, 20, 10)
    """
    if not lag > _WORTH_MEASURING or ratio < _FAR:
        return _RELAXED * every
    return _DISTANT * every if ratio < _NOT_NEAR else every


class NoiseAverage:
    """Take measurements of the noise one by one.

    Attributes:
        count: Finite measurements so far, of a v that had settled.

    Example:
        >>> average = NoiseAverage()
        >>> for _ in range(5):
        ...     average.update(mean=0.1, variance=0.001, noise_factor=19.0)
        >>> round(average.ratio, 6), round(average.typical_ratio, 6)
        (0.29, 0.29)
        >>> average.lower(1.1)
        >>> round(average.ratio * 1.1, 6)
        0.29
    """

    def __init__(self) -> None:
        self._mean = self._variance = self._noise_factor = math.nan
        self._last: deque[tuple[float, float]] = deque(maxlen=_LAST)  # single ratios and their means
        self._typical = math.nan, math.nan  # of these, see `_typical_of`: asked for at each step
        self.count = 0

    def update(self, *, mean: float, variance: float, noise_factor: float, settled: bool = True) -> None:
        """Take one measurement into account; one that is not finite is skipped.

        Args:
            mean: μ along the direction, in multiples of the full-batch edge.
            variance: σ² ≥ 0 between batches, in the same units.
            noise_factor: n/c of the optimizer's recursion.
            settled: Whether v averages enough gradients to be judged. What was measured before counts for the
                typical ratio alone: the averages of the other would be of that time for long.
        """
        single = mean + noise_factor * variance / mean if mean > 0 else math.nan
        self._last.append((single, mean))
        self._typical = _typical_of(self._last)
        if not (settled and math.isfinite(mean) and math.isfinite(variance)):
            return
        self.count += 1
        if self.count == 1:
            self._mean, self._variance = mean, variance
        self._mean += (mean - self._mean) / _MEMORY
        self._variance += (variance - self._variance) / _MEMORY
        self._noise_factor = noise_factor

    @property
    def ratio(self) -> float:
        """The mean-square ratio; NaN before the fifth measurement and where the mean is not positive."""
        if self.count < _FEWEST or not self._mean > 0:
            return math.nan
        return self._mean + self._noise_factor * self._variance / self._mean

    @property
    def typical_ratio(self) -> float:
        """Geometric mean of the last five single ratios; NaN if fewer than three of them are usable."""
        return self._typical[0]

    @property
    def curvature_share(self) -> float:
        """What of the typical ratio is mean curvature, in (0, 1], the rest being noise; NaN if unknown."""
        return self._typical[1] / self._typical[0]

    @property
    def usable(self) -> int:
        """How many of the last five measurements have a positive mean curvature, hence a ratio."""
        return len(_usable(self._last))

    def lower(self, factor: float) -> None:
        """Take into account that √v was multiplied: μ falls by the factor, σ² by its square.

        Args:
            factor: By how much, ≥ 1.
        """
        self._mean /= factor
        self._variance /= factor**2
        ratios = [(ratio / factor, mean / factor) for ratio, mean in self._last]
        self._last = deque(ratios, maxlen=_LAST)
        self._typical = _typical_of(self._last)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed average needs, as plain values."""
        return {
            "mean": self._mean,
            "variance": self._variance,
            "noise_factor": self._noise_factor,
            "last": [list(one) for one in self._last],
            "count": self.count,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._mean, self._variance = float(state["mean"]), float(state["variance"])
        self._noise_factor, self.count = float(state["noise_factor"]), int(state["count"])
        self._last = deque(((float(r), float(m)) for r, m in state["last"]), maxlen=_LAST)
        self._typical = _typical_of(self._last)


def _usable(measurements: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    return [one for one in measurements if 0 < one[0] < math.inf]


def _typical_of(measurements: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Return the geometric means of the usable ratios and of their means; NaN of fewer than three."""
    usable = _usable(measurements)
    if len(usable) < FEWEST_TYPICAL:
        return math.nan, math.nan
    ratio, mean = (math.fsum(map(math.log, column)) / len(usable) for column in zip(*usable, strict=True))
    return math.exp(ratio), math.exp(mean)


def judge_noise(forecast: Forecast, noise: NoiseAverage, *, step: int, lag: float) -> Forecast:
    """Return the forecast where batches differ and their noise was measured.

    Args:
        forecast: The forecast from the curvature. Its times are dropped: noise leaves no date.
        noise: The measurements of the noise so far.
        step: Step number.
        lag: v above g².
    """
    nan = math.nan
    typical = noise.typical_ratio
    if math.isnan(typical):
        state: State = "unknown"
        basis = f"{noise.usable} of {FEWEST_TYPICAL} usable measurements of the noise of mini-batches"
    else:
        state, words = _noisy_state(typical, lag)
        basis = (
            f"{words}; {noise.curvature_share:.0%} of the mean-square ratio is curvature, the rest its noise"
        )
    return changed(
        forecast,
        step=step,
        stability_ratio=forecast.stability_ratio if forecast.measured == step else nan,
        steps_to_instability=nan,
        interval_low=nan,
        interval_high=nan,
        growth_rate=nan,
        mean_square_ratio=noise.ratio,
        typical_mean_square_ratio=typical,
        steps_to_spike=nan,
        severity=nan,
        cause_hint="",
        state=state,
        basis=basis,
    )


def _noisy_state(ratio: float, lag: float) -> tuple[State, str]:
    if ratio < NOISY_EDGE:
        return "stable", "below the edge of mini-batches"
    if lag > LAGGING:
        return "armed", f"past the edge of mini-batches, and v is {lag:.1f} × g²"
    follows = "v follows g²" if lag <= LAGGING else "there is no second moment to lag"
    return "rising", f"past the edge of mini-batches, but {follows}: what grows is damped at once"
