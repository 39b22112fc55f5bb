r"""The noise of mini-batches: single measurements → the mean-square ratio, and when to measure again.

The mean-square ratio is the edge of stability under a random curvature; one is the edge:

.. math:: \text{MSS} = μ + \frac{n}{c}\,\frac{σ^2}{μ}

in the units of `foreshock.curvature.NoiseReading`, where μ is a multiple of the full-batch edge and n/c is
1/c for Adam. Mean and variance are averaged over about eight measurements, each on its own: the quotient of
one measurement has a heavy tail, because a batch with a rare example curves many times more.

Batches drawn from few examples differ less than independent ones: among N without replacement, the variance
of the mean of B is smaller by (N − B)/(N − 1); see `foreshock.dynamics.population_factor`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

NOISE_INTERVAL = 10
"""Steps between two measurements of the noise while v lags, unless the user says otherwise."""

FEWEST = 5
"""Measurements before the ratio is given."""

_MEMORY = 8
_RELAXED = 5
_WORTH_MEASURING = 1.5  # lag; a run counts as armed from 2, and the average should be known by then


def noise_interval(lag: float, *, every: int = NOISE_INTERVAL) -> int:
    """Return the steps between two measurements of the noise: noise destabilises only while v lags.

    Args:
        lag: v above g², see `foreshock.dynamics.LagWindow`; NaN if unknown.
        every: Steps while v lags, ≥ 1; five times as many otherwise.

    Example:
        >>> noise_interval(3.0), noise_interval(1.0), noise_interval(float("nan"))
        (10, 50, 50)
    """
    return every if lag > _WORTH_MEASURING else _RELAXED * every


class MeanSquareAverage:
    """Take measurements one by one; the same estimator serves the forecast and the guard.

    Attributes:
        count: Finite measurements so far.

    Example:
        >>> average = MeanSquareAverage()
        >>> for _ in range(5):
        ...     average.update(mean=0.1, variance=0.001, noise_factor=19.0)
        >>> round(average.ratio, 6)
        0.29
        >>> average.lower(1.1)
        >>> round(average.ratio * 1.1, 6)
        0.29
    """

    def __init__(self) -> None:
        self._mean = self._variance = self._noise_factor = math.nan
        self.count = 0

    def update(self, *, mean: float, variance: float, noise_factor: float) -> None:
        """Take one measurement into account; one that is not finite is passed over.

        Args:
            mean: μ along the direction, in multiples of the full-batch edge.
            variance: σ² ≥ 0 between batches, in the same units.
            noise_factor: n/c of the optimizer's recursion.
        """
        if not (math.isfinite(mean) and math.isfinite(variance)):
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
        if self.count < FEWEST or not self._mean > 0:
            return math.nan
        return self._mean + self._noise_factor * self._variance / self._mean

    @property
    def curvature_share(self) -> float:
        """What of the ratio is mean curvature, in (0, 1], the rest being noise; NaN where it has no value."""
        return self._mean / self.ratio

    def lower(self, factor: float) -> None:
        """Take into account that √v was multiplied: μ falls by the factor, σ² by its square.

        Args:
            factor: By how much, ≥ 1.
        """
        self._mean /= factor
        self._variance /= factor**2

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed average needs, as plain values."""
        return {
            "mean": self._mean,
            "variance": self._variance,
            "noise_factor": self._noise_factor,
            "count": self.count,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._mean, self._variance = float(state["mean"]), float(state["variance"])
        self._noise_factor, self.count = float(state["noise_factor"]), int(state["count"])
