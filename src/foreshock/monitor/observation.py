"""The free signals of one training step: what loss, gradients and optimizer state tell without a probe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch.optim import Optimizer

from foreshock.curvature import CurvatureReading
from foreshock.dynamics import second_moment_lag
from foreshock.forecast import CurvatureSignals
from foreshock.preconditioner import (
    Preconditioner,
    live_groups,
    read_gradient_norm,
    read_second_moment_sums,
)
from foreshock.representation import short_repr


@dataclass(frozen=True)
class StepObservation:
    """The free signals of one training step.

    Attributes:
        step: Number of updates before this one.
        loss: The training loss.
        gradient_norm: ‖g‖ over all parameters of the optimizer.
        learning_rate: The largest η of a parameter group.
        lag_ratio: Σg²/Σv̂.
        decay_exponent: log(Σv_t/Σv_{t−1})/log β₂.
        squared_gradient: Σg² over the coordinates that have a second moment, or over all if none has.
        second_moment: Σv̂ over them; NaN if none has.
    """

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float
    lag_ratio: float
    decay_exponent: float
    squared_gradient: float
    second_moment: float

    __repr__ = short_repr


def observe_step(
    optimizers: Sequence[Optimizer], *, step: int, loss: float, gradient_scale: float
) -> StepObservation:
    """Read the free signals, between ``backward()`` and ``step()``. Cost: three norms.

    Args:
        optimizers: The optimizers.
        step: Step number.
        loss: Loss of the step.
        gradient_scale: What ``.grad`` still has to be divided by.
    """
    sums = read_second_moment_sums(optimizers, gradient_scale=gradient_scale)
    lag = second_moment_lag(sums)
    norm = read_gradient_norm(optimizers, gradient_scale=gradient_scale)
    return StepObservation(
        step=step,
        loss=loss,
        gradient_norm=norm,
        learning_rate=largest_rate(optimizers),
        lag_ratio=lag.lag_ratio,
        decay_exponent=lag.decay_exponent,
        squared_gradient=sum(part.squared_gradient for part in sums) if sums else norm**2,
        second_moment=sum(part.corrected for part in sums) if sums else math.nan,
    )


def largest_rate(optimizers: Sequence[Optimizer]) -> float:
    """Return the largest learning rate of a parameter group."""
    return max(float(group["lr"]) for optimizer in optimizers for group in live_groups(optimizer))


def second_moment_decay(optimizers: Sequence[Optimizer]) -> float | None:
    """Return β₂ of the first parameter group that has one; None if none has."""
    for optimizer in optimizers:
        for group in live_groups(optimizer):
            betas = group.get("betas")
            decay = float(betas[1]) if betas is not None else float(group.get("alpha", math.nan))
            if 0 < decay < 1:
                return decay
    return None


def curvature_signals(
    seen: StepObservation, reading: CurvatureReading, preconditioner: Preconditioner
) -> CurvatureSignals:
    """Return a reading as the plain numbers that a forecast takes.

    Args:
        seen: The free signals of the step.
        reading: The curvature at that step.
        preconditioner: The step about to be taken.
    """
    recursion = preconditioner.recursion
    return CurvatureSignals(
        ratio=reading.stability_ratio,
        learning_rate=preconditioner.largest_rate,
        relative_error=reading.relative_error,
        gradient_ratio=reading.gradient_stability_ratio,
        predicted_change=reading.predicted_loss_change,
        alignment=reading.alignment,
        excess_loss=reading.excess_loss,
        lag_ratio=seen.lag_ratio,
        loss=seen.loss,
        beta1=recursion.decay,
        direct_share=recursion.direct,
    )
