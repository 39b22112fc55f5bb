"""The sums over the parameters that a guard looks at, and sums over processes.

First what is nearly free: ‖g‖², dᵀΔg, and a bound on dᵀA⁻¹d. Only where the bound leaves open whether the
secant is past the threshold, or gᵀD⁻¹g is needed, D itself is computed. What is computed here stays on the
device: `StepMeasurer` fetches it, as much as possible in one transfer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foreshock.guarding.displacement import Moved, inner
from foreshock.guarding.families import Metric
from foreshock.guarding.parameters import Bundle, Slot, columns, flat
from foreshock.vectors import shard_groups

Pair = tuple[Moved, tuple[int, ...]]
"""What moved in the last step, and the places of its parameters among the slots of this one."""


@dataclass(frozen=True)
class Measured:
    """What was measured of the step about to be taken.

    Attributes:
        squared_gradient: ‖g‖².
        coordinates: How many coordinates have a gradient, over all processes.
        finite: Whether the gradient is, and its change.
        updates: t ≥ 1 of the step.
        beta2: β₂ of the step; None without a decaying average of g².
        secant: The secant curvature in multiples of the edge, or an upper bound of it; NaN if there is none.
        preconditioned_gradient: gᵀD⁻¹g; NaN if it was not needed.
    """

    squared_gradient: float
    coordinates: float
    finite: bool
    updates: int
    beta2: float | None
    secant: float = math.nan
    preconditioned_gradient: float = math.nan


class Reduction:
    """Add up, over processes, what each computed of its own coordinates.

    Of distributed tensors (FSDP2) the groups are known by themselves. Where parameters are plain tensors that
    differ between processes (FSDP1, ZeRO), the group has to be given. Under data parallelism every process
    has all coordinates and the same gradients, hence the same sums: there is nothing to do, and a group that
    is given multiplies numerators and denominators alike.

    Args:
        slots: The parameters, in the order of the rows to come.
        group: A process group over which to add up besides; None for none.
    """

    def __init__(self, slots: Sequence[Slot], group: Any = None) -> None:
        self._keys = [shard_groups(slot.key) if slot.sharded else () for slot in slots]
        # Sums of shards and of whole tensors have to be kept apart: the latter are in every process already.
        self._here = not any(self._keys)
        self._group = group
        self._device = slots[0].parameter.device if slots else torch.device("cpu")

    @property
    def local(self) -> bool:
        """Whether this process has all of the parameters, so that nothing is added up over processes."""
        return self._here and self._group is None

    def total(self, rows: Sequence[Sequence[float]]) -> list[float]:
        """Return the sums of columns over parameters and processes.

        Args:
            rows: One row a parameter.
        """
        whole = columns(rows) if self._here else self._total_of_shards(rows)
        if self._group is not None:
            whole = self._reduced(whole, self._group, torch.distributed.ReduceOp.SUM)
        return whole

    def largest(self, value: float) -> float:
        """Return the largest value of any process."""
        # In the same order in every process, as collectives require: that of the parameters.
        groups = list(dict.fromkeys(group for key in self._keys for group in key))
        for group in (*groups, *(() if self._group is None else (self._group,))):
            [value] = self._reduced([value], group, torch.distributed.ReduceOp.MAX)
        return value

    def _total_of_shards(self, rows: Sequence[Sequence[float]]) -> list[float]:
        width = len(rows[0]) if rows else 0
        sums: dict[tuple[Any, ...], list[Sequence[float]]] = {}
        for key, row in zip(self._keys, rows, strict=True):
            sums.setdefault(key, []).append(row)
        whole = [0.0] * width
        for groups, members in sums.items():
            part = columns(members)
            for group in groups:
                part = self._reduced(part, group, torch.distributed.ReduceOp.SUM)
            whole = [old + new for old, new in zip(whole, part, strict=True)]
        return whole

    def _reduced(self, values: Sequence[float], group: Any, operation: Any) -> list[float]:
        tensor: Tensor = torch.tensor(list(values), dtype=torch.float64, device=self._device)
        torch.distributed.all_reduce(tensor, op=operation, group=group)
        return list(tensor.tolist())


def secant_products(slots: Sequence[Slot], moved: Sequence[Pair]) -> list[list[Tensor]]:
    """Return the products of each bundle that moved: −gᵀd, those of the last step, and ‖d‖² with L2 decay.

    Args:
        slots: Parameters with a gradient and a state.
        moved: What moved in the last step.
    """
    products = []
    for one, places in moved:
        members: Bundle = tuple(slots[place] for place in places)
        now = inner(flat(members, lambda slot: slot.gradient), one.back)
        squared = [inner(one.back, one.back)] if members[0].coupled_decay else []
        products.append([now, *one.products, *squared])
    return products


def secant_columns(
    slot: Slot, moved: Moved, products: Sequence[float], *, rate: float, unclipped: tuple[float, float]
) -> tuple[float, float]:
    """Return dᵀΔg and a lower bound of dᵀA⁻¹d of one bundle.

    Args:
        slot: Its first parameter.
        moved: Its last displacement.
        products: What `secant_products` returned of it, fetched.
        rate: cη/2 if it is known, else 0.
        unclipped: Factors on the gradients of the last step and of this one that undo clipping.
    """
    last, present = unclipped
    now, before, *rest = products
    squared = rest.pop() if slot.coupled_decay else 0.0
    # The buffer is −d, hence before − now. Of the last step's gradient the scale was divided out already.
    change = slot.sign * (before * slot.scale * last - now * present) + slot.coupled_decay * squared
    return change, _bound(slot, moved, rest, rate=rate)


def lengths(moved: Sequence[Pair], metric: Metric) -> dict[int, Tensor]:
    """Return Σd²D of each parameter that moved, by its place; its denominator in the metric is used up.

    Args:
        moved: What moved in the last step.
        metric: D of all parameters.
    """
    places = [place for _, ones in moved for place in ones]
    backs = [back for one, _ in moved for back in one.backs]
    if not backs:
        return {}
    denominators = [metric.denominators[place] for place in places]
    wide = [back.to(d.dtype) for back, d in zip(backs, denominators, strict=True)]
    torch._foreach_mul_(denominators, wide)
    products = [inner(d, back) for d, back in zip(denominators, wide, strict=True)]
    return dict(zip(places, products, strict=True))


def energies(slots: Sequence[Slot], metric: Metric) -> list[Tensor]:
    """Return gᵀD⁻¹g of each parameter.

    Args:
        slots: Parameters with a gradient and a state.
        metric: Their D.
    """
    used = [slot.used_gradient.to(d.dtype) for slot, d in zip(slots, metric.denominators, strict=True)]
    ratios = torch._foreach_div(used, metric.denominators)
    return [inner(ratio, gradient) for ratio, gradient in zip(ratios, used, strict=True)]


def _bound(slot: Slot, moved: Moved, products: Sequence[float], *, rate: float) -> float:
    if not products or not rate > 0:
        return 0.0
    beta2, t = float(slot.group["betas"][1]), slot.updates
    # By how much D may have fallen since the last step, see the module `displacement`.
    fallen = math.sqrt(beta2 * (1 - beta2 ** (t - 1)) / (1 - beta2**t)) if t > 1 else 0.0
    return fallen * moved.least_length(*products) / rate
