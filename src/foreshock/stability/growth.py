"""The stability ratio, and the growth of deviations where it is above one."""

from __future__ import annotations

import cmath
import math

from foreshock.stability.momentum import require_decay


def stability_ratio(preconditioned_sharpness: float, learning_rate: float) -> float:
    """Return the stability ratio λ_max(Ĥ)·η/2, which is one at the edge of stability.

    Args:
        preconditioned_sharpness: λ_max(Ĥ), including the momentum factor.
        learning_rate: η ≥ 0.

    Example:
        >>> stability_ratio(1000.0, 1e-3)
        0.5
    """
    return preconditioned_sharpness * learning_rate / 2


def growth_factor(ratio: float, *, beta1: float, direct_share: float = 0.0) -> float:
    r"""Return the factor by which one step multiplies the deviation along the top eigenvector.

    It is the larger modulus of the roots of z² − Tz + det = 0. With the ratio r, the share φ = a/c of the
    gradient itself in c, and no weight decay,

    .. math:: T = (1 + β)(1 - 2r) + 2rβφ, \qquad \det = β(1 - 2rφ).

    For Adam and heavy ball (φ = 0) the equation is z² − (1 + β)(1 − 2r)z + β = 0.

    Args:
        ratio: Stability ratio λ_max(Ĥ)·η/2; the factor exceeds one if the ratio is above one or negative.
        beta1: Decay of the first moment or momentum, in [0, 1).
        direct_share: φ in [0, 1]: (1 + μ)/(1 + 2μ) for Nesterov momentum, (1 + β₁)/(1 + 2β₁) for NAdam, 0
            without either.

    Raises:
        ValueError: If `ratio` is NaN, or `beta1` or `direct_share` lies outside its interval.

    Example:
        >>> round(growth_factor(1.0, beta1=0.9), 9)
        1.0
        >>> round(growth_factor(1.05, beta1=0.9), 3)
        1.483
    """
    _require_momentum(beta1, direct_share)
    if math.isnan(ratio):
        raise ValueError(
            "ratio is NaN; it must be a measured stability ratio: check that the probe did not fail"
        )
    trace = (1 + beta1) * (1 - 2 * ratio) + 2 * ratio * beta1 * direct_share
    determinant = beta1 * (1 - 2 * ratio * direct_share)
    # Complex below the edge, where the deviation oscillates while it decays.
    root = cmath.sqrt(trace * trace - 4 * determinant)
    modulus = max(abs(trace + root), abs(trace - root)) / 2
    # By Jury's criterion no root lies outside the unit circle for these ratios: any excess is rounding.
    return min(modulus, 1.0) if 0 <= ratio <= 1 else modulus


def steps_to_visible(ratio: float, *, beta1: float, magnification: float) -> float:
    """Return the number of steps in which a deviation grows by `magnification` at a fixed ratio.

    Args:
        ratio: Stability ratio.
        beta1: First-moment decay, in [0, 1).
        magnification: Factor by which the deviation must grow to be visible in the loss, ≥ 1. The excess
            loss is quadratic in the deviation: a hundredfold excess corresponds to a magnification of ten.

    Returns:
        Steps, or infinity if the deviation does not grow.

    Raises:
        ValueError: If `magnification` is below one, `ratio` is NaN, or `beta1` lies outside [0, 1).

    Example:
        >>> round(steps_to_visible(1.01, beta1=0.9, magnification=100.0), 1)
        29.9
    """
    if not magnification >= 1:
        raise ValueError(
            f"magnification is {magnification!r}; it must be at least 1, the present size of the deviation"
        )
    growth = growth_factor(ratio, beta1=beta1)
    return math.log(magnification) / math.log(growth) if growth > 1 else math.inf


def growing_ratio(factor: float, *, beta1: float, direct_share: float = 0.0) -> float:
    r"""Return the stability ratio at which a step multiplies the deviation by `factor`.

    This inverts `growth_factor`. Above the edge the dominant root is real and negative; for a root at −ρ

    .. math:: r = \frac{(ρ + 1)(ρ + β)}{2ρ(1 + β) - 2βφ(ρ - 1)}.

    Args:
        factor: ρ ≥ 1. Where the deviation dominates the gradient, it is ‖g_t‖/‖g_{t−1}‖.
        beta1: Decay of the first moment or momentum, in [0, 1).
        direct_share: φ in [0, 1], see `growth_factor`.

    Raises:
        ValueError: If an argument lies outside its interval.

    Example:
        >>> round(growing_ratio(1.483, beta1=0.9), 3)
        1.05
    """
    _require_momentum(beta1, direct_share)
    if not 1 <= factor < math.inf:
        raise ValueError(
            f"factor is {factor!r}; it must be finite and at least 1: a deviation that shrinks does not "
            "determine the ratio"
        )
    # From ρ² + Tρ + det = 0, which is linear in r.
    mixed = beta1 * direct_share * (factor - 1)
    return (factor + 1) * (factor + beta1) / (2 * factor * (1 + beta1) - 2 * mixed)


def _require_momentum(beta1: float, direct_share: float) -> None:
    require_decay("beta1", beta1)
    if not 0 <= direct_share <= 1:
        raise ValueError(
            f"direct_share is {direct_share!r}; it must lie in [0, 1], 0 for Adam and heavy ball"
        )
