"""NAdam: Adam whose step mixes the gradient itself with the first moment."""

from __future__ import annotations

import torch
from torch import Tensor

from foreshock.preconditioner.live import LiveParameter
from foreshock.preconditioner.record import ParameterStep
from foreshock.stability import blended_momentum_factor, with_decoupled_decay


def read_nadam_step(live: LiveParameter) -> ParameterStep:
    """Return the step that ``torch.optim.NAdam`` is about to take (Dozat 2016).

    n = (1 − μ_t)/(1 − Π_{i≤t} μ_i)·g_t + μ_{t+1}/(1 − Π_{i≤t+1} μ_i)·m_t with
    μ_t = β₁(1 − ½·0.96^{tψ}), and D_t = √(v_t/(1 − β₂ᵗ)) + ε. The momentum factor is that of the two weights
    of this step, which change slowly.

    Args:
        live: The parameter.
    """
    (beta1, beta2), step = live.betas(), live.step
    decay, decoupled = live.option("weight_decay"), bool(live.group.get("decoupled_weight_decay", False))
    psi = live.option("momentum_decay")
    mu, mu_next = (beta1 * (1 - 0.5 * 0.96 ** (t * psi)) for t in (step, step + 1))
    product = float(_product(live) * mu)
    direct, averaged = (1 - mu) / (1 - product), mu_next / (1 - product * mu_next)
    gradient = live.used_gradient(0.0 if decoupled else decay)
    first = torch.lerp(live.moment("exp_avg"), gradient, 1 - beta1)
    second = (live.moment("exp_avg_sq") * beta2).addcmul_(gradient, gradient, value=1 - beta2)
    factor = blended_momentum_factor(beta1, gain=1 - beta1, direct=direct, averaged=averaged)
    rate = live.learning_rate
    return ParameterStep(
        gradient=gradient,
        numerator=first.mul_(averaged).add_(gradient, alpha=direct),
        denominator=second.div_(1 - beta2**step).sqrt_().add_(live.option("eps")),
        learning_rate=rate,
        momentum_factor=with_decoupled_decay(factor, rate * decay * decoupled),
        momentum_decay=beta1,
        direct_share=direct / factor,
        coupled_decay=0.0 if decoupled else decay,
        decoupled_decay=decay if decoupled else 0.0,
        sign=live.sign,
    )


def _product(live: LiveParameter) -> Tensor:
    """Return Π_{i<t} μ_i in the dtype that torch uses for scalars: its rounding is part of the step."""
    product: Tensor | None = live.saved("mu_product")
    if product is not None:
        return product.detach()
    exact = torch.get_default_dtype() == torch.float64
    return torch.ones((), dtype=torch.float64 if exact else torch.float32)
