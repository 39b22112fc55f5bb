"""How far the second moment v is from following the squared gradient."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_GRADIENT_MEMORY, _WINDOW = 30, 50


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


class LagWindow:
    """Follow v above g²: the largest Σv̂ over the mean ‖g‖² of 30 steps, of the last 50 steps.

    The mean is a finite one: an exponential mean would remember a spike for longer than v does where β₂ is
    small, and v would never seem to lag.

    Attributes:
        lag: The lag at the last step; NaN before it is known, and while all gradients of 30 steps were zero.
            Steps without a lag don't count among the 50.

    Example:
        >>> window = LagWindow()
        >>> for _ in range(60):
        ...     window.update(second_moment=1.0, squared_gradient=0.1)
        >>> round(window.lag, 6)
        10.0
    """

    def __init__(self) -> None:
        self._gradients: deque[float] = deque(maxlen=_GRADIENT_MEMORY)
        self._lags: deque[float] = deque(maxlen=_WINDOW)
        self.lag = math.nan

    def update(self, *, second_moment: float, squared_gradient: float) -> None:
        """Take one step into account.

        Args:
            second_moment: Σv̂; NaN without a second moment.
            squared_gradient: ‖g‖², finite, over the same coordinates.
        """
        self._gradients.append(squared_gradient)
        mean = math.fsum(self._gradients) / len(self._gradients)
        self._lags.append(second_moment / mean if mean > 0 else math.nan)
        self.lag = max((lag for lag in self._lags if not math.isnan(lag)), default=math.nan)

    def begin_anew(self, *, kept: int) -> None:
        """Forget the lags, and all but the last gradients.

        Args:
            kept: How many of them are over the coordinates that count from now on.
        """
        self._gradients = deque(list(self._gradients)[-kept:], maxlen=_GRADIENT_MEMORY)
        self._lags.clear()
        self.lag = math.nan

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed window needs, as plain values."""
        return {"gradients": list(self._gradients), "lags": list(self._lags), "lag": self.lag}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._gradients = deque(state["gradients"], maxlen=_GRADIENT_MEMORY)
        self._lags = deque(state["lags"], maxlen=_WINDOW)
        self.lag = float(state["lag"])
