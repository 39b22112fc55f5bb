"""Adamax: Adam with the infinity norm."""

from __future__ import annotations

import torch

from foreshock.preconditioner.live import LiveParameter
from foreshock.preconditioner.record import ParameterStep
from foreshock.stability import momentum_factor


def read_adamax_step(live: LiveParameter) -> ParameterStep:
    """Return the step that ``torch.optim.Adamax`` is about to take (Kingma & Ba 2015, arXiv 1412.6980).

    D_t = max(β₂D_{t−1}, |g_t| + ε), without bias correction. D follows a growing gradient at once, and decays
    by β₂ per step under a shrinking one. It is not an average of g², so there are no lag statistics.

    Args:
        live: The parameter.
    """
    (beta1, beta2), step = live.betas(), live.step
    decay = live.option("weight_decay")
    gradient = live.used_gradient(decay)
    first = torch.lerp(live.moment("exp_avg"), gradient, 1 - beta1)
    return ParameterStep(
        gradient=gradient,
        numerator=first.div_(1 - beta1**step),
        denominator=torch.maximum(live.moment("exp_inf") * beta2, gradient.abs().add_(live.option("eps"))),
        learning_rate=live.learning_rate,
        momentum_factor=momentum_factor(beta1, step),
        momentum_decay=beta1,
        coupled_decay=decay,
        sign=live.sign,
    )
