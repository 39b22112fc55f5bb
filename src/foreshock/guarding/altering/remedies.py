"""What a guard can do to the step about to be taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from foreshock.guarding.altering.raising import raise_factors
from foreshock.guarding.families import Family, Slot, Write
from foreshock.guarding.fetching import fetch
from foreshock.guarding.measuring import Reduction
from foreshock.guarding.policies import Decision
from foreshock.guarding.record import Remedy
from foreshock.guarding.tracking import NaturalMoment
from foreshock.preconditioner import unwrap

_OUT_OF_PROPORTION = 1e6
_BELOW: Mapping[Remedy, float] = MappingProxyType({"beta2": 1.0})


class Workbench:
    """Apply decisions to one step.

    Args:
        optimizer: The optimizer.
        family: How to read it.
        slots: Its parameters that have a gradient and a state.
        natural: Told of every raise.
        reduction: Sums over processes.
        directions: −d of each parameter, or None; and the components of the eigenvector, if there are any.

    Attributes:
        gradient_factor: By what the gradients were multiplied.
        rate_factor: By what the learning rate is to be multiplied from now on.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        family: Family,
        slots: Sequence[Slot],
        *,
        natural: NaturalMoment,
        reduction: Reduction,
        directions: Mapping[str, Sequence[Tensor | None]],
    ) -> None:
        self._groups = unwrap(optimizer).param_groups
        self._family, self._slots = family, slots
        self._natural, self._reduction, self._directions = natural, reduction, directions
        self.gradient_factor = self.rate_factor = 1.0

    def require(self, decision: Decision) -> None:
        """Refuse a decision that can't be carried out; nothing is done yet.

        Args:
            decision: What the policy asks for.

        Raises:
            ValueError: If there is no such remedy or direction, or its factor is out of all proportion.
        """
        remedy, factor = decision.remedy, decision.factor
        if remedy not in _APPLY:
            raise ValueError(f"there is no remedy {remedy!r}; there are {', '.join(_APPLY)}")
        if remedy.startswith("raise") and not 1 <= factor <= _OUT_OF_PROPORTION:
            raise ValueError(
                f"a raise of √v by the factor {factor!r} was asked for; it must lie in "
                f"[1, {_OUT_OF_PROPORTION:g}]: v would take for ever to forget more"
            )
        if not 0 <= factor < _BELOW.get(remedy, math.inf):
            below = _BELOW.get(remedy, math.inf)
            raise ValueError(f"the factor of {remedy!r} is {factor!r}; it must lie in [0, {below:g})")
        if remedy == "raise along" and self._family.diagonal and decision.along not in self._directions:
            raise ValueError(
                f"v was to be raised along the {decision.along!r}, which is not known at this step; known is "
                f"the {' and the '.join(map(repr, self._directions))}"
            )

    def apply(self, decision: Decision) -> bool:
        """Do what was decided: all of it, or nothing if that fails.

        Args:
            decision: What the policy asks for; `require` it first.

        Returns:
            Whether there is something to tell: not if nothing could be changed.
        """
        return _APPLY[decision.remedy](self, decision)

    def _raise_all(self, decision: Decision) -> bool:
        squared = decision.factor**2
        raised = _write([write for slot in self._slots for write in self._family.raised(slot, squared)])
        if raised:
            self._natural.raised(squared)
        return raised

    def _raise_along(self, decision: Decision) -> bool:
        if not self._family.diagonal:
            return self._raise_all(decision)
        metric = self._family.metric(self._slots)
        direction = self._directions[decision.along]
        scaled = decision.along == "displacement"
        weights = []
        for d, part, rate in zip(metric.denominators, direction, metric.rates, strict=True):
            if part is None or not rate > 0:
                weights.append(torch.zeros_like(d))
            else:
                square = part.to(d.dtype).square()
                weights.append(square.mul_(d).div_(rate) if scaled else square)
        factors = raise_factors(
            weights, decision.factor, total=self._reduction.total, largest=self._reduction.largest
        )
        del weights  # as large as what is to be written
        writes: list[Write] = []
        before_each, after_each = [], []
        for slot, d, k in zip(self._slots, metric.denominators, factors, strict=True):
            writes += self._family.raised(slot, k)
            squares = d.square_()
            before_each.append(squares.sum())
            after_each.append(squares.mul_(k).sum())
        sums = fetch([*before_each, *after_each])
        before, after = self._reduction.total(
            list(zip(sums[: len(before_each)], sums[len(before_each) :], strict=True))
        )
        if _write(writes):
            self._natural.raised(after / before if 0 < before < math.inf else 1.0)
        return bool(writes)

    def _clip(self, decision: Decision) -> bool:
        gradients = [slot.gradient for slot in self._slots]
        torch._foreach_mul_(gradients, decision.factor)
        self.gradient_factor *= decision.factor
        return decision.factor != 1

    def _raise_epsilon(self, decision: Decision) -> bool:
        changed = any(float(group["eps"]) < decision.factor for group in self._groups)
        for group in self._groups:
            group["eps"] = max(float(group["eps"]), decision.factor)
        return changed

    def _lower_beta2(self, decision: Decision) -> bool:
        """Switch β₂, v rescaled so that the bias correction of v̂ doesn't jump."""
        wanted = decision.factor
        changed = any(float(group["betas"][1]) > wanted for group in self._groups)
        for slot in self._slots:
            beta2 = float(slot.group["betas"][1])
            made = slot.updates - 1
            ratio = (1 - wanted**made) / (1 - beta2**made)
            if wanted < beta2 and "exp_avg_sq" in slot.state:
                slot.state["exp_avg_sq"].mul_(ratio)
                if slot.group.get("amsgrad", False):
                    slot.state["max_exp_avg_sq"].mul_(ratio)
        for group in self._groups:
            group["betas"] = (group["betas"][0], min(float(group["betas"][1]), wanted))
        return changed

    def _lower_rate(self, decision: Decision) -> bool:
        self.rate_factor *= decision.factor
        return decision.factor != 1

    def _change_nothing(self, _: Decision) -> bool:
        """Do nothing: the action is there to be told."""
        return True


class HeldOptions:
    """Options that differ for the duration of one step, so that schedulers and checkpoints don't see it."""

    def __init__(self) -> None:
        self._saved: list[tuple[dict[str, Any], str, Any]] = []

    def hold(self, groups: Sequence[dict[str, Any]], factors: Mapping[str, float]) -> None:
        """Multiply options until `restore`.

        Args:
            groups: Parameter groups.
            factors: Factor by name of the option.
        """
        for group in groups:
            for name, factor in factors.items():
                if factor != 1:
                    self._saved.append((group, name, group[name]))
                    group[name] = group[name] * factor

    def restore(self) -> None:
        """Put the options back."""
        while self._saved:
            group, name, value = self._saved.pop()
            group[name] = value


def _write(writes: Sequence[Write]) -> bool:
    """Write into an optimizer's state, and return whether there was anything to write."""
    for moment, wanted in writes:
        moment.copy_(wanted)
    return bool(writes)


_APPLY: Mapping[Remedy, Callable[[Workbench, Decision], bool]] = MappingProxyType(
    {
        "raise all": Workbench._raise_all,
        "raise along": Workbench._raise_along,
        "clip": Workbench._clip,
        "epsilon": Workbench._raise_epsilon,
        "beta2": Workbench._lower_beta2,
        "learning rate": Workbench._lower_rate,
        "stand aside": Workbench._change_nothing,
    }
)
