"""What a raise writes into the state of an optimizer, before the step whose update yields it.

Nothing is written here: a raise that fails at one parameter must not leave others raised. Of a second moment
without a memory, β₂ = 0, there is nothing to write: the step overwrites whatever it was.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foreshock.guarding.families.slots import Slot

Write = tuple[Tensor, Tensor]
"""A tensor of an optimizer's state, and what to write into it."""


def raise_average(slot: Slot, factor: Tensor | float) -> list[Write]:
    """Set v_{t−1} such that β₂v_{t−1} + (1 − β₂)g² is k·v_t; likewise the maximum of amsgrad.

    Args:
        slot: The parameter.
        factor: k ≥ 1, a number or one for each coordinate.
    """
    average, beta2 = slot.state["exp_avg_sq"], float(slot.group["betas"][1])
    if not beta2 > 0:
        return []
    fresh = (1 - beta2) * slot.used_gradient.square()
    target = average * beta2 + fresh
    writes = [_write(average, (target * factor - fresh) / beta2)]
    if slot.group.get("amsgrad", False):
        largest = slot.state["max_exp_avg_sq"]
        writes.append(_write(largest, torch.maximum(target, largest) * factor))
    return writes


def raise_square_average(slot: Slot, factor: Tensor | float) -> list[Write]:
    """Set RMSprop's v_{t−1} such that v_t, or if centered v_t − ḡ_t², is k times what it would be.

    Args:
        slot: The parameter.
        factor: k ≥ 1, a number or one for each coordinate.
    """
    average, alpha = slot.state["square_avg"], float(slot.group["alpha"])
    if not alpha > 0:
        return []
    gradient = slot.used_gradient
    fresh = (1 - alpha) * gradient.square()
    target = average * alpha + fresh
    mean: Tensor | float = 0.0
    if slot.group["centered"]:
        mean = torch.lerp(slot.state["grad_avg"], gradient, 1 - alpha).square_()
    return [_write(average, ((target - mean) * factor + mean - fresh) / alpha)]


def raise_maximum(slot: Slot, factor: Tensor | float) -> list[Write]:
    """Set u_{t−1} such that β₂u_{t−1} is √k·D_t: Adamax takes a maximum with |g|.

    Args:
        slot: The parameter.
        factor: k ≥ 1, a number or one for each coordinate.
    """
    beta2 = float(slot.group["betas"][1])
    if not beta2 > 0:
        return []
    norm = slot.state["exp_inf"]
    present = torch.maximum(norm * beta2, slot.used_gradient.abs() + float(slot.group["eps"]))
    return [_write(norm, present * factor**0.5 / beta2)]


def raise_factored(slot: Slot, factor: Tensor | float) -> list[Write]:
    """Raise Adafactor's column sums, to which its estimate R·C/mean(R) is proportional, or its plain v.

    Args:
        slot: The parameter.
        factor: k ≥ 1, a number or one for each coordinate.
    """
    weight = slot.updates ** float(slot.group["beta2_decay"])
    if not weight < 1:
        return []
    squared = slot.used_gradient.square()
    average = slot.state.get("variance")
    fresh = squared if average is not None else squared.mean(dim=-2, keepdim=True)
    average = slot.state["col_var"] if average is None else average
    target = torch.lerp(average, fresh, weight)
    return [_write(average, (target * factor - weight * fresh) / (1 - weight))]


def _write(moment: Tensor, wanted: Tensor) -> Write:
    """Return a write within what the moment's type can hold: an infinite one would never be forgotten."""
    return moment, wanted.clamp_(min=0, max=torch.finfo(moment.dtype).max)
