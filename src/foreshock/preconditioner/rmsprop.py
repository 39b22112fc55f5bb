"""RMSprop: plain, centered, with momentum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from foreshock.preconditioner.live import LiveParameter, SecondMoment, step_number
from foreshock.preconditioner.record import ParameterStep
from foreshock.stability import heavy_ball_factor


def read_rmsprop_step(live: LiveParameter) -> ParameterStep:
    """Return the step that ``torch.optim.RMSprop`` is about to take (Tieleman & Hinton 2012; Graves 2013).

    D_t = √v_t + ε, or √(v_t − ḡ_t²) + ε if centered, without bias correction. Momentum is heavy ball on g/D:
    b_t = μb_{t−1} + g_t/D_t moves the parameter, so that n = D_t·b_t.

    Args:
        live: The parameter.
    """
    alpha, momentum, decay = live.option("alpha"), live.option("momentum"), live.option("weight_decay")
    gradient = live.used_gradient(decay)
    second = (live.moment("square_avg") * alpha).addcmul_(gradient, gradient, value=1 - alpha)
    if live.group["centered"]:
        mean = torch.lerp(live.moment("grad_avg"), gradient, 1 - alpha)
        second.addcmul_(mean, mean, value=-1)
    denominator = second.sqrt_().add_(live.option("eps"))
    # torch's buffer b is of g/D, with the D of each earlier step; n = D_t·b_t makes η·n/D the step.
    numerator = gradient
    if momentum:
        numerator = torch.addcmul(gradient, live.moment("momentum_buffer"), denominator, value=momentum)
    return ParameterStep(
        gradient=gradient,
        numerator=numerator,
        denominator=denominator,
        learning_rate=live.learning_rate,
        momentum_factor=heavy_ball_factor(momentum),
        momentum_decay=momentum,
        coupled_decay=decay,
        sign=live.sign,
    )


def read_rmsprop_second_moment(state: Mapping[str, Any], group: Mapping[str, Any]) -> SecondMoment:
    """Return v_{t−1}, α (as β₂) and t; centering is ignored.

    Args:
        state: Optimizer state of one parameter.
        group: Its parameter group.
    """
    return SecondMoment(state.get("square_avg"), float(group["alpha"]), step_number(state))
