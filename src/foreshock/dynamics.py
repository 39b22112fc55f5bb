r"""How the second moment v follows, or fails to follow, the squared gradient.

While g² ≪ v the average only decays, v_t ≈ β₂ v_{t−1}, and the preconditioned curvature grows like
β₂^{−t/2} although the landscape stands still (Bai et al. 2025, arXiv 2506.04805). This module has
the closed forms of that statement and the smallest system that shows it, Adam on a quadratic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SecondMomentLag:
    """How far v is from following the squared gradient, at the update about to be taken.

    Attributes:
        lag_ratio: Σg²/Σv̂. Far below one: v is dominated by history.
        decay_exponent: log(Σv_t/Σv_{t−1})/log β₂. One: pure decay, v is blind to the gradient. Zero
            or less: v is growing. NaN before the second step.
    """

    lag_ratio: float
    decay_exponent: float


@dataclass(frozen=True)
class SecondMomentSums:
    """Sums over some coordinates that share β₂, at the update about to be taken.

    Attributes:
        squared_gradient: Σ g_t².
        previous: Σ v_{t−1}; zero at the first step.
        beta2: Second-moment decay, in (0, 1).
        step: Step number t ≥ 1 of the update about to be taken.
    """

    squared_gradient: float
    previous: float
    beta2: float
    step: int

    def __post_init__(self) -> None:
        """Refuse impossible values.

        Raises:
            ValueError: If `beta2` or `step` lies outside its interval.
        """
        _require_beta2(self.beta2)
        if not self.step >= 1:
            raise ValueError(f"step is {self.step!r}; the first update of Adam is step 1")

    @property
    def current(self) -> float:
        """Σ v_t, which the update itself will use."""
        return self.beta2 * self.previous + (1 - self.beta2) * self.squared_gradient

    @property
    def corrected(self) -> float:
        """Σ v̂_t, bias correction included."""
        return self.current / (1 - self.beta2**self.step)


def second_moment_lag(sums: Sequence[SecondMomentSums]) -> SecondMomentLag:
    """Return the lag statistics over one or more groups of coordinates.

    With several β₂ the decay exponent is log(Σv_t/Σv_{t−1})/log(Σβ₂v_{t−1}/Σv_{t−1}): one under pure decay.

    Args:
        sums: One entry for each group.

    Example:
        >>> lag = second_moment_lag([SecondMomentSums(0.0, 1.0, beta2=0.999, step=1000)])
        >>> lag.lag_ratio, round(lag.decay_exponent, 12)
        (0.0, 1.0)
    """
    corrected = sum(part.corrected for part in sums)
    current = sum(part.current for part in sums)
    previous = sum(part.previous for part in sums)
    lag_ratio = sum(part.squared_gradient for part in sums) / corrected if corrected else math.nan
    if not (previous > 0 and 0 < current < math.inf):
        return SecondMomentLag(lag_ratio, math.nan)
    decayed = sum(part.beta2 * part.previous for part in sums)
    exponent = math.log(current / previous) / math.log(decayed / previous)
    return SecondMomentLag(lag_ratio, exponent)


def time_to_threshold(ratio: float, *, beta2: float, growth: float = 0.0) -> float:
    r"""Return the steps until the stability ratio reaches one under pure decay of v.

    .. math:: k = -\ln r / (-\tfrac12 \ln β_2 + \text{growth})

    Args:
        ratio: Present stability ratio, λ_max(Ĥ)·η/2, in (0, 1].
        beta2: Second-moment decay, in (0, 1).
        growth: Extra growth of ln λ per step, from the landscape or the schedule.

    Returns:
        Steps; infinity where the total growth is not positive.

    Raises:
        ValueError: If `ratio` or `beta2` lies outside its interval.

    Example:
        >>> round(time_to_threshold(0.5, beta2=0.999))
        1386
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio is {ratio!r}; it must lie in (0, 1]: above one is past the edge")
    _require_beta2(beta2)
    rate = -0.5 * math.log(beta2) + growth
    if ratio == 1:
        return 0.0
    return -math.log(ratio) / rate if rate > 0 else math.inf


@dataclass(frozen=True)
class QuadraticRun:
    """Adam on ½λθ², one row a step.

    Attributes:
        loss: ½λθ_t² before the update of step t, shape (steps,).
        stability_ratio: λ·c·η/(2(√v̂_t + ε)) of the update of step t, shape (steps,).
        second_moment: v_t, shape (steps,).
        squared_gradient: g_t², shape (steps,).
    """

    loss: NDArray[np.longdouble]
    stability_ratio: NDArray[np.longdouble]
    second_moment: NDArray[np.longdouble]
    squared_gradient: NDArray[np.longdouble]


def simulate_adam_on_quadratic(
    steps: int,
    *,
    learning_rate: float,
    betas: tuple[float, float],
    curvature: float = 1.0,
    epsilon: float = 0.0,
) -> QuadraticRun:
    """Run Adam from θ = 1 on ½λθ² in extended precision.

    Extended precision matters: between spikes θ falls below 1e-16 of its peak and double precision
    would round the dynamics away.

    Args:
        steps: Number of updates, ≥ 1.
        learning_rate: η > 0.
        betas: (β₁, β₂).
        curvature: λ > 0.
        epsilon: ε.

    Raises:
        ValueError: If `steps` or a decay lies outside its interval.

    Example:
        >>> run = simulate_adam_on_quadratic(2000, learning_rate=0.15, betas=(0.0, 0.99))
        >>> bool(run.stability_ratio.max() > 1)
        True
    """
    if not steps >= 1:
        raise ValueError(f"steps is {steps!r}; it must be at least 1")
    beta1, beta2 = (np.longdouble(beta) for beta in betas)
    if not 0 <= beta1 < 1:
        raise ValueError(f"beta1 is {betas[0]!r}; it must lie in [0, 1)")
    _require_beta2(betas[1])
    columns = np.zeros((4, steps), dtype=np.longdouble)
    one = np.longdouble(1)
    theta, m, v = one, np.longdouble(0), np.longdouble(0)
    for t in range(1, steps + 1):
        g = curvature * theta
        m = beta1 * m + (one - beta1) * g
        v = beta2 * v + (one - beta2) * g * g
        denominator = np.sqrt(v / (one - beta2**t)) + epsilon
        momentum = (one - beta1) / (one + beta1) / (one - beta1**t)
        ratio = curvature * momentum * learning_rate / (2 * denominator)
        columns[:, t - 1] = (curvature * theta * theta / 2, ratio, v, g * g)
        theta = theta - learning_rate * m / (one - beta1**t) / denominator
    return QuadraticRun(*columns)


def _require_beta2(beta2: float) -> None:
    if not 0 < beta2 < 1:
        raise ValueError(f"beta2 is {beta2!r}; it must lie in (0, 1)")
