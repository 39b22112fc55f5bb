"""The momentum factor c of each optimizer, and its largest stable eigenvalue 2/(cη).

The package's docstring derives both. c multiplies the curvature: with c < 1, momentum allows larger
eigenvalues than gradient descent does.
"""

from __future__ import annotations

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
    require_decay("beta1", beta1)
    # The bias correction 1/(1 − β₁ᵗ) makes the first steps larger, hence less stable: c = 10 times the final
    # one at β₁ = 0.9 and t = 1.
    if step is None:
        return (1 - beta1) / (1 + beta1)
    if not step >= 1:
        raise ValueError(
            f"step is {step!r}; it must be at least 1, the first update of Adam, or None once the bias "
            "correction is over"
        )
    return (1 - beta1) / (1 + beta1) / (1 - beta1**step)


def blended_momentum_factor(beta: float, *, gain: float, direct: float, averaged: float) -> float:
    r"""Return c of the step a·g + b·m with m ← βm + γg, the general case.

    .. math:: c = a + \frac{bγ}{1 + β}

    Adam has a = 0, b = 1/(1 − β₁ᵗ) and γ = 1 − β₁. NAdam has a = (1 − μ_t)/(1 − Πμ) and
    b = μ_{t+1}/(1 − Πμ·μ_{t+1}) (Dozat 2016), for which c tends to (1 − β₁)(1 + 2β₁)/(1 + β₁).

    Args:
        beta: β in [0, 1), the decay of m.
        gain: γ ≥ 0, the weight of the gradient in m.
        direct: a ≥ 0, the weight of the gradient in the step.
        averaged: b ≥ 0, the weight of m in the step.

    Raises:
        ValueError: If an argument lies outside its interval.

    Example:
        >>> blended_momentum_factor(0.5, gain=1.0, direct=1.0, averaged=0.75)
        1.5
    """
    require_decay("beta", beta)
    if not (gain >= 0 and direct >= 0 and averaged >= 0):
        raise ValueError(
            f"gain, direct and averaged are {(gain, direct, averaged)}; none of these weights may be negative"
        )
    return direct + averaged * gain / (1 + beta)


def heavy_ball_factor(momentum: float, *, dampening: float = 0.0, nesterov: bool = False) -> float:
    r"""Return c of ``torch.optim.SGD``: (1 − τ)/(1 + μ), or (1 + 2μ)/(1 + μ) with Nesterov momentum.

    Heavy ball takes the step m ← μm + (1 − τ)g: a = 0, b = 1, γ = 1 − τ. torch's Nesterov step is g + μm with
    τ = 0: a = 1, b = μ, γ = 1. RMSprop with momentum is heavy ball on g/D with τ = 0.

    Args:
        momentum: μ in [0, 1).
        dampening: τ in [0, 1]; without momentum torch ignores it.
        nesterov: Whether the momentum is Nesterov's.

    Raises:
        ValueError: If an argument lies outside its interval.

    Example:
        >>> heavy_ball_factor(0.0), round(1 / heavy_ball_factor(0.9), 9)
        (1.0, 1.9)
    """
    # Without momentum torch keeps no buffer, and ignores dampening as well as Nesterov.
    if momentum == 0:
        return 1.0
    weights = (1.0, momentum) if nesterov else (0.0, 1.0)
    return blended_momentum_factor(momentum, gain=1 - dampening, direct=weights[0], averaged=weights[1])


def with_decoupled_decay(factor: float, shrinkage: float) -> float:
    """Return the momentum factor including decoupled weight decay, c/(1 − ηw/2).

    Args:
        factor: c without weight decay.
        shrinkage: ηw ≥ 0, the share by which one step shrinks the parameters. From 2 on they oscillate and
            grow at any curvature, and c is infinite.

    Raises:
        ValueError: If `shrinkage` is negative.

    Example:
        >>> with_decoupled_decay(1.0, 1.0)
        2.0
    """
    if not shrinkage >= 0:
        raise ValueError(
            f"shrinkage is {shrinkage!r}; it must be the product of learning rate and weight decay, ≥ 0"
        )
    return factor / (1 - shrinkage / 2) if shrinkage < 2 else math.inf


def gradient_descent_threshold(learning_rate: float, *, decoupled_decay: float = 0.0) -> float:
    """Return the largest stable eigenvalue of H (or of D⁻¹H without momentum), (2 − ηw)/η.

    Args:
        learning_rate: η > 0.
        decoupled_decay: w of decoupled weight decay, which multiplies the threshold by 1 − ηw/2.

    Raises:
        ValueError: If `learning_rate` is not positive.

    Example:
        >>> gradient_descent_threshold(0.1)
        20.0
    """
    return heavy_ball_threshold(learning_rate, momentum=0.0, decoupled_decay=decoupled_decay)


def heavy_ball_threshold(
    learning_rate: float,
    *,
    momentum: float,
    dampening: float = 0.0,
    nesterov: bool = False,
    decoupled_decay: float = 0.0,
) -> float:
    """Return the largest stable eigenvalue of H for ``torch.optim.SGD``, of D⁻¹H for RMSprop with momentum.

    The threshold is (1 + μ)(2 − ηw)/((1 − τ)η). With Nesterov momentum it is far lower,
    (1 + μ)(2 − ηw)/((1 + 2μ)η): 1.36/η instead of 3.8/η at μ = 0.9.

    Args:
        learning_rate: η > 0.
        momentum: μ in [0, 1).
        dampening: τ in [0, 1].
        nesterov: Whether the momentum is Nesterov's.
        decoupled_decay: w of decoupled weight decay.

    Raises:
        ValueError: If an argument lies outside its interval.

    Example:
        >>> round(heavy_ball_threshold(0.1, momentum=0.9), 9)
        38.0
        >>> round(heavy_ball_threshold(1.0, momentum=0.9, nesterov=True), 3)
        1.357
    """
    factor = heavy_ball_factor(momentum, dampening=dampening, nesterov=nesterov)
    return _threshold(learning_rate, factor, decoupled_decay)


def adam_threshold(learning_rate: float, *, beta1: float, decoupled_decay: float = 0.0) -> float:
    """Return the largest stable eigenvalue of D⁻¹H for Adam, once its bias correction is over.

    It is (1 + β₁)(2 − ηw)/((1 − β₁)η), which is 38/η at β₁ = 0.9; the same for RAdam and Adamax.

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
    return _threshold(learning_rate, momentum_factor(beta1), decoupled_decay)


def nadam_threshold(learning_rate: float, *, beta1: float, decoupled_decay: float = 0.0) -> float:
    """Return the largest stable eigenvalue of D⁻¹H for NAdam, once its momentum schedule is over.

    It is (1 + β₁)(2 − ηw)/((1 − β₁)(1 + 2β₁)η): 13.6/η at β₁ = 0.9, where Adam has 38/η.

    Args:
        learning_rate: η > 0.
        beta1: First-moment decay, in [0, 1).
        decoupled_decay: w of decoupled weight decay.

    Raises:
        ValueError: If an argument lies outside its interval.

    Example:
        >>> round(nadam_threshold(1.0, beta1=0.9), 2)
        13.57
    """
    # μ_t → β₁ and Πμ → 0, so a = 1 − β₁ and b = β₁.
    factor = blended_momentum_factor(beta1, gain=1 - beta1, direct=1 - beta1, averaged=beta1)
    return _threshold(learning_rate, factor, decoupled_decay)


def _threshold(learning_rate: float, factor: float, decoupled_decay: float) -> float:
    if not learning_rate > 0:
        raise ValueError(
            f"learning_rate is {learning_rate!r}; it must be positive, since at rate 0 every curvature is "
            "stable (a warm-up often starts at 0: use its second step)"
        )
    rate = learning_rate * with_decoupled_decay(factor, learning_rate * decoupled_decay)
    # c = 0 with a dampening of one: no gradient reaches the buffer, and every curvature is stable.
    return 2 / rate if rate else math.inf


def require_decay(name: str, value: float) -> None:
    """Refuse a decay outside [0, 1).

    Args:
        name: Name of the argument, for the message.
        value: Its value.

    Raises:
        ValueError: If the value lies outside, or is NaN.
    """
    if not 0 <= value < 1:
        raise ValueError(f"{name} is {value!r}; it must lie in [0, 1)")
