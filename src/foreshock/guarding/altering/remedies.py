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
from foreshock.guarding.families import Family, Slot
from foreshock.guarding.fetching import fetch
from foreshock.guarding.measuring import Reduction
from foreshock.guarding.policies import Decision
from foreshock.guarding.record import Remedy
from foreshock.guarding.tracking import NaturalMoment
from foreshock.preconditioner import unwrap

_OUT_OF_PROPORTION = 1e6


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

    def apply(self, decision: Decision) -> None:
        """Do what was decided.

        Args:
            decision: What the policy asks for.

        Raises:
            ValueError: If there is no such remedy, or its factor is out of all proportion.
        """
        if decision.remedy not in _APPLY:
            raise ValueError(f"there is no remedy {decision.remedy!r}; there are {', '.join(_APPLY)}")
        if decision.remedy.startswith("raise") and not 1 <= decision.factor <= _OUT_OF_PROPORTION:
            raise ValueError(
                f"a raise of √v by the factor {decision.factor!r} was asked for; it must lie in "
                f"[1, {_OUT_OF_PROPORTION:g}]: v would take for ever to forget more"
            )
        _APPLY[decision.remedy](self, decision)

    def _raise_all(self, decision: Decision) -> None:
        squared = decision.factor**2
        for slot in self._slots:
            self._family.raise_by(slot, squared)
        self._natural.raised(squared)

    def _raise_along(self, decision: Decision) -> None:
        if not self._family.diagonal:
            self._raise_all(decision)
            return
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
        before_each, after_each = [], []
        for slot, d, k in zip(self._slots, metric.denominators, factors, strict=True):
            self._family.raise_by(slot, k)
            squares = d.square_()
            before_each.append(squares.sum())
            after_each.append(squares.mul_(k).sum())
        sums = fetch([*before_each, *after_each])
        before, after = self._reduction.total(
            list(zip(sums[: len(before_each)], sums[len(before_each) :], strict=True))
        )
        self._natural.raised(after / before if 0 < before < math.inf else 1.0)

    def _clip(self, decision: Decision) -> None:
        gradients = [slot.gradient for slot in self._slots]
        torch._foreach_mul_(gradients, decision.factor)
        self.gradient_factor *= decision.factor

    def _raise_epsilon(self, decision: Decision) -> None:
        for group in self._groups:
            group["eps"] = max(float(group["eps"]), decision.factor)

    def _lower_beta2(self, decision: Decision) -> None:
        """Switch β₂, v rescaled so that the bias correction of v̂ doesn't jump."""
        wanted = decision.factor
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

    def _lower_rate(self, decision: Decision) -> None:
        self.rate_factor *= decision.factor

    def _change_nothing(self, decision: Decision) -> None:
        """Do nothing: the action is there to be told."""


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


_APPLY: Mapping[Remedy, Callable[[Workbench, Decision], None]] = MappingProxyType(
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
