r"""What each step shows for free: how far v is above g², a gradient that bursts, a loss off its level.

There is one lag, v above g², in two forms:

- the *instant lag* of one step, Σv̂/Σg²: one while v follows the squared gradient, large while v is dominated
  by history;
- the *lag* itself (`LagWindow`), the largest Σv̂ over the mean ‖g‖² of 30 steps, of the last 50 steps, which
  neither one large gradient nor one small one decides.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_GRADIENT_MEMORY, _WINDOW = 30, 50
_BURST_MEMORY = 5
_LEVEL_WINDOW = 100
_FEWEST = 20


@dataclass(frozen=True)
class SecondMomentLag:
    """How far v is from following the squared gradient, at the update about to be taken.

    Attributes:
        instant_lag: Σv̂/Σg², see `instant_lag`.
        decay_exponent: log(Σv_t/Σv_{t−1})/log β₂. One: pure decay, v is blind to the gradient. Zero
            or less: v is growing. NaN before the second step.
    """

    instant_lag: float
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


def instant_lag(second_moment: float, squared_gradient: float) -> float:
    """Return v above g² at one step, Σv̂/Σg².

    Args:
        second_moment: Σv̂; NaN without a second moment.
        squared_gradient: Σg² over the same coordinates.

    Returns:
        The quotient; infinity where the gradient is zero, NaN where v is zero too or unknown, or the gradient
        is not finite.

    Example:
        >>> instant_lag(3.0, 0.5), instant_lag(3.0, 0.0), instant_lag(0.0, 0.0)
        (6.0, inf, nan)
    """
    if not (second_moment > 0 and math.isfinite(squared_gradient)):
        return math.nan
    return math.inf if squared_gradient == 0 else second_moment / squared_gradient


def second_moment_lag(sums: Sequence[SecondMomentSums]) -> SecondMomentLag:
    """Return the lag statistics over one or more groups of coordinates.

    With several β₂ the decay exponent is log(Σv_t/Σv_{t−1})/log(Σβ₂v_{t−1}/Σv_{t−1}): one under pure decay.

    Args:
        sums: One entry for each group.

    Example:
        >>> lag = second_moment_lag([SecondMomentSums(0.0, 1.0, beta2=0.999, step=1000)])
        >>> lag.instant_lag, round(lag.decay_exponent, 12)
        (inf, 1.0)
    """
    # Sums first, quotient then: a mean of quotients would be decided by coordinates that hardly move.
    above = instant_lag(sum([part.corrected for part in sums]), sum([part.squared_gradient for part in sums]))
    current = sum([part.current for part in sums])
    previous = sum([part.previous for part in sums])
    decayed = sum([part.beta2 * part.previous for part in sums])
    # Near the smallest floats β₂v is v itself, or zero.
    if not (0 < decayed < previous and 0 < current < math.inf):
        return SecondMomentLag(above, math.nan)
    exponent = (math.log(current) - math.log(previous)) / math.log(decayed / previous)
    return SecondMomentLag(above, exponent)


def total(values: Iterable[float]) -> float:
    """Return the exact sum of numbers that are not negative; infinity where it is too large for a float.

    Args:
        values: The numbers.

    Example:
        >>> total([1.0, 2.0]), total([1e308, 1e308])
        (3.0, inf)
    """
    try:
        return math.fsum(values)
    except OverflowError:
        return math.inf


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

    The mean is over a finite window: an exponential mean would remember a spike for longer than v does where
    β₂ is small, and v would never seem to lag.

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
        mean = total(self._gradients) / len(self._gradients)
        lag = second_moment / mean if mean > 0 else math.nan
        # The largest one is searched for again only where it may have left the window.
        leaves = len(self._lags) == _WINDOW and self._lags[0] == self.lag
        self._lags.append(lag)
        if leaves or math.isnan(self.lag):
            self.lag = max([one for one in self._lags if one == one], default=math.nan)  # without NaN
        elif lag > self.lag:
            self.lag = lag

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


@dataclass(frozen=True)
class StepStatistics:
    """The free signals at one step, over the windows that smooth them; NaN until enough steps were seen.

    Attributes:
        lag: v above g², see `LagWindow`. Below about two v follows g², and crossing the edge does little.
        burst: √(EMA₅‖g‖² over its own median of the last 100 steps).
        loss_ratio: Mean loss of the last 5 steps over the median of the 100 before.
        instant_loss_ratio: Loss of the last step alone over the same median.
    """

    lag: float
    burst: float
    loss_ratio: float
    instant_loss_ratio: float = math.nan


class RunningMedian:
    """The median of the last values of a series, kept sorted: a step costs about a microsecond.

    Args:
        window: How many of the last values count, ≥ 1.
        values: The first ones.

    Attributes:
        values: The values that count, in their order of time.

    Example:
        >>> running = RunningMedian(3)
        >>> for value in (5.0, 1.0, 2.0, 3.0):
        ...     running.append(value)
        >>> running.median, list(running.values)
        (2.0, [1.0, 2.0, 3.0])
    """

    def __init__(self, window: int, values: Iterable[float] = ()) -> None:
        self.values: deque[float] = deque(values, maxlen=window)
        self._sorted = sorted(self.values)

    def append(self, value: float) -> None:
        """Take one value into account; the oldest one leaves.

        Args:
            value: Finite: NaN has no place in an order.
        """
        if len(self.values) == self.values.maxlen:
            del self._sorted[bisect_left(self._sorted, self.values[0])]
        self.values.append(value)
        insort(self._sorted, value)

    @property
    def median(self) -> float:
        """The median; the mean of the two in the middle of an even number, NaN without any."""
        count = len(self._sorted)
        if not count:
            return math.nan
        middle = count // 2
        if count % 2:
            return self._sorted[middle]
        return (self._sorted[middle - 1] + self._sorted[middle]) / 2

    def largest(self, rank: int) -> float:
        """Return the largest value, or one of the next.

        Args:
            rank: 1 for the largest, at most the number of values.

        Raises:
            IndexError: If there are fewer values.
        """
        return self._sorted[-rank]


class Burst:
    """How far a size is above its own usual one: √(its mean over five steps ÷ the median of 100 such means).

    Smoothed over five steps: the size of single mini-batch gradients varies by more than a burst does.

    Example:
        >>> burst = Burst()
        >>> for _ in range(60):
        ...     level = burst.update(0.1)
        >>> round(level, 6), round(burst.update(2.0), 6)
        (1.0, 2.19089)
    """

    def __init__(self) -> None:
        self._recent = math.nan
        self._levels = RunningMedian(_LEVEL_WINDOW)

    def update(self, size: float) -> float:
        """Take one step into account, and return its level; NaN before there are 20, or if it has none.

        Args:
            size: ‖g‖², or gᵀD⁻¹g; ignored if it is not finite.
        """
        if not math.isfinite(size):
            return math.nan
        first = math.isnan(self._recent)
        self._recent = size if first else self._recent + (size - self._recent) / _BURST_MEMORY
        self._levels.append(self._recent)
        usual = self._levels.median if len(self._levels.values) >= _FEWEST else math.nan
        return math.sqrt(self._recent / usual) if usual > 0 else math.nan

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain values."""
        return {"recent": self._recent, "levels": list(self._levels.values)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._recent = float(state["recent"])
        self._levels = RunningMedian(_LEVEL_WINDOW, state["levels"])


class SignalTracker:
    """Take the free signals of steps one by one, and smooth them.

    Example:
        >>> tracker = SignalTracker()
        >>> for _ in range(60):
        ...     signals = tracker.update(loss=1.0, squared_gradient=0.1, second_moment=1.0)
        >>> round(signals.lag, 6), round(signals.burst, 6)
        (10.0, 1.0)
    """

    def __init__(self) -> None:
        self._window, self._burst = LagWindow(), Burst()
        self._recent: deque[float] = deque(maxlen=_BURST_MEMORY)  # losses, and below those before them
        self._before = RunningMedian(_LEVEL_WINDOW)

    def update(self, *, loss: float, squared_gradient: float, second_moment: float) -> StepStatistics:
        """Take one step into account and return the statistics at it.

        Args:
            loss: Loss of the step; one that is not finite is skipped.
            squared_gradient: ‖g‖².
            second_moment: Σv̂ of this step over the same coordinates; NaN without a second moment.
        """
        if not math.isfinite(squared_gradient):
            return StepStatistics(math.nan, math.nan, math.nan)
        self._window.update(second_moment=second_moment, squared_gradient=squared_gradient)
        burst = self._burst.update(squared_gradient)
        if math.isfinite(loss):
            self._take_loss(loss)
        level = self._before.median if len(self._before.values) >= _FEWEST else math.nan
        if not level > 0:
            return StepStatistics(self._window.lag, burst, math.nan)
        mean = sum(self._recent) / _BURST_MEMORY
        return StepStatistics(self._window.lag, burst, mean / level, self._recent[-1] / level)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed tracker needs, as plain values."""
        return {
            "window": self._window.state_dict(),
            "burst": self._burst.state_dict(),
            "losses": [*self._before.values, *self._recent],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._window.load_state_dict(state["window"])
        self._burst.load_state_dict(state["burst"])
        self._recent.clear()
        self._before = RunningMedian(_LEVEL_WINDOW)
        for loss in state["losses"]:
            self._take_loss(float(loss))

    def _take_loss(self, loss: float) -> None:
        if len(self._recent) == _BURST_MEMORY:
            self._before.append(self._recent[0])
        self._recent.append(loss)
