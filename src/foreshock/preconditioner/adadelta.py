"""Adadelta: the ratio of two moving averages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foreshock.preconditioner.live import LiveParameter, SecondMoment, step_number
from foreshock.preconditioner.record import ParameterStep
from foreshock.stability import heavy_ball_factor


def read_adadelta_step(live: LiveParameter) -> ParameterStep:
    """Return the step that ``torch.optim.Adadelta`` is about to take (Zeiler 2012, arXiv 1212.5701).

    D_t = √(v_t + ε)/√(u_{t−1} + ε), where u is the moving average of the squared steps. D thus contains a
    learning rate of its own, and both of its averages can lag.

    Args:
        live: The parameter.
    """
    rho, epsilon, decay = live.option("rho"), live.option("eps"), live.option("weight_decay")
    gradient = live.used_gradient(decay)
    second = (live.moment("square_avg") * rho).addcmul_(gradient, gradient, value=1 - rho)
    # u_{t−1}: torch updates u only after the step. Before the first step it is zero, and ε alone counts.
    moved = live.moment("acc_delta").add(epsilon).sqrt_()
    return ParameterStep(
        gradient=gradient,
        numerator=gradient,
        denominator=second.add_(epsilon).sqrt_().div_(moved),
        learning_rate=live.learning_rate,
        momentum_factor=heavy_ball_factor(0.0),
        coupled_decay=decay,
        sign=live.sign,
    )


def read_adadelta_second_moment(state: Mapping[str, Any], group: Mapping[str, Any]) -> SecondMoment:
    """Return v_{t−1}, ρ (as β₂) and t; the average of the squared steps is left out.

    Args:
        state: Optimizer state of one parameter.
        group: Its parameter group.
    """
    return SecondMoment(state.get("square_avg"), float(group["rho"]), step_number(state))
