r"""The future of the stability ratio under known causes, and the step at which it reaches one.

While v only decays, ln r grows by −½ ln β₂ per step. The landscape adds its own growth, the schedule changes
η, and early in training the bias correction of v̂ = v/(1 − β₂ᵗ) adds ½ ln((1 − β₂^{t+k})/(1 − β₂ᵗ)):

.. math:: \ln r_k = \ln r_0 + k\,(\text{growth} - \tfrac12 \ln β_2) + \ln\frac{η_{t+k}}{η_t}
    + \tfrac12 \ln\frac{1 - β_2^{t+k}}{1 - β_2^t}.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from foreshock.dynamics.signals import require_beta2

FURTHEST = 20_000  # the most steps that are evaluated one by one, which takes some tens of milliseconds

LearningRates = Sequence[float] | Callable[[int], float]


@dataclass(frozen=True)
class Drift:
    """The causes that move the stability ratio apart from new gradients.

    Attributes:
        beta2: Second-moment decay, in (0, 1).
        growth: Growth of ln λ per step from the landscape.
        learning_rates: η_{t+k}/η_t for k = 1, 2, …: a sequence, whose last entry holds after its end, or a
            function of k. ``None``: constant.
        step: Step t of the present ratio, if v̂ is bias-corrected; ``None`` if the correction is over or there
            is none.

    Example:
        >>> round(Drift(beta2=0.999, growth=0.001).under_decay(100), 6)
        0.150025
    """

    beta2: float
    growth: float = 0.0
    learning_rates: LearningRates | None = None
    step: int | None = None

    def __post_init__(self) -> None:
        """Refuse impossible values.

        Raises:
            ValueError: If a value lies outside its interval.
        """
        require_beta2(self.beta2)
        if not math.isfinite(self.growth):
            raise ValueError(f"growth is {self.growth!r}; it must be finite")
        if self.step is not None and not self.step >= 1:
            raise ValueError(f"step is {self.step!r}; the first update of Adam is step 1")

    def decoupled(self, k: int) -> float:
        """Return the part of ln r_k − ln r_0 that does not come from v: landscape and schedule.

        Args:
            k: Steps ahead, ≥ 0.

        Raises:
            ValueError: If the learning rate of that step is negative or NaN.
        """
        return self.growth * k + self._schedule(k)

    def correction(self, k: int) -> float:
        """Return the part of ln r_k − ln r_0 that comes from the bias correction of v̂.

        Args:
            k: Steps ahead, ≥ 0.
        """
        if self.step is None:
            return 0.0
        return 0.5 * math.log((1 - self.beta2 ** (self.step + k)) / (1 - self.beta2**self.step))

    def under_decay(self, k: int) -> float:
        """Return ln r_k − ln r_0 under pure decay of v.

        Args:
            k: Steps ahead, ≥ 0.

        Example:
            >>> round(Drift(beta2=0.99, learning_rates=[0.5]).under_decay(2), 6)
            -0.683097
        """
        return self.decoupled(k) + self.correction(k) - 0.5 * k * math.log(self.beta2)

    def _schedule(self, k: int) -> float:
        if self.learning_rates is None or k == 0:
            return 0.0
        if callable(self.learning_rates):
            factor = self.learning_rates(k)
        elif len(self.learning_rates) == 0:
            factor = 1.0
        else:
            factor = self.learning_rates[min(k, len(self.learning_rates)) - 1]
        if not factor >= 0:
            raise ValueError(
                f"the learning rate {k} steps ahead is {factor!r} times the present one; learning_rates must "
                "be ratios η_{t+k}/η_t, none negative"
            )
        return math.log(factor) if factor else -math.inf


def time_to_threshold(
    ratio: float,
    *,
    beta2: float,
    growth: float = 0.0,
    learning_rates: LearningRates | None = None,
    step: int | None = None,
) -> float:
    r"""Return the number of steps until the stability ratio reaches one under pure decay of v.

    With a constant learning rate, and after the bias correction,

    .. math:: k = -\ln r / (-\tfrac12 \ln β_2 + \text{growth}).

    Otherwise ln r_k (see the module's docstring) is evaluated step by step, and the crossing interpolated.

    Args:
        ratio: Present stability ratio, λ_max(Ĥ)·η/2, in (0, 1].
        beta2: Second-moment decay, in (0, 1).
        growth: Growth of ln λ per step from the landscape.
        learning_rates: Known future of the schedule, η_{t+k}/η_t for k = 1, 2, …: a sequence, whose last
            entry holds after its end, or a function of k. ``None``: constant.
        step: Step t of the present ratio, if the bias correction of v̂ is not over.

    Returns:
        Steps; infinity if the ratio does not reach one. If the learning rate is a function, only 20,000 steps
            are evaluated.

    Raises:
        ValueError: If an argument lies outside its interval.

    Example:
        >>> round(time_to_threshold(0.5, beta2=0.999))
        1386
        >>> round(time_to_threshold(0.5, beta2=0.999, learning_rates=[0.5]))
        2771
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio is {ratio!r}; it must lie in (0, 1]: above one the edge is already passed")
    drift = Drift(beta2, growth, learning_rates, step)
    if ratio == 1:
        return 0.0
    rate = growth - 0.5 * math.log(beta2)
    if learning_rates is None and step is None:
        return -math.log(ratio) / rate if rate > 0 else math.inf
    # A sequence is constant after its end, and the bias correction fades: from there on ln r_k is a straight
    # line, and only the steps before need be evaluated.
    sequence = () if learning_rates is None or callable(learning_rates) else learning_rates
    walked = len(sequence) if step is None and not callable(learning_rates) else max(FURTHEST, len(sequence))
    before = math.log(ratio)
    for k in range(1, walked + 1):
        now = math.log(ratio) + drift.under_decay(k)
        if now >= 0:
            # After a step at rate zero, ln r is −∞ and there is no line to interpolate: the jump is at k.
            return k - now / (now - before) if math.isfinite(before) else float(k)
        before = now
    # The remaining bias correction, at most ½β₂^20000, is neglected.
    if callable(learning_rates) or not (rate > 0 and math.isfinite(before)):
        return math.inf
    return walked - before / rate
