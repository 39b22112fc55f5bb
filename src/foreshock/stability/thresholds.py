"""The largest stable eigenvalue of each optimizer, for given hyperparameters."""

from __future__ import annotations

import math

from foreshock.stability.momentum import (
    blended_momentum_factor,
    heavy_ball_factor,
    momentum_factor,
    with_decoupled_decay,
)


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


def heavy_ball_threshold(
    learning_rate: float,
    *,
    momentum: float,
    dampening: float = 0.0,
    nesterov: bool = False,
    decoupled_decay: float = 0.0,
) -> float:
    """Return the largest stable eigenvalue of H for ``torch.optim.SGD``, of D⁻¹H for RMSprop with momentum.

    The condition is λ < (1 + μ)(2 − ηw)/((1 − τ)η). Nesterov momentum has (1 + μ)(2 − ηw)/((1 + 2μ)η), far
    below: 1.36/η instead of 3.8/η at μ = 0.9.

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

    The condition is λ < (1 + β₁)(2 − ηw)/((1 − β₁)η): 38/η at β₁ = 0.9. RAdam and Adamax have the same.

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

    The condition is λ < (1 + β₁)(2 − ηw)/((1 − β₁)(1 + 2β₁)η): 13.6/η at β₁ = 0.9, Adam's has 38/η.

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
    factor = blended_momentum_factor(beta1, gain=1 - beta1, direct=1 - beta1, averaged=beta1)
    return _threshold(learning_rate, factor, decoupled_decay)


def _threshold(learning_rate: float, factor: float, decoupled_decay: float) -> float:
    if not learning_rate > 0:
        raise ValueError(
            f"learning_rate is {learning_rate!r}; a threshold exists only for a positive learning "
            "rate (a warm-up often starts at 0: ask from its second step on)"
        )
    rate = learning_rate * with_decoupled_decay(factor, learning_rate * decoupled_decay)
    return 2 / rate if rate else math.inf
