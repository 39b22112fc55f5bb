r"""The step about to be taken, tried on the same batch and taken back: what no Hessian product can tell.

One gradient at θ + Δθ gives two measures of the *full* step, beyond the second-order model:

- the secant curvature :math:`Δθ^\top (g(θ+Δθ) - g(θ)) / (Δθ^\top A^{-1} Δθ)`, a Rayleigh quotient of the
  Hessian averaged along the step: one is the edge, as for the stability ratio;
- the trust-region ratio :math:`1 - ΔL/(g^\top Δθ)`: 0 where the loss is straight, ½ where the step ends in
  the minimum along its direction, 1 where it gains nothing, above 1 where it raises the loss (Conn, Gould
  and Toint 2000, chapter 6, of whose ρ it is the complement).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from foreshock.operators import Evaluation, GradientFunction, Loss, displaced, normalised_terms
from foreshock.preconditioner import Preconditioner
from foreshock.vectors import reciprocal


@dataclass(frozen=True)
class StepTrial:
    """What the step about to be taken does to the loss of its own batch.

    Attributes:
        loss_change: L(θ + Δθ) − L(θ).
        linear_change: gᵀΔθ, what the gradient alone promises; negative for a step downhill.
        secant_stability_ratio: Secant curvature along Δθ, as a multiple of the edge.
        trust_region_ratio: 1 − ΔL/(gᵀΔθ); NaN for a step that is not downhill.
    """

    loss_change: float
    linear_change: float
    secant_stability_ratio: float
    trust_region_ratio: float


def try_step(
    loss: Loss,
    preconditioner: Preconditioner,
    *,
    model: nn.Module | None = None,
    here: Evaluation | None = None,
) -> StepTrial:
    """Take the step, evaluate the loss, and take it back bit by bit.

    Call it inside `isolated`. Cost: 2 F, or 1 F if `here` is given.

    Args:
        loss: Returns the mean loss, a scalar tensor; or one `LossTerm` a micro-batch.
        preconditioner: The step about to be taken.
        model: The model behind the loss.
        here: Loss and gradient at the present parameters, from the same random numbers; None to evaluate.

    Raises:
        ValueError: If nothing moves.
        FloatingPointError: If the loss at θ + Δθ is not finite.
    """
    parameters = preconditioner.parameters
    move = preconditioner.displacement()
    if not bool(move.any()):
        raise ValueError("nothing moves in this step: every learning rate is 0, or no gradient is there")
    evaluate = GradientFunction(normalised_terms(loss), parameters, model)
    here = here or evaluate()
    with displaced(parameters, move, by=1.0):
        there = evaluate()
    if not math.isfinite(float(there.loss)):
        raise FloatingPointError(f"the loss after the step is {float(there.loss)}")
    sign = preconditioner.sign
    change = sign * float(there.loss - here.loss)
    linear = sign * float(torch.dot(here.gradient, move))
    bend = torch.dot(move, there.gradient - here.gradient) * sign
    root = preconditioner.scale_root()
    metric = torch.dot(move, move * reciprocal(root) ** 2)
    return StepTrial(
        loss_change=change,
        linear_change=linear,
        secant_stability_ratio=float(bend / metric),
        trust_region_ratio=1 - change / linear if linear < 0 else math.nan,
    )
