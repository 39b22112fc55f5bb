"""What is measured at every step: a handful of sums over the parameters, fetched in one transfer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foreshock.guarding.displacement import Displacement, inner
from foreshock.guarding.families import Family
from foreshock.guarding.policy import Measure
from foreshock.guarding.slots import Slot


@dataclass(frozen=True)
class StepSums:
    """Sums over all parameters with a gradient.

    Attributes:
        change: dᵀΔg over the parameters that moved in the last step and have a gradient again.
        length: dᵀA⁻¹d over the same parameters.
        squared_gradient: ‖g‖².
        preconditioned_gradient: gᵀD⁻¹g; NaN if it was not asked for.
    """

    change: float
    length: float
    squared_gradient: float
    preconditioned_gradient: float

    @property
    def secant(self) -> float:
        """The secant curvature in multiples of the edge; NaN if nothing moved."""
        return self.change / self.length if self.length > 0 else math.nan

    @property
    def finite(self) -> bool:
        """Whether the gradient is."""
        return math.isfinite(self.squared_gradient) and not (
            self.length > 0 and not math.isfinite(self.change)
        )


def measure_sums(
    slots: Sequence[Slot],
    family: Family,
    displacement: Displacement,
    *,
    needs: frozenset[Measure],
    unclipped: tuple[float, float],
    total: Callable[[Sequence[Sequence[float]]], list[float]],
) -> StepSums:
    """Measure what a policy needs, of the step about to be taken.

    Args:
        slots: Parameters with a gradient and a state.
        family: How to read them.
        displacement: The last step.
        needs: What to measure.
        unclipped: What the gradients of the last step and of this one are to be multiplied by, to undo
            clipping.
        total: Adds up rows of sums, one row a parameter, over parameters and processes.
    """
    preconditioned = "preconditioned gradient" in needs
    metric = family.metric(slots) if preconditioned or "secant" in needs else None
    columns = [_squared_norms([slot.gradient for slot in slots])]
    columns.append(_preconditioned(slots, metric.denominators) if preconditioned and metric else [])
    moved = [(i, known) for i, slot in enumerate(slots) if (known := displacement.moved(slot)) is not None]
    if "secant" not in needs or metric is None:
        moved = []
    backs = [back for _, (back, _) in moved]
    columns.append([inner(slots[i].gradient, back) for i, (back, _) in moved])
    columns.append([product for _, (_, product) in moved])
    columns.append(_lengths([metric.denominators[i] for i, _ in moved], backs) if metric else [])
    decayed = [back if slots[i].coupled_decay else None for i, (back, _) in moved]
    columns.append([inner(back, back) for back in decayed if back is not None])
    squared, weighted, now, before, lengths, decays = _fetch(columns)
    decay = iter(decays)
    last, present = unclipped
    rows = [
        [g / slot.scale**2, w, 0.0, 0.0]
        for slot, g, w in zip(slots, squared, weighted or squared, strict=True)
    ]
    for (i, _), new, old, length in zip(moved, now, before, lengths, strict=True):
        slot = slots[i]
        # The buffer is −d. The product of the last step was taken with a gradient that was unscaled by then.
        rows[i][2] = -(slot.sign * new * present - (slot.sign * slot.scale) * old * last)
        rows[i][2] += slot.coupled_decay * next(decay) if slot.coupled_decay else 0.0
        rows[i][3] = length / metric.rates[i] if metric and metric.rates[i] > 0 else 0.0
    gradient, energy, change, length = total(rows)
    return StepSums(change, length, gradient, energy if preconditioned else math.nan)


def _squared_norms(tensors: list[Tensor]) -> list[Tensor]:
    if any(tensor.dtype.itemsize < 4 for tensor in tensors):
        tensors = [tensor.float() for tensor in tensors]
    norms = list(torch._foreach_norm(tensors, 2)) if tensors else []
    return [norm * norm for norm in norms]


def _preconditioned(slots: Sequence[Slot], denominators: Sequence[Tensor]) -> list[Tensor]:
    used = [slot.used_gradient.to(d.dtype) for slot, d in zip(slots, denominators, strict=True)]
    ratios = torch._foreach_div(used, list(denominators)) if used else []
    return [inner(ratio, gradient) for ratio, gradient in zip(ratios, used, strict=True)]


def _lengths(denominators: list[Tensor], backs: list[Tensor]) -> list[Tensor]:
    """Return Σd²D of each tensor; the denominators are used up."""
    if not backs:
        return []
    wide = [back.to(d.dtype) for back, d in zip(backs, denominators, strict=True)]
    torch._foreach_mul_(denominators, wide)
    return [inner(d, back) for d, back in zip(denominators, wide, strict=True)]


def _fetch(columns: list[list[Tensor]]) -> list[list[float]]:
    flat = [value for column in columns for value in column]
    if not flat:
        return [[] for _ in columns]
    like = flat[0]
    values = iter(torch.stack([value.to(like.device, like.dtype) for value in flat]).tolist())
    return [[next(values) for _ in column] for column in columns]
