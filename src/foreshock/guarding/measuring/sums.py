"""What is measured at every step: a handful of sums over the parameters.

First what is nearly free, fetched in one transfer: ‖g‖², dᵀΔg, and a bound on dᵀA⁻¹d. Only where the bound
leaves open whether the secant is past the threshold, or gᵀD⁻¹g is asked for, D itself is computed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foreshock.guarding.families import Family, Metric, Slot, per_group
from foreshock.guarding.fetching import fetch
from foreshock.guarding.measuring.bundles import Bundle, flat
from foreshock.guarding.measuring.displacement import Displacement, Moved, inner
from foreshock.guarding.measuring.glance import norms
from foreshock.guarding.policies import Measure

Pair = tuple[Moved, tuple[int, ...]]
Total = Callable[[Sequence[Sequence[float]]], list[float]]


@dataclass(frozen=True)
class StepSums:
    """Sums over all parameters with a gradient.

    Attributes:
        squared_gradient: ‖g‖².
        change: dᵀΔg over the parameters that moved in the last step and have a gradient again.
        length: dᵀA⁻¹d over the same parameters, or a lower bound of it.
        moved: How many bundles they are, over all processes: where some moved elsewhere and none here, this
            process has to go along.
        coordinates: How many coordinates they are that have a gradient, over all processes.
        preconditioned_gradient: gᵀD⁻¹g; NaN if it was not asked for.
    """

    squared_gradient: float
    change: float = math.nan
    length: float = math.nan
    moved: float = 0.0
    coordinates: float = math.nan
    preconditioned_gradient: float = math.nan

    @property
    def secant(self) -> float:
        """The secant curvature in multiples of the edge, or an upper bound of it; NaN if it has none."""
        return self.change / self.length if self.length > 0 else math.nan

    @property
    def finite(self) -> bool:
        """Whether the gradient is, and what it was compared with."""
        return math.isfinite(self.squared_gradient) and not math.isinf(self.change)


@dataclass(frozen=True)
class Measurer:
    """Measure the step about to be taken.

    Attributes:
        slots: Parameters with a gradient and a state.
        family: How to read them.
        displacement: The last step.
        unclipped: What the gradients of the last step and of this one are to be multiplied by, to undo
            clipping.
        total: Adds up rows of sums, one row a parameter, over parameters and processes.
    """

    slots: Sequence[Slot]
    family: Family
    displacement: Displacement
    unclipped: tuple[float, float]
    total: Total

    def measure(self, needs: frozenset[Measure], *, exact_from: float) -> StepSums:
        """Return the sums that a policy needs.

        Args:
            needs: What to measure.
            exact_from: The secant is exact from this value on; below it an upper bound is enough.
        """
        moved = self.displacement.pairs(self.slots) if "secant" in needs else []
        sums = self._cheap(moved)
        closer = sums.moved > 0 and not sums.secant <= exact_from
        preconditioned = "preconditioned gradient" in needs
        if not (closer or preconditioned) or not sums.finite:
            return sums
        metric = self.family.metric(self.slots)
        if preconditioned:
            energies = fetch(_energies(self.slots, metric))
            sums = replace(sums, preconditioned_gradient=self.total([[e] for e in energies])[0])
        return self._exact(sums, moved, metric) if closer else sums

    def _cheap(self, moved: Sequence[Pair]) -> StepSums:
        sizes = norms([slot.gradient for slot in self.slots])
        members = [tuple(self.slots[place] for place in places) for _, places in moved]
        known = [
            _products(one, bundle, coupled_decay=bundle[0].coupled_decay)
            for (one, _), bundle in zip(moved, members, strict=True)
        ]
        fetched = iter(fetch([*sizes, *itertools.chain(*known)]))
        rows = [
            [(next(fetched) / slot.scale) ** 2, 0.0, 0.0, 0.0, float(slot.gradient.numel())]
            for slot in self.slots
        ]
        rates = per_group(self.slots, self.family.rate)
        last, present = self.unclipped
        for (one, (place, *_)), products in zip(moved, known, strict=True):
            now, before, *rest = [next(fetched) for _ in products]
            slot = self.slots[place]
            squared = rest.pop() if slot.coupled_decay else 0.0
            # The buffer is −d. The gradient of the last step was unscaled when its product was taken.
            change = slot.sign * (before * slot.scale * last - now * present) + slot.coupled_decay * squared
            rows[place][1:4] = change, _bound(slot, one, rest, rate=rates[id(slot.group)]), 1.0
        return StepSums(*self.total(rows))

    def _exact(self, sums: StepSums, moved: Sequence[Pair], metric: Metric) -> StepSums:
        which = [place for _, places in moved for place in places]
        backs = [back for one, _ in moved for back in one.backs]
        lengths = fetch(_lengths([metric.denominators[i] for i in which], backs))
        rows = [[0.0] for _ in self.slots]
        for i, length in zip(which, lengths, strict=True):
            rows[i] = [length / metric.rates[i] if metric.rates[i] > 0 else 0.0]
        exact = self.total(rows)[0]
        return replace(sums, length=exact if exact > 0 else math.nan)


def _bound(slot: Slot, moved: Moved, products: Sequence[float], *, rate: float) -> float:
    if not products or not rate > 0:
        return 0.0
    beta2, t = float(slot.group["betas"][1]), slot.updates
    fallen = math.sqrt(beta2 * (1 - beta2 ** (t - 1)) / (1 - beta2**t)) if t > 1 else 0.0
    return fallen * moved.least_length(*products) / rate


def _products(moved: Moved, members: Bundle, *, coupled_decay: float) -> list[Tensor]:
    """Return −gᵀd with the gradient of now, what is known of the last step, and with decay ‖d‖²."""
    now = inner(flat(members, lambda slot: slot.gradient), moved.back)
    return [now, *moved.products, *([inner(moved.back, moved.back)] if coupled_decay else [])]


def _energies(slots: Sequence[Slot], metric: Metric) -> list[Tensor]:
    used = [slot.used_gradient.to(d.dtype) for slot, d in zip(slots, metric.denominators, strict=True)]
    ratios = torch._foreach_div(used, metric.denominators)
    return [inner(ratio, gradient) for ratio, gradient in zip(ratios, used, strict=True)]


def _lengths(denominators: list[Tensor], backs: list[Tensor]) -> list[Tensor]:
    """Return Σd²D of each tensor; the denominators are used up."""
    if not backs:
        return []
    wide = [back.to(d.dtype) for back, d in zip(backs, denominators, strict=True)]
    torch._foreach_mul_(denominators, wide)
    return [inner(d, back) for d, back in zip(denominators, wide, strict=True)]
