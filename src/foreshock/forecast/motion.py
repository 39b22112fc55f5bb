r"""How ln(ratio) moves: a level, a slope that lasts and a slope that passes, under several regimes of noise.

With x the logarithm, b the lasting slope and s the passing one, between two readings Δ steps apart

.. math:: x \leftarrow x + bΔ + sτ(1 - e^{-Δ/τ}), \qquad s \leftarrow s e^{-Δ/τ}.

While v decays b is near −½ ln β₂ plus the growth of the landscape. After a spike has lifted v the logarithm
first falls, then turns: that is s, forgotten within some τ steps, while b is as before. A regime says by how
much x, s and b wander besides; which one holds is found out from the readings.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Regimes:
    """Settings of n regimes, each of shape (n,).

    Attributes:
        scatter: Standard deviation of a reading of ln(ratio) besides its own error.
        walk: Random walk of the level: standard deviation after one step.
        relaxation: τ, in steps.
        turmoil: Stationary standard deviation of the passing slope, a step.
        drift: Wandering of the lasting slope in 100 steps, as a share of it.
    """

    scatter: Array
    walk: Array
    relaxation: Array
    turmoil: Array
    drift: Array

    @classmethod
    def standard(cls) -> Regimes:
        """Return regimes that cover what runs do, from an exact line to the middle of a spike."""
        passing = [(10.0, 1e-5), (40.0, 1e-4), (20.0, 1e-3), (10.0, 1e-2), (150.0, 1e-3), (150.0, 5e-3)]
        grid = itertools.product((1e-4, 1e-3, 1e-2), (1e-6, 1e-3), passing, (0.1, 1.0))
        rows = np.array([(r, q, tau, turmoil, drift) for r, q, (tau, turmoil), drift in grid])
        return cls(*np.ascontiguousarray(rows.T))

    def __len__(self) -> int:
        """Return their number."""
        return len(self.scatter)

    def transition(self, gap: float) -> Array:
        """Return the matrices F of (x, s, b) → (x, s, b) after `gap` steps, of shape (n, 3, 3)."""
        decay = np.exp(-gap / self.relaxation)
        matrices = np.zeros((len(self), 3, 3))
        matrices[:, 0, 0] = matrices[:, 2, 2] = 1.0
        matrices[:, 0, 1] = self.relaxation * (1 - decay)
        matrices[:, 0, 2] = gap
        matrices[:, 1, 1] = decay
        return matrices

    def noise(self, gap: float, slope: float) -> Array:
        """Return the covariances of what (x, s, b) wander in `gap` steps, of shape (n, 3, 3).

        Args:
            gap: Steps.
            slope: The present lasting slope, of which `drift` is a share.
        """
        decay = np.exp(-gap / self.relaxation)
        bend = self._bend(slope)
        matrices = np.zeros((len(self), 3, 3))
        matrices[:, 0, 0] = self.level_variance(np.array([gap]), slope)[:, 0]
        matrices[:, 0, 1] = matrices[:, 1, 0] = self.turmoil**2 * self.relaxation * (1 - decay) ** 2
        matrices[:, 1, 1] = self.turmoil**2 * (1 - decay**2)
        matrices[:, 0, 2] = matrices[:, 2, 0] = bend * gap**2 / 2
        matrices[:, 2, 2] = bend * gap
        return matrices

    def level_variance(self, gaps: Array, slope: float) -> Array:
        """Return the variance of what x wanders in each of the gaps (m,), of shape (n, m).

        Args:
            gaps: Steps.
            slope: The present lasting slope, of which `drift` is a share.
        """
        return _level_variance(self._turmoil(gaps), self._walk(gaps), self._bend(slope), gaps**3)

    def ahead(self, gaps: Array) -> Ahead:
        """Return what holds of the steps after each of the gaps (m,) whatever the readings are."""
        passing = self.relaxation[:, None] * -np.expm1(-gaps / self.relaxation[:, None])
        loadings = np.stack([np.ones_like(passing), passing, np.broadcast_to(gaps, passing.shape)], axis=1)
        return Ahead(gaps, gaps**3, loadings, self._turmoil(gaps), self._walk(gaps), self.drift)

    def _turmoil(self, gaps: Array) -> Array:
        """Return the variance of what the passing slope adds to x.

        It is an Ornstein–Uhlenbeck process that starts at a known value; its integral has the variance
        σ²τ²(2Δ/τ − 3 + 4e^{−Δ/τ} − e^{−2Δ/τ}).
        """
        ratio = gaps / self.relaxation[:, None]
        decay = np.exp(-ratio)
        passing = np.maximum(2 * ratio - 3 + 4 * decay - decay**2, 0.0)
        return np.asarray((self.turmoil * self.relaxation)[:, None] ** 2 * passing)

    def _walk(self, gaps: Array) -> Array:
        return np.asarray(self.walk[:, None] ** 2 * gaps)

    def _bend(self, slope: float) -> Array:
        return _bend(self.drift, slope)


@dataclass(frozen=True)
class Ahead:
    """What holds of m steps ahead under n regimes whatever the readings are: computed once, used at each.

    Attributes:
        gaps: Steps ahead, shape (m,).
        cubes: Their cubes.
        loadings: What (x, s, b) contribute to x after each gap, shape (n, 3, m).
        turmoil: Variance that the passing slope adds, shape (n, m).
        walk: Variance that the random walk adds, shape (n, m).
        drift: As in `Regimes`, shape (n,).
    """

    gaps: Array
    cubes: Array
    loadings: Array
    turmoil: Array
    walk: Array
    drift: Array

    def of(self, kept: NDArray[np.bool_]) -> Ahead:
        """Return the same of some of the regimes.

        Args:
            kept: Which of them, shape (n,).
        """
        rows = self.loadings[kept], self.turmoil[kept], self.walk[kept], self.drift[kept]
        return Ahead(self.gaps, self.cubes, *rows)

    def level_variance(self, slope: float) -> Array:
        """Return the variance of what x wanders in each of the gaps, of shape (n, m).

        Args:
            slope: The present lasting slope, of which `drift` is a share.
        """
        return _level_variance(self.turmoil, self.walk, _bend(self.drift, slope), self.cubes)


def _bend(drift: Array, slope: float) -> Array:
    return np.asarray((drift * slope) ** 2 / 100)


def _level_variance(turmoil: Array, walk: Array, bend: Array, cubes: Array) -> Array:
    return np.asarray(turmoil + (walk + bend[:, None] * cubes / 3))
