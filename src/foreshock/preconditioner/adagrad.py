"""Adagrad: a sum of squared gradients that never decays."""

from __future__ import annotations

import torch

from foreshock.preconditioner.live import LiveParameter
from foreshock.preconditioner.record import ParameterStep
from foreshock.stability import heavy_ball_factor


def read_adagrad_step(live: LiveParameter) -> ParameterStep:
    """Return the step that ``torch.optim.Adagrad`` is about to take (Duchi et al. 2011).

    D_t = √(Σ_{i≤t} g_i²) + ε, and the learning rate is η/(1 + (t − 1)·`lr_decay`). D only grows, so that this
    preconditioner cannot cause a spike, and there are no lag statistics.

    Args:
        live: The parameter.
    """
    decay = live.option("weight_decay")
    gradient = live.used_gradient(decay)
    total = live.saved("sum")
    if total is None:
        total = torch.full_like(live.parameter, live.option("initial_accumulator_value"), requires_grad=False)
    total = total.detach().addcmul(gradient, gradient)
    return ParameterStep(
        gradient=gradient,
        numerator=gradient,
        denominator=total.sqrt_().add_(live.option("eps")),
        learning_rate=live.learning_rate / (1 + (live.step - 1) * live.option("lr_decay")),
        momentum_factor=heavy_ball_factor(0.0),
        coupled_decay=decay,
        sign=live.sign,
    )
