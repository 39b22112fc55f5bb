"""Adam and AdamW: loop, foreach, fused and capturable layouts, amsgrad, L2 and decoupled decay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foreshock.preconditioner.record import ParameterStep
from foreshock.stability import momentum_factor


def read_adam_step(
    parameter: Tensor, state: Mapping[str, Any], group: Mapping[str, Any], *, decoupled: bool
) -> ParameterStep:
    """Return the step that ``torch.optim.Adam`` is about to take, gradient of now included.

    D_t = √max(v)/√(1 − β₂ᵗ) + ε with the maximum over time under amsgrad, as torch computes it (Kingma &
    Ba 2015, arXiv 1412.6980; Loshchilov & Hutter 2019, arXiv 1711.05101; Reddi et al. 2018).

    Args:
        parameter: The parameter, with ``.grad`` set.
        state: Its optimizer state; empty before the first step.
        group: Its parameter group.
        decoupled: Whether weight decay is decoupled, where the group doesn't tell.
    """
    beta1, beta2 = (float(beta) for beta in group["betas"])
    step = _steps_taken(state) + 1
    decay = float(group["weight_decay"])
    decoupled = bool(group.get("decoupled_weight_decay", decoupled))
    sign = -1.0 if group["maximize"] else 1.0
    gradient = sign * _present_gradient(parameter)
    if decay and not decoupled:
        gradient = gradient.add(parameter.detach(), alpha=decay)
    first, second, highest = _moments(parameter, state, group)
    first = torch.lerp(first, gradient, 1 - beta1)
    second = (second * beta2).addcmul_(gradient, gradient, value=1 - beta2)
    if highest is not None:
        second = torch.maximum(highest, second)
    return ParameterStep(
        gradient=gradient,
        numerator=first.div_(1 - beta1**step),
        denominator=second.sqrt_().div_((1 - beta2**step) ** 0.5).add_(float(group["eps"])),
        learning_rate=float(group["lr"]),
        momentum_factor=momentum_factor(beta1, step),
        coupled_decay=0.0 if decoupled else decay,
        decoupled_decay=decay if decoupled else 0.0,
        sign=sign,
    )


def read_adam_second_moment(
    state: Mapping[str, Any], group: Mapping[str, Any]
) -> tuple[Tensor | None, float, int]:
    """Return v_{t−1} (None before the first step), β₂ and the step t about to be taken."""
    return state.get("exp_avg_sq"), float(group["betas"][1]), _steps_taken(state) + 1


def _moments(
    parameter: Tensor, state: Mapping[str, Any], group: Mapping[str, Any]
) -> tuple[Tensor, Tensor, Tensor | None]:
    if "exp_avg" in state:
        return state["exp_avg"], state["exp_avg_sq"], state.get("max_exp_avg_sq")
    zero = torch.zeros_like(parameter, requires_grad=False)
    return zero, zero, zero if group["amsgrad"] else None


def _steps_taken(state: Mapping[str, Any]) -> int:
    return int(state["step"]) if "step" in state else 0


def _present_gradient(parameter: Tensor) -> Tensor:
    if parameter.grad is None or parameter.grad.is_sparse:
        raise TypeError(
            "a dense gradient is needed: Adam has no step for a missing one and refuses sparse ones; "
            "build the embedding with sparse=False"
        )
    return parameter.grad.detach()
