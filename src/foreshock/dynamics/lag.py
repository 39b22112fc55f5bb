"""How far the second moment v is from following the squared gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


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
        require_beta2(self.beta2)
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


def require_beta2(beta2: float) -> None:
    """Refuse a second-moment decay outside (0, 1).

    Args:
        beta2: β₂.

    Raises:
        ValueError: If it lies outside, or is NaN.
    """
    if not 0 < beta2 < 1:
        raise ValueError(f"beta2 is {beta2!r}; it must lie in (0, 1)")
