"""SGD with momentum, dampening and Nesterov momentum; D is the identity."""

from __future__ import annotations

from foreshock.preconditioner.live import LiveParameter
from foreshock.preconditioner.record import ParameterStep
from foreshock.stability import heavy_ball_factor


def read_sgd_step(live: LiveParameter) -> ParameterStep:
    """Return the step that ``torch.optim.SGD`` is about to take.

    The buffer is b_t = μb_{t−1} + (1 − τ)g_t, starting with b_1 = g_1; n = b_t, or g_t + μb_t with Nesterov
    momentum. D = 1: the stability ratio is that of the sharpness λ_max(H) itself.

    Args:
        live: The parameter.
    """
    momentum, dampening = live.option("momentum"), live.option("dampening")
    decay, nesterov = live.option("weight_decay"), bool(live.group["nesterov"])
    gradient = numerator = live.used_gradient(decay)
    if momentum:
        buffer = live.saved("momentum_buffer")
        if buffer is not None:
            numerator = buffer.detach().mul(momentum).add_(gradient, alpha=1 - dampening)
        if nesterov:
            numerator = gradient.add(numerator, alpha=momentum)
    factor = heavy_ball_factor(momentum, dampening=dampening, nesterov=nesterov)
    return ParameterStep(
        gradient=gradient,
        numerator=numerator,
        denominator=live.identity(),
        learning_rate=live.learning_rate,
        momentum_factor=factor,
        momentum_decay=momentum,
        # a = 1 with Nesterov momentum, hence a/c = 1/c.
        direct_share=1 / factor if nesterov and momentum else 0.0,
        coupled_decay=decay,
        sign=live.sign,
    )
