r"""Closed-form stability thresholds of adaptive optimizers, and the growth above them.

On a quadratic with Hessian H every optimizer here is a linear recursion. Along one eigenvector
with eigenvalue λ of D⁻¹H (D = diag(√v̂ + ε), or the identity) it is the three-term recursion

.. math:: δ_{t+1} = [(1 - ηw) + β - ηγλ]\,δ_t - β(1 - ηw)\,δ_{t-1},

γ = 1 − β for Adam's moving average, γ = 1 for heavy ball, w the decoupled weight decay. It is stable
iff both roots of the characteristic polynomial lie in the unit circle (Jury), that is iff
λ < (1 + β)(2 − ηw)/(ηγ). Adam's bias correction and momentum are folded into the *momentum factor*
c, so that the condition reads λ_max(Ĥ) < 2/η with Ĥ = c·D⁻¹H (Bai et al. 2025, arXiv 2506.04805,
Lemmas B.1 and B.2; the same statement as Cohen et al. 2022, arXiv 2207.14484).
"""

from __future__ import annotations

import cmath
import math


def momentum_factor(beta1: float, step: int | None = None) -> float:
    r"""Return c, by which Adam's first moment multiplies the preconditioned curvature.

    .. math:: c = \frac{1 - β_1}{1 + β_1} \cdot \frac{1}{1 - β_1^t}

    Args:
        beta1: First-moment decay, in [0, 1).
        step: Step number t ≥ 1 of the update about to be taken; ``None`` for t → ∞.

    Raises:
        ValueError: If `beta1` or `step` lies outside its interval.

    Example:
        >>> round(1 / momentum_factor(0.9), 6)
        19.0
    """
    _require_decay("beta1", beta1)
    if step is None:
        return (1 - beta1) / (1 + beta1)
    if not step >= 1:
        raise ValueError(f"step is {step!r}; the first update of Adam is step 1")
    return (1 - beta1) / (1 + beta1) / (1 - beta1**step)


def gradient_descent_threshold(learning_rate: float, *, decoupled_decay: float = 0.0) -> float:
    """Return the largest stable eigenvalue of H (or of D⁻¹H without momentum), (2 − ηw)/η.

    Args:
        learning_rate: η > 0.
        decoupled_decay: w of decoupled weight decay; its effect is a factor (1 − ηw/2).

    Raises:
        ValueError: If `learning_rate` is not positive.

    Example:
        >>> gradient_descent_threshold(0.1)
        20.0
    """
    return heavy_ball_threshold(learning_rate, momentum=0.0, decoupled_decay=decoupled_decay)


def heavy_ball_threshold(learning_rate: float, *, momentum: float, decoupled_decay: float = 0.0) -> float:
    """Return the largest stable eigenvalue of H for ``torch.optim.SGD(momentum=μ)``.

    The condition is λ < (1 + μ)(2 − ηw)/η, with dampening 0.

    Args:
        learning_rate: η > 0.
        momentum: μ in [0, 1).
        decoupled_decay: w of decoupled weight decay.

    Raises:
        ValueError: If an argument lies outside its interval.

    Example:
        >>> round(heavy_ball_threshold(0.1, momentum=0.9), 9)
        38.0
    """
    _require_learning_rate(learning_rate)
    _require_decay("momentum", momentum)
    return (1 + momentum) * (2 - learning_rate * decoupled_decay) / learning_rate


def adam_threshold(learning_rate: float, *, beta1: float, decoupled_decay: float = 0.0) -> float:
    """Return the largest stable eigenvalue of D⁻¹H for Adam, once its bias correction is over.

    The condition is λ < (1 + β₁)(2 − ηw)/((1 − β₁)η): 38/η at β₁ = 0.9.

    Args:
        learning_rate: η > 0.
        beta1: First-moment decay, in [0, 1).
        decoupled_decay: w of AdamW.

    Raises:
        ValueError: If an argument lies outside its interval.

    Example:
        >>> round(adam_threshold(1e-3, beta1=0.9))
        38000
    """
    heavy = heavy_ball_threshold(learning_rate, momentum=beta1, decoupled_decay=decoupled_decay)
    return heavy / (1 - beta1)


def stability_ratio(preconditioned_sharpness: float, learning_rate: float) -> float:
    """Return λ_max(Ĥ)·η/2: one is the edge of stability.

    Args:
        preconditioned_sharpness: λ_max(Ĥ), momentum factor included.
        learning_rate: η ≥ 0.

    Example:
        >>> stability_ratio(1000.0, 1e-3)
        0.5
    """
    return preconditioned_sharpness * learning_rate / 2


def growth_factor(ratio: float, *, beta1: float) -> float:
    r"""Return by how much one step multiplies the deviation along the top eigenvector.

    It is the larger modulus of the roots of z² − [(1 + β₁) − (1 − β₁)ηλ]z + β₁ = 0, where
    (1 − β₁)ηλ = 2(1 + β₁)·ratio once the bias correction is over.

    Args:
        ratio: Stability ratio λ_max(Ĥ)·η/2; above one the factor exceeds one.
        beta1: First-moment decay, in [0, 1).

    Raises:
        ValueError: If `ratio` is NaN or `beta1` lies outside [0, 1).

    Example:
        >>> round(growth_factor(1.0, beta1=0.9), 9)
        1.0
        >>> round(growth_factor(1.05, beta1=0.9), 3)
        1.483
    """
    _require_decay("beta1", beta1)
    if math.isnan(ratio):
        raise ValueError("ratio is NaN; a growth factor needs a measured stability ratio")
    linear = (1 + beta1) * (1 - 2 * ratio)
    root = cmath.sqrt(linear * linear - 4 * beta1)
    modulus = max(abs(linear + root), abs(linear - root)) / 2
    # By Jury's criterion no root lies outside the circle here: what exceeds one is rounding.
    return min(modulus, 1.0) if 0 <= ratio <= 1 else modulus


def steps_to_visible(ratio: float, *, beta1: float, magnification: float) -> float:
    """Return the steps in which a deviation grows by `magnification` at a fixed ratio.

    Args:
        ratio: Stability ratio.
        beta1: First-moment decay, in [0, 1).
        magnification: By how much the deviation must grow to be seen in the loss, ≥ 1. The excess
            loss is quadratic in the deviation: a hundredfold excess needs a magnification of ten.

    Returns:
        Steps, or infinity where the deviation does not grow.

    Raises:
        ValueError: If `magnification` is below one.

    Example:
        >>> round(steps_to_visible(1.01, beta1=0.9, magnification=100.0), 1)
        29.9
    """
    if not magnification >= 1:
        raise ValueError(f"magnification is {magnification!r}; it must be at least 1")
    growth = growth_factor(ratio, beta1=beta1)
    return math.log(magnification) / math.log(growth) if growth > 1 else math.inf


def _require_learning_rate(learning_rate: float) -> None:
    if not learning_rate > 0:
        raise ValueError(
            f"learning_rate is {learning_rate!r}; a threshold exists only for a positive learning "
            "rate (a warm-up often starts at 0: ask from its second step on)"
        )


def _require_decay(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name} is {value!r}; it must lie in [0, 1)")
