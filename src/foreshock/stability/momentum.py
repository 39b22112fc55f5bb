"""Momentum factors c: by how much momentum moves the edge of stability."""

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
    if step is None:
        return (1 - beta1) / (1 + beta1)
    if not step >= 1:
        raise ValueError(f"step is {step!r}; the first update of Adam is step 1")
    return (1 - beta1) / (1 + beta1) / (1 - beta1**step)


def blended_momentum_factor(beta: float, *, gain: float, direct: float, averaged: float) -> float:
    r"""Return c of the step a·g + b·m with m ← βm + γg, the general case.

    .. math:: c = a + \frac{bγ}{1 + β}

    Adam is a = 0, b = 1/(1 − β₁ᵗ), γ = 1 − β₁. NAdam has a = (1 − μ_t)/(1 − Πμ), b = μ_{t+1}/(1 − Πμ·μ_{t+1})
    (Dozat 2016), which makes (1 − β₁)(1 + 2β₁)/(1 + β₁) in the end.

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
        raise ValueError(f"gain, direct and averaged are {(gain, direct, averaged)}; none is negative")
    return direct + averaged * gain / (1 + beta)


def heavy_ball_factor(momentum: float, *, dampening: float = 0.0, nesterov: bool = False) -> float:
    r"""Return c of ``torch.optim.SGD``: (1 − τ)/(1 + μ), or (1 + 2μ)/(1 + μ) with Nesterov momentum.

    Heavy ball is b ← μb + (1 − τ)g with step b: a = 0, b = 1, γ = 1 − τ. torch's Nesterov step is g + μb
    (τ = 0): a = 1, b = μ, γ = 1. RMSprop with momentum is heavy ball on g/D (τ = 0).

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
    if momentum == 0:
        return 1.0
    weights = (1.0, momentum) if nesterov else (0.0, 1.0)
    return blended_momentum_factor(momentum, gain=1 - dampening, direct=weights[0], averaged=weights[1])


def with_decoupled_decay(factor: float, shrinkage: float) -> float:
    """Return the momentum factor with decoupled weight decay folded in, c/(1 − ηw/2).

    Args:
        factor: c without weight decay.
        shrinkage: ηw ≥ 0, by which one step shrinks the parameters. From 2 on they oscillate and grow by
            themselves: there is no stable curvature, and c is infinite.

    Raises:
        ValueError: If `shrinkage` is negative.

    Example:
        >>> with_decoupled_decay(1.0, 1.0)
        2.0
    """
    if not shrinkage >= 0:
        raise ValueError(f"shrinkage is {shrinkage!r}; weight decay and learning rate are not negative")
    return factor / (1 - shrinkage / 2) if shrinkage < 2 else math.inf


def require_decay(name: str, value: float) -> None:
    """Refuse a decay outside [0, 1).

    Args:
        name: What the argument is called.
        value: Its value.

    Raises:
        ValueError: If it lies outside, or is NaN.
    """
    if not 0 <= value < 1:
        raise ValueError(f"{name} is {value!r}; it must lie in [0, 1)")
