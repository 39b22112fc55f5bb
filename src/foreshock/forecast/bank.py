"""A bank of Kalman filters, one a regime of noise, weighted by how well each predicts the readings."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from foreshock.forecast.motion import Ahead, Array, Regimes

_SWITCH = 0.03  # share of each filter that the mean of all replaces, a reading
_CLIP = 9.0  # squared standard deviations; a single reading further off pulls no more than this one does
_NEGLIGIBLE = 1e-4  # weight
_ARRAYS = ("means", "covariances", "weights", "outlying")


@dataclass(frozen=True)
class Bank:
    """The state of n filters of (level, passing slope, lasting slope) after a reading.

    Attributes:
        step: Step of the reading.
        means: Shape (n, 3).
        covariances: Shape (n, 3, 3).
        weights: Shape (n,), sum one.
        outlying: −1, 0 or 1, shape (n,): on which side the reading was too far off to be trusted.
    """

    step: int
    means: Array
    covariances: Array
    weights: Array
    outlying: Array

    @classmethod
    def start(cls, step: int, level: Array, passing: Array, lasting: Array, weights: Array) -> Bank:
        """Return a bank whose state is given by three means and variances.

        Args:
            step: Step of the reading.
            level: Mean, and variance of each filter: shape (1 + n,).
            passing: The same of the passing slope.
            lasting: The same of the lasting slope.
            weights: Shape (n,).
        """
        rows = np.stack([level, passing, lasting], axis=1)
        count = len(weights)
        means = np.repeat(rows[:1], count, axis=0)
        return cls(step, means, rows[1:, :, None] * np.eye(3), weights, np.zeros(count))

    @cached_property
    def slope(self) -> tuple[float, float]:
        """Mean and variance of the lasting slope."""
        return self._moments(self.means[:, 2].copy(), self.covariances[:, 2, 2])

    @property
    def growth(self) -> tuple[float, float]:
        """Mean and variance of the whole slope."""
        inside = self.covariances
        variances = inside[:, 1, 1] + inside[:, 1, 2] + inside[:, 2, 1] + inside[:, 2, 2]
        return self._moments(self.means[:, 1] + self.means[:, 2], variances)

    @property
    def level(self) -> tuple[float, float]:
        """Mean and variance of the level."""
        return self._moments(self.means[:, 0].copy(), self.covariances[:, 0, 0])

    def mixed(self) -> Bank:
        """Return the bank with a small share of each filter replaced by the mean of all, weights alike."""
        mean = self.weights @ self.means
        apart = self.means - mean
        covariance = np.einsum("n,nij->ij", self.weights, self.covariances + _outer(apart))
        weights = (1 - _SWITCH) * self.weights + _SWITCH / len(self.weights)
        kept = ((1 - _SWITCH) * self.weights / weights)[:, None, None]
        means = mean + kept[:, :, 0] * apart
        inside = kept * (self.covariances + _outer(self.means - means))
        covariances = inside + (1 - kept) * (covariance + _outer(mean - means))
        return replace(self, means=means, covariances=covariances, weights=weights)

    def moved(self, regimes: Regimes, gap: int) -> Bank:
        """Return the state predicted for `gap` steps later."""
        transition = regimes.transition(gap)
        means = np.einsum("nij,nj->ni", transition, self.means)
        covariances = transition @ self.covariances @ transition.swapaxes(1, 2)
        covariances += regimes.noise(gap, self.slope[0])
        return replace(self, step=self.step + gap, means=means, covariances=covariances)

    def corrected(self, reading: float, variances: Array, *, weigh: bool) -> Bank:
        """Return the state after a reading of the level at this step.

        A reading beyond three standard deviations pulls no more than one at three, unless the one before was
        off on the same side: a single one is an outlier, two in a row are a change.

        Args:
            reading: The level, as read.
            variances: Of the reading's error under each regime, shape (n,).
            weigh: Whether the weights of the filters are updated by it.
        """
        surprise = reading - self.means[:, 0]
        variance = self.covariances[:, 0, 0] + variances
        squared = surprise**2 / variance
        alone = self.outlying * surprise <= 0
        widened = np.where(alone, np.maximum(variance, surprise**2 / _CLIP), variance)
        gain = self.covariances[:, :, 0] / widened[:, None]
        means = self.means + gain * surprise[:, None]
        covariances = self.covariances - gain[:, :, None] * self.covariances[:, None, 0, :]
        covariances = (covariances + covariances.swapaxes(1, 2)) / 2
        weights = self.weights
        if weigh:
            logs = np.log(weights) - 0.5 * (np.log(widened) + np.minimum(squared, _CLIP))
            weights = np.exp(logs - logs.max())
            weights = weights / weights.sum()
        outlying = np.sign(surprise) * (squared > _CLIP)
        return Bank(self.step, means, covariances, weights, outlying)

    def future(self, ahead: Ahead) -> tuple[Array, Array, Array]:
        """Return weights (k,), means (k, m) and deviations (k, m) of the level after each of the gaps (m,).

        Filters of negligible weight are left out.

        Args:
            ahead: The gaps, under the regimes of the filters.
        """
        kept = self.weights > _NEGLIGIBLE
        near, gaps = ahead.of(kept), ahead.gaps
        # Sums of three products, written out: an einsum takes five times as long to find out how.
        level, passing, lasting = self.means[kept].T[:, :, None]
        means = level + lasting * gaps + passing * near.loadings[:, 1]
        half = self.covariances[kept] @ near.loadings
        variances = half[:, 0] + half[:, 1] * near.loadings[:, 1] + half[:, 2] * gaps
        variances = variances + near.level_variance(self.slope[0])
        return self.weights[kept] / self.weights[kept].sum(), means, np.sqrt(np.maximum(variances, 1e-18))

    def as_plain(self) -> dict[str, Any]:
        """Return the fields as numbers and lists."""
        arrays = {name: getattr(self, name).tolist() for name in _ARRAYS}
        return {"step": self.step, **arrays}

    @classmethod
    def from_plain(cls, state: dict[str, Any]) -> Bank:
        """Return the bank that `as_plain` was called on."""
        arrays = {name: np.array(value) for name, value in state.items() if name != "step"}
        return cls(step=int(state["step"]), **arrays)

    def _moments(self, means: Array, variances: Array) -> tuple[float, float]:
        mean = float(self.weights @ means)
        return mean, float(self.weights @ (variances + (means - mean) ** 2))


def _outer(rows: Array) -> Array:
    return np.asarray(rows[:, :, None] * rows[:, None, :])


def normal_distribution(y: Array) -> Array:
    """Return the normal distribution function at y, within 3·10⁻⁴ (the error function's usual tanh form)."""
    clipped = np.clip(y, -8.0, 8.0)
    # Products: a power of an array takes forty times as long, and this is asked for at each reading.
    bent = clipped * (1 + 0.044715 * clipped * clipped)
    return np.asarray(0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * bent)))
