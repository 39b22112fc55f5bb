"""RAdam: Adam that divides by √v only once v averages enough gradients."""

from __future__ import annotations

import math

import torch

from foreshock.preconditioner.live import LiveParameter
from foreshock.preconditioner.record import ParameterStep
from foreshock.stability import momentum_factor, with_decoupled_decay


def read_radam_step(live: LiveParameter) -> ParameterStep:
    """Return the step that ``torch.optim.RAdam`` is about to take (Liu et al. 2020, arXiv 1908.03265).

    For ρ_t > 5 the learning rate is r_t·η and D_t = (√v_t + ε)/√(1 − β₂ᵗ), with ε divided as well. In the
    first few steps, before that, it is momentum alone: learning rate η and D = 1.

    Args:
        live: The parameter.
    """
    (beta1, beta2), step = live.betas(), live.step
    decay, decoupled = live.option("weight_decay"), bool(live.group.get("decoupled_weight_decay", False))
    gradient = live.used_gradient(0.0 if decoupled else decay)
    first = torch.lerp(live.moment("exp_avg"), gradient, 1 - beta1)
    # At β₂ = 0.999 the first five steps are momentum alone.
    rectification = _rectification(beta2, step)
    if rectification is None:
        denominator, rate = live.identity(), live.learning_rate
    else:
        second = (live.moment("exp_avg_sq") * beta2).addcmul_(gradient, gradient, value=1 - beta2)
        denominator = second.sqrt_().add_(live.option("eps")).div_((1 - beta2**step) ** 0.5)
        rate = live.learning_rate * rectification
    shrinkage = live.learning_rate * decay * decoupled
    return ParameterStep(
        gradient=gradient,
        numerator=first.div_(1 - beta1**step),
        denominator=denominator,
        learning_rate=rate,
        momentum_factor=with_decoupled_decay(momentum_factor(beta1, step), shrinkage),
        momentum_decay=beta1,
        coupled_decay=0.0 if decoupled else decay,
        # Decay is not rectified, while the record's w is relative to the rectified rate.
        decoupled_decay=shrinkage / rate if rate else 0.0,
        sign=live.sign,
    )


def _rectification(beta2: float, step: int) -> float | None:
    """Return r_t, or None while ρ_t ≤ 5, with ρ_t = `length` and ρ_∞ = `longest`."""
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * step * beta2**step / (1 - beta2**step)
    if not length > 5:
        return None
    return math.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
