r"""Mean-square stability: the edge of stability if the curvature differs from batch to batch.

Let the curvature in :mod:`foreshock.dynamics.recursion` be h_t = μ + ξ_t, independent from step to step,
with mean μ and variance σ². The noise is multiplicative: it enters as −η(a + bγ)ξ_tδ_t in δ and γξ_tδ_t
in m, and ξ_t is independent of δ_t. Therefore E[δ²] stays bounded iff the mean recursion is stable and the
noise that it feeds back is smaller than the noise that entered,

.. math:: σ^2 \lVert G \rVert_2^2 < 1, \qquad G(z) = \frac{-η(gz - aβ)}{z^2 - Tz + Δ},

with g = a + bγ, T = s + β − ηgμ, Δ = β(s − ηaμ) (the small-gain theorem for multiplicative noise,
necessary and sufficient: Willems & Blankenship 1971). Parseval's integral of a filter of second order is

.. math:: \lVert G \rVert_2^2
    = \frac{η^2[(g^2 + a^2β^2)(1 + Δ) - 2gaβT]}{(1 - Δ)(1 + Δ - T)(1 + Δ + T)}.

Since 1 + Δ + T = (1 + β)(1 + s)(1 − r₀) with the full-batch ratio r₀ = ημ(g + aβ)/((1 + β)(1 + s)), the
condition is *exactly*

.. math:: \text{MSS} = r_0 + \frac{σ^2η^2[(g^2 + a^2β^2)(1 + Δ) - 2gaβT]}
    {(1 - Δ)(1 + Δ - T)(1 + β)(1 + s)} < 1,

together with 1 + Δ − T > 0 and Δ < 1, which always hold for μ > 0. Without weight decay,

.. math:: \text{MSS} = \frac{η}{2}\Bigl[cμ + n\,\frac{σ^2}{μ}\Bigr], \qquad
    c = a + \frac{bγ}{1 + β}, \qquad n = \frac{g - aβ + aβc\,ημ}{1 - β + aβ\,ημ}.

For Adam, c = (1 − β₁)/(1 + β₁)/(1 − β₁ᵗ) and n = 1/(1 − β₁ᵗ): momentum reduces the mean curvature but not its
noise, and the bias correction multiplies both. For heavy ball, n = 1/(1 − μ). The condition holds for real
and complex roots and for any η.

It assumes independent batches (sampling without replacement makes them anticorrelated within an epoch), a
frozen D, and a single direction. The mean-square edge is not an almost-sure edge: beyond it E[δ²] grows
because of rare, large excursions, while the median run may still contract. For spikes this is the right edge,
since a spike is such an excursion.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from foreshock.dynamics.recursion import LinearRecursion


def mean_square_ratio(
    recursion: LinearRecursion, *, learning_rate: float, mean: float, variance: float
) -> float:
    """Return the mean-square ratio (MSS): E[δ²] decays iff it is below one.

    The module's docstring derives the formula. The condition is exact, but the distance of the ratio from one
    is not a growth rate; for that, see :func:`mean_square_spectral_radius`.

    Args:
        recursion: The optimizer.
        learning_rate: η ≥ 0.
        mean: μ, the mean curvature along the direction, of D⁻¹H (without the momentum factor).
        variance: σ² ≥ 0, the variance of that curvature between batches.

    Returns:
        The ratio. With zero variance it is the ordinary stability ratio. It is infinite if the mean curvature
        is negative, or zero with noise, unless weight decay keeps the direction stable.

    Raises:
        ValueError: If an argument lies outside its interval.

    Example:
        >>> adam = LinearRecursion(decay=0.9, gain=0.1, direct=0.0, averaged=1.0)
        >>> round(mean_square_ratio(adam, learning_rate=0.1, mean=10.0, variance=50.0), 6)
        0.276316
    """
    _require_moments(learning_rate, mean, variance)
    beta, direct, total = recursion.decay, recursion.direct, recursion.total
    shrunk = 2 - recursion.shrinkage  # 1 + s
    full_batch = learning_rate * mean * (total + direct * beta) / ((1 + beta) * shrunk)
    # The general formula gives the same, but divides by zero at μ = 0.
    if variance == 0 and mean >= 0:
        return full_batch
    trace, determinant, lower = _characteristic(recursion, learning_rate * mean)
    below_edge = (1 - determinant) * lower * (1 + beta) * shrunk
    # Of a mean curvature near the smallest float the product is zero.
    if not (lower > 0 and determinant < 1 and below_edge > 0):
        return 0.0 if learning_rate == 0 else math.inf
    fed_back = learning_rate**2 * _numerator(recursion, trace, determinant)
    return full_batch + variance * fed_back / below_edge


def noise_gain(recursion: LinearRecursion, *, learning_rate: float, mean: float) -> float:
    r"""Return ‖G‖₂², the gain of the recursion for white noise of its curvature.

    E[δ²] decays iff σ²·‖G‖₂² is below one. The module's docstring defines G.

    Args:
        recursion: The optimizer.
        learning_rate: η ≥ 0.
        mean: μ, the mean curvature.

    Returns:
        The gain; infinity if the mean recursion itself is not stable.

    Raises:
        ValueError: If an argument lies outside its interval.

    Example:
        >>> descent = LinearRecursion(decay=0.0, gain=1.0, direct=0.0, averaged=1.0)
        >>> round(noise_gain(descent, learning_rate=0.1, mean=10.0), 12)
        0.01
    """
    _require_moments(learning_rate, mean, 0.0)
    trace, determinant, lower = _characteristic(recursion, learning_rate * mean)
    upper = 1 + determinant + trace
    if not (lower > 0 and upper > 0 and determinant < 1):
        return 0.0 if learning_rate == 0 else math.inf
    fed_back = learning_rate**2 * _numerator(recursion, trace, determinant)
    return fed_back / ((1 - determinant) * lower * upper)


def mean_square_map(
    recursion: LinearRecursion, *, learning_rate: float, mean: float, variance: float
) -> NDArray[np.float64]:
    r"""Return the linear map of (E[δ²], E[δm], E[m²]) over one step, shape (3, 3).

    For x = (δ, m) and x ← (A + ξB)x, the second moments follow E[xxᵀ] ← A E[xxᵀ] Aᵀ + σ²B E[xxᵀ] Bᵀ.

    Args:
        recursion: The optimizer.
        learning_rate: η ≥ 0.
        mean: μ, the mean curvature.
        variance: σ² ≥ 0 of the curvature.

    Raises:
        ValueError: If an argument lies outside its interval.

    Example:
        >>> descent = LinearRecursion(decay=0.0, gain=1.0, direct=0.0, averaged=1.0)
        >>> float(mean_square_map(descent, learning_rate=0.1, mean=10.0, variance=4.0)[0, 0].round(12))
        0.04
    """
    _require_moments(learning_rate, mean, variance)
    rate, beta, gain = learning_rate, recursion.decay, recursion.gain
    # A = [[p, q], [k, β]] and B = [[u, 0], [γ, 0]]: the noise multiplies δ only.
    p, q = 1 - recursion.shrinkage - rate * recursion.total * mean, -rate * recursion.averaged * beta
    u, k = -rate * recursion.total, gain * mean
    return np.array(
        [
            [p * p + variance * u * u, 2 * p * q, q * q],
            [p * k + variance * u * gain, p * beta + q * k, q * beta],
            [k * k + variance * gain * gain, 2 * k * beta, beta * beta],
        ]
    )


def mean_square_spectral_radius(
    recursion: LinearRecursion, *, learning_rate: float, mean: float, variance: float
) -> float:
    """Return the factor by which one step multiplies E[δ²] in the long run.

    Args:
        recursion: The optimizer.
        learning_rate: η ≥ 0.
        mean: μ, the mean curvature.
        variance: σ² ≥ 0 of the curvature.

    Raises:
        ValueError: If an argument lies outside its interval.

    Example:
        >>> descent = LinearRecursion(decay=0.0, gain=1.0, direct=0.0, averaged=1.0)
        >>> round(mean_square_spectral_radius(descent, learning_rate=0.1, mean=10.0, variance=100.0), 12)
        1.0
    """
    matrix = mean_square_map(recursion, learning_rate=learning_rate, mean=mean, variance=variance)
    return float(np.abs(np.linalg.eigvals(matrix)).max())


def _characteristic(recursion: LinearRecursion, curvature: float) -> tuple[float, float, float]:
    """Return T, Δ and 1 + Δ − T of the mean recursion; the last without cancellation."""
    beta, direct, total = recursion.decay, recursion.direct, recursion.total
    kept = 1 - recursion.shrinkage
    # 1 + Δ − T = (1 − s)(1 − β) + ημ(g − aβ): for small ημ the left side loses all its digits.
    lower = recursion.shrinkage * (1 - beta) + curvature * (total - direct * beta)
    return kept + beta - total * curvature, beta * (kept - direct * curvature), lower


def _numerator(recursion: LinearRecursion, trace: float, determinant: float) -> float:
    total, delayed = recursion.total, recursion.direct * recursion.decay
    return (total**2 + delayed**2) * (1 + determinant) - 2 * total * delayed * trace


def _require_moments(learning_rate: float, mean: float, variance: float) -> None:
    if not 0 <= learning_rate < math.inf:
        raise ValueError(f"learning_rate is {learning_rate!r}; it must be finite and not negative")
    if not math.isfinite(mean):
        raise ValueError(
            f"mean is {mean!r}; it must be finite, a measured mean curvature: check that the probe did not "
            "fail"
        )
    if not 0 <= variance < math.inf:
        raise ValueError(
            f"variance is {variance!r}; it must be finite and not negative (an estimate E[h²] − E[h]² can "
            "come out negative: clip it at 0)"
        )


def population_factor(batch: float, examples: float | None) -> float:
    """Return (N − B)/(N − 1), the variance of a batch drawn without replacement relative to fresh examples.

    Args:
        batch: B ≥ 1, the number of examples in a batch.
        examples: N, the number of examples in the training set; None if every batch is fresh, or N unknown.

    Raises:
        ValueError: If there are fewer examples than the batch has.

    Example:
        >>> round(population_factor(25, 50), 3), population_factor(50, 50), population_factor(8, None)
        (0.51, 0.0, 1.0)
    """
    if examples is None:
        return 1.0
    if not examples >= batch >= 1:
        raise ValueError(
            f"examples is {examples!r}, but a batch has {batch!r} examples: pass the size of the training set"
        )
    # The finite population correction of sampling theory (Cochran 1977, §2.5).
    return (examples - batch) / (examples - 1) if examples > 1 else 0.0
