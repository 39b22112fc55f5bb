r"""Measurements of the noisy curvature, one by one → the mean-square ratio, whose edge is one.

Each measurement has a ratio of its own,

.. math:: \text{MSS}_i = μ_i + n\,\frac{σ_i^2}{μ_i},

and their distribution has a heavy tail: a batch with a rare example curves many times more. The mean of a
few would be that of the last such batch. Their *geometric* mean over the last five is used: one outlier in
five moves it by a fifth of its logarithm, and a spike that is over is forgotten after five measurements,
where an exponential average of μ and σ² remembers it for hundreds of steps.

Batches drawn from few examples differ less than independent ones: among N without replacement, the variance
of the mean of B is smaller by (N − B)/(N − 1).
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

_KEPT = 5
_FEWEST = 3


@dataclass(frozen=True)
class MeanSquare:
    """The mean-square ratio as far as it is known.

    Attributes:
        ratio: Geometric mean of the last measurements; NaN if fewer than three of the last five were
            usable, which is to say: it can't be told.
        mean: μ in the same sense: what of the ratio is curvature, the rest being noise.
        count: Usable measurements among the last five.
    """

    ratio: float
    mean: float
    count: int


class NoiseTracker:
    """Take measurements one by one.

    Example:
        >>> tracker = NoiseTracker()
        >>> for _ in range(3):
        ...     known = tracker.update(mean=0.1, variance=0.001, noise_factor=19.0)
        >>> round(known.ratio, 3), known.count
        (0.29, 3)
    """

    def __init__(self) -> None:
        self._measured: deque[tuple[float, float]] = deque(maxlen=_KEPT)

    def update(self, *, mean: float, variance: float, noise_factor: float) -> MeanSquare:
        """Take one measurement and return what is known now.

        Args:
            mean: μ along the direction, in multiples of the full-batch edge. Where it is not positive the
                ratio is undefined, and the measurement counts as unusable.
            variance: σ² ≥ 0 between batches.
            noise_factor: n/c of the optimizer's recursion.
        """
        ratio = mean + noise_factor * variance / mean if mean > 0 else math.nan
        self._measured.append((ratio, mean))
        return self.known()

    def known(self) -> MeanSquare:
        """Return what is known from the measurements so far."""
        usable = [(ratio, mean) for ratio, mean in self._measured if 0 < ratio < math.inf]
        if len(usable) < _FEWEST:
            return MeanSquare(math.nan, math.nan, len(usable))
        ratios, means = zip(*usable, strict=True)
        return MeanSquare(_geometric_mean(ratios), _geometric_mean(means), len(usable))

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed tracker needs, as plain values."""
        return {"measured": [list(one) for one in self._measured]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._measured.clear()
        self._measured.extend((float(ratio), float(mean)) for ratio, mean in state["measured"])


def _geometric_mean(values: tuple[float, ...]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))
