"""What to write into the state of an optimizer so that its next step is made with a larger v.

The step itself computes v_t from v_{t−1} and the gradient. To make it with k·v_t, the update is solved for
v_{t−1}: the optimizer's own code then yields the wanted v_t, whichever implementation runs (loop, foreach,
fused), and no step is reimplemented.

Nothing is written here: a raise that fails at one parameter must not leave others raised. Of a second moment
without a memory, β₂ = 0, there is nothing to write: the step overwrites whatever it was.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foreshock.preconditioner.live import LiveParameter, Write


def raise_average(live: LiveParameter, factor: Tensor | float, *, decoupled: bool = False) -> list[Write]:
    """Set v_{t−1} such that β₂v_{t−1} + (1 − β₂)g² is k·v_t; likewise the maximum of amsgrad.

    Args:
        live: The parameter.
        factor: k ≥ 1, a number or one for each coordinate.
        decoupled: Whether weight decay is decoupled, where the group has no ``decoupled_weight_decay``.
    """
    average, beta2 = live.state["exp_avg_sq"], live.betas()[1]
    if not beta2 > 0:
        return []
    decoupled = bool(live.group.get("decoupled_weight_decay", decoupled))
    gradient = live.used_gradient(0.0 if decoupled else live.option("weight_decay"))
    fresh = (1 - beta2) * gradient.square()
    target = average * beta2 + fresh
    writes = [_write(average, (target * factor - fresh) / beta2)]
    if live.group.get("amsgrad", False):
        largest = live.state["max_exp_avg_sq"]
        writes.append(_write(largest, torch.maximum(target, largest) * factor))
    return writes


def raise_square_average(live: LiveParameter, factor: Tensor | float) -> list[Write]:
    """Set RMSprop's v_{t−1} such that v_t, or if centered v_t − ḡ_t², is k times what it would be.

    Args:
        live: The parameter.
        factor: k ≥ 1, a number or one for each coordinate.
    """
    average, alpha = live.state["square_avg"], live.option("alpha")
    if not alpha > 0:
        return []
    gradient = live.used_gradient(live.option("weight_decay"))
    fresh = (1 - alpha) * gradient.square()
    target = average * alpha + fresh
    mean: Tensor | float = 0.0
    if live.group["centered"]:
        mean = torch.lerp(live.state["grad_avg"], gradient, 1 - alpha).square_()
    return [_write(average, ((target - mean) * factor + mean - fresh) / alpha)]


def raise_maximum(live: LiveParameter, factor: Tensor | float) -> list[Write]:
    """Set u_{t−1} such that β₂u_{t−1} is √k·D_t: Adamax takes a maximum with |g|.

    Args:
        live: The parameter.
        factor: k ≥ 1, a number or one for each coordinate.
    """
    beta2 = live.betas()[1]
    if not beta2 > 0:
        return []
    norm, gradient = live.state["exp_inf"], live.used_gradient(live.option("weight_decay"))
    present = torch.maximum(norm * beta2, gradient.abs() + live.option("eps"))
    return [_write(norm, present * factor**0.5 / beta2)]


def raise_factored(live: LiveParameter, factor: Tensor | float) -> list[Write]:
    """Raise Adafactor's column sums, to which its estimate R·C/mean(R) is proportional, or its plain v.

    Args:
        live: The parameter.
        factor: k ≥ 1, a number or one for each coordinate.
    """
    weight = live.step ** live.option("beta2_decay")
    if not weight < 1:
        return []
    squared = live.used_gradient().square()
    average = live.state.get("variance")
    fresh = squared if average is not None else squared.mean(dim=-2, keepdim=True)
    average = live.state["col_var"] if average is None else average
    target = torch.lerp(average, fresh, weight)
    return [_write(average, (target * factor - weight * fresh) / (1 - weight))]


def _write(moment: Tensor, wanted: Tensor) -> Write:
    """Return a write within what the moment's type can hold: an infinite one would never be forgotten."""
    return moment, wanted.clamp_(min=0, max=torch.finfo(moment.dtype).max)
