r"""From the crossing to the spike: when it becomes visible, and how high it gets.

A reduced model in three scalars. Let u be the present stability ratio, x the squared gradient along the top
eigenvector divided by the present v̂, and V the second moment in units of the present v. Each step

.. math:: x ← x\,G(r)^2, \qquad V ← β_2 V + (1 - β_2)(x + x_0)/κ, \qquad r = u\,e^{d_k}\,\sqrt{1/V},

G the growth factor of the deviation at a frozen ratio, x₀ the rest of the gradient, taken as constant, d_k
landscape, schedule and bias correction, κ = 1/(1 − β₂ᵗ). The ratio goes on rising, and G with it, until x
has become so large that V rises; the spike peaks where r falls below one. Near the edge this has a closed
form: V must rise by the square of the largest ratio, and a geometric series of last term x sums to
x/(1 − G⁻²), so

.. math:: x_{\text{peak}} ≈ (r_{\max}^2 - 1)(1 - G^{-2})/(1 - β_2):

the loss must grow until g² exceeds v some dozens of times, from wherever it was. That is why the lag before a
spike decides its height: magnification = x_peak/x.

Assumed: the amplitude follows the larger root of the frozen recursion at once; the landscape is a quadratic
(plus the steady growth of the drift); v rises alike in all coordinates that the eigenvector lives on. On
simulated quadratics with momentum the magnification comes out about 1.6 times too small, ranked almost
perfectly. A real spike that leaves the quadratic's region stops elsewhere: rely on the order of severities,
not on their value.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from foreshock.dynamics.threshold import FURTHEST, Drift


@dataclass(frozen=True)
class Severity:
    """What the reduced model expects of the next spike; infinite, or NaN, where there is none.

    Attributes:
        steps_to_threshold: Steps until the ratio is at least one; 0 if it is.
        steps_to_peak: Steps until it has fallen below one again: the peak of the gradient.
        peak_ratio: Largest ratio in between.
        log_magnification: ln of the squared gradient along the top eigenvector at the peak, over the
            present one. The excess loss along it grows by the same factor.
    """

    steps_to_threshold: float
    steps_to_peak: float
    peak_ratio: float
    log_magnification: float


def severity(
    ratio: float,
    *,
    instant_lag: float,
    drift: Drift,
    growth_factor: Callable[[float], float],
    share: float = 1.0,
) -> Severity:
    """Run the reduced model forward to the end of the next spike.

    Cost: one growth factor a step, floats only.

    Args:
        ratio: Present stability ratio, > 0.
        instant_lag: Present Σv̂/Σg² over the coordinates concerned, > 0.
        drift: Decay of v, growth of the landscape, and the schedule.
        growth_factor: G(r), by which a step multiplies the deviation, such as
            ``lambda r: foreshock.stability.growth_factor(r, beta1=0.9)``. Where something keeps the
            deviation alive below the edge – noise, other directions – let it be at least one.
        share: Share of Σg² that lies along the top eigenvector, in (0, 1]; the rest stays as it is and
            holds v.

    Returns:
        The severity, without a spike if none begins and ends within 20,000 steps.

    Raises:
        ValueError: If an argument lies outside its interval.

    Example:
        >>> def growth(ratio):  # of gradient descent
        ...     return abs(1 - 2 * ratio)
        >>> expected = severity(1.0, instant_lag=1e8, drift=Drift(beta2=0.999), growth_factor=growth)
        >>> expected.steps_to_peak, round(expected.peak_ratio, 3)
        (154.0, 1.069)
    """
    if not (0 < ratio < math.inf and 0 < instant_lag < math.inf and 0 < share <= 1):
        raise ValueError(
            f"ratio, instant_lag and share are {(ratio, instant_lag, share)}; all must be positive and "
            "finite, and the share at most one"
        )
    beta2 = drift.beta2
    # The model counts in units of v, not of v̂, hence the bias correction κ.
    uncorrected = 1 / (instant_lag if drift.step is None else instant_lag * (1 - beta2**drift.step))
    log_moving, resting = math.log(share * uncorrected), (1 - share) * uncorrected
    start, log_second, now, peak = log_moving, 0.0, ratio, 0.0
    crossing = math.inf
    for k in range(FURTHEST):
        if now >= 1:
            crossing = min(crossing, k)
            peak = max(peak, now)
        elif crossing < math.inf:
            return Severity(float(crossing), float(k), peak, log_moving - start)
        factor = growth_factor(now)
        log_moving += 2 * math.log(factor) if factor > 0 else -math.inf
        # In logarithms: the deviation can be 1e-100 of v at the crossing.
        squared = _exp(log_moving - log_second) + resting * _exp(-log_second)
        log_second += math.log(beta2 + (1 - beta2) * squared)
        now = ratio * _exp(drift.decoupled(k + 1) + drift.correction(k + 1) - log_second / 2)
    return Severity(float(crossing), math.inf, peak or math.nan, math.nan)


def steps_to_visible_spike(
    ratio: float,
    *,
    drift: Drift,
    growth_factor: Callable[[float], float],
    magnification: float,
) -> float:
    """Return the steps until a deviation has grown by `magnification`, the ratio rising meanwhile.

    The ratio follows pure decay of v: which is right until g²
    reaches about v (:func:`severity` goes on from there). Below the edge the deviation is taken as held.

    Args:
        ratio: Present stability ratio, > 0.
        drift: Decay of v, growth of the landscape, and the schedule.
        growth_factor: G(r), as for :func:`severity`.
        magnification: By how much the deviation must grow to be seen, ≥ 1. The excess loss is quadratic in
            the deviation: a hundredfold excess needs ten.

    Returns:
        Steps, interpolated within the last; infinity if the deviation does not get there within 20,000
        steps.

    Raises:
        ValueError: If an argument lies outside its interval.

    Example:
        >>> def growth(ratio):  # of gradient descent
        ...     return abs(1 - 2 * ratio)
        >>> steps = steps_to_visible_spike(
        ...     1.0, drift=Drift(beta2=0.999), growth_factor=growth, magnification=100.0
        ... )
        >>> round(steps)  # at a fixed ratio of 1 it would never come
        97
    """
    if not 0 < ratio < math.inf:
        raise ValueError(f"ratio is {ratio!r}; it must be positive and finite")
    if not 1 <= magnification < math.inf:
        raise ValueError(f"magnification is {magnification!r}; it must be at least 1, and finite")
    wanted, grown = math.log(magnification), 0.0
    if wanted == 0:
        return 0.0
    for k in range(FURTHEST):
        now = ratio * _exp(drift.under_decay(k))
        gain = math.log(max(growth_factor(now), 1.0)) if now > 1 else 0.0
        if grown + gain >= wanted:
            return k + (wanted - grown) / gain
        grown += gain
    return math.inf


def _exp(exponent: float) -> float:
    return math.exp(min(exponent, 700.0))
