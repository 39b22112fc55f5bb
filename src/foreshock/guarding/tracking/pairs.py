r"""The mean-square ratio from pairs of half-batch gradients, measured now and then.

.. math:: \text{MSS} = μ + \frac{n}{c}\,\frac{σ^2}{μ}

in the units of `foreshock.curvature.noise`, where μ is a multiple of the full-batch edge and n/c is 1/c for
Adam. Mean and variance are averaged over about eight pairs, each on its own: the quotient of one pair has a
heavy tail.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_MEMORY = 8
_FEWEST = 5


class PairAverage:
    """Take pairs one by one.

    Example:
        >>> average = PairAverage()
        >>> for _ in range(5):
        ...     average.update(mean=0.1, variance=0.001, noise_factor=19.0)
        >>> round(average.ratio, 6)
        0.29
        >>> average.lowered(1.1)
        >>> round(average.ratio * 1.1, 6)
        0.29
    """

    def __init__(self) -> None:
        self._mean = self._variance = self._noise_factor = math.nan
        self.count = 0

    def update(self, *, mean: float, variance: float, noise_factor: float) -> None:
        """Take one pair into account; one that is not finite is passed over.

        Args:
            mean: μ of the pair.
            variance: σ² of the pair.
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
        """MSS; NaN before the fifth pair and where the mean curvature is not positive."""
        if self.count < _FEWEST or not self._mean > 0:
            return math.nan
        return self._mean + self._noise_factor * self._variance / self._mean

    def lowered(self, factor: float) -> None:
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
