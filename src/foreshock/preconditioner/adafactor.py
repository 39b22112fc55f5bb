"""Adafactor: a second moment of rank one for matrices, relative step sizes, update clipping."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foreshock.preconditioner.live import LiveParameter, SecondMoment, step_number
from foreshock.preconditioner.record import ParameterStep
from foreshock.stability import heavy_ball_factor, with_decoupled_decay

# In place of t: an average whose first weight is one needs no bias correction, so that β₂ᵗ must be zero.
_NO_CORRECTION = 2**62


def read_adafactor_step(live: LiveParameter) -> ParameterStep:
    """Return the step that ``torch.optim.Adafactor`` is about to take.

    As torch computes it, after Shazeer & Stern 2018, arXiv 1804.04235. Each tensor has its own learning rate,
    max(ε₂, RMS(θ))·min(η, 1/√t). D_t = max(√V̂_t, ε₁)·max(1, RMS(U)/d), where U is the update before clipping.
    D is held fixed in the stability ratio, as for every optimizer: its dependence on all of g through the
    clipping, and that of the learning rate on θ, are neglected.

    Args:
        live: The parameter.
    """
    gradient, step, rate = live.used_gradient(), live.step, live.learning_rate
    epsilon, smallest = live.group["eps"]
    floor = torch.finfo(live.parameter.dtype).eps if epsilon is None else float(epsilon)
    # 1 − β₂ = t^τ; at the first step it is one, and the state is written over.
    weight = step ** live.option("beta2_decay")
    estimate = (
        _factored_estimate(live, gradient, weight, floor)
        if gradient.dim() > 1
        else torch.lerp(live.moment("variance"), gradient * gradient, weight)
    )
    # torch clamps V̂ at ε₁², so that D ≥ ε₁; the paper adds ε₁ to g² instead.
    denominator = estimate.clamp_(min=floor * floor).sqrt_()
    clipping = max(1.0, _rms(gradient / denominator) / live.option("d"))
    # The learning rate of the paper is relative to the size of the tensor; torch's `lr` is an upper bound of
    # it.
    size = max(float(smallest), _rms(live.parameter.detach())) * min(rate, 1 / step**0.5)
    shrinkage = rate * live.option("weight_decay")
    return ParameterStep(
        gradient=gradient,
        numerator=gradient,
        denominator=denominator.mul_(clipping),
        learning_rate=size,
        momentum_factor=with_decoupled_decay(heavy_ball_factor(0.0), shrinkage),
        # Decay goes with η, not with the relative step: the record's w is relative to its own rate.
        decoupled_decay=shrinkage / size if size else 0.0,
        sign=live.sign,
    )


def read_adafactor_second_moment(state: Mapping[str, Any], group: Mapping[str, Any]) -> SecondMoment | None:
    """Return a tensor with the sum of V̂_{t−1}, and β₂ = 1 − t^τ; None at the first step, where β₂ = 0.

    The sum of the estimate R·C/mean(R) over a matrix is the number of rows times the sum of C.

    Args:
        state: Optimizer state of one parameter.
        group: Its parameter group.
    """
    beta2 = 1 - step_number(state) ** float(group["beta2_decay"])
    if not state or not beta2 > 0:
        return None
    if "variance" in state:
        return SecondMoment(state["variance"], beta2, _NO_CORRECTION)
    rows = state["row_var"].shape[-2]
    return SecondMoment(state["col_var"].detach() * rows, beta2, _NO_CORRECTION)


def _factored_estimate(live: LiveParameter, gradient: Tensor, weight: float, floor: float) -> Tensor:
    squared = gradient * gradient
    factors = []
    for name, dimension in (("row_var", -1), ("col_var", -2)):
        mean = squared.mean(dim=dimension, keepdim=True)
        previous = live.saved(name)
        factors.append(mean * weight if previous is None else torch.lerp(previous.detach(), mean, weight))
    rows, columns = factors
    return (rows @ columns).div_(rows.mean(dim=-2, keepdim=True).clamp_(min=floor))


def _rms(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor)) / math.sqrt(tensor.numel())
