"""Adam and AdamW: loop, foreach, fused and capturable layouts, amsgrad, L2 and decoupled decay."""

from __future__ import annotations

import torch

from foreshock.preconditioner.live import LiveParameter
from foreshock.preconditioner.record import ParameterStep
from foreshock.stability import momentum_factor, with_decoupled_decay


def read_adam_step(live: LiveParameter, *, decoupled: bool) -> ParameterStep:
    """Return the step that ``torch.optim.Adam`` or ``AdamW`` is about to take.

    D_t = √v_t/√(1 − β₂ᵗ) + ε, with the largest v so far instead of v_t under amsgrad, as torch computes it
    (Kingma & Ba 2015, arXiv 1412.6980; Loshchilov & Hutter 2019, arXiv 1711.05101; Reddi et al. 2018). v_t
    contains the present gradient. A capturable or differentiable optimizer rounds 1 − βᵗ to float32, which is
    not repeated here: the first steps agree to about 3e-5.

    Args:
        live: The parameter.
        decoupled: Whether weight decay is decoupled, if the group does not say so.
    """
    (beta1, beta2), step = live.betas(), live.step
    decay = live.option("weight_decay")
    decoupled = bool(live.group.get("decoupled_weight_decay", decoupled))
    gradient = live.used_gradient(0.0 if decoupled else decay)
    # The same operations in the same order as torch's, so that the step agrees with it to rounding.
    first = torch.lerp(live.moment("exp_avg"), gradient, 1 - beta1)
    second = (live.moment("exp_avg_sq") * beta2).addcmul_(gradient, gradient, value=1 - beta2)
    if live.group["amsgrad"]:
        second = torch.maximum(live.moment("max_exp_avg_sq"), second)
    rate = live.learning_rate
    return ParameterStep(
        gradient=gradient,
        numerator=first.div_(1 - beta1**step),
        denominator=second.sqrt_().div_((1 - beta2**step) ** 0.5).add_(live.option("eps")),
        learning_rate=rate,
        momentum_factor=with_decoupled_decay(momentum_factor(beta1, step), rate * decay * decoupled),
        momentum_decay=beta1,
        coupled_decay=0.0 if decoupled else decay,
        decoupled_decay=decay if decoupled else 0.0,
        sign=live.sign,
    )
