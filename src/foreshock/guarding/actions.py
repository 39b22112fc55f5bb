"""What a policy decided is done: to the step about to be taken, or from now on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from foreshock.guarding.directional import raise_factors
from foreshock.guarding.families import Family
from foreshock.guarding.gradient_norms import fetch
from foreshock.guarding.parameters import Slot
from foreshock.guarding.policies import Decision
from foreshock.guarding.record import Remedy
from foreshock.guarding.sums import Reduction
from foreshock.guarding.tracking import RunMemory
from foreshock.preconditioner import Write

_OUT_OF_PROPORTION = 1e6  # at β₂ = 0.999 v forgets such a factor on √v in 28,000 steps
_BELOW: Mapping[Remedy, float] = MappingProxyType({"beta2": 1.0})


@dataclass(frozen=True)
class ComingStep:
    """What actions need to know of the step about to be taken.

    Attributes:
        slots: The parameters that have a gradient and a state.
        reduction: Sums over processes.
        directions: By name, the components of a direction for each parameter; None where it has none.
    """

    slots: Sequence[Slot]
    reduction: Reduction
    directions: Mapping[str, Sequence[Tensor | None]]


class ActionApplier:
    """Apply decisions to one optimizer, and keep the guard's memory in step with them.

    v is raised before the step, in v_{t−1}, because the update inside ``step()`` then makes the wanted v_t by
    itself; see `foreshock.preconditioner.raising`.

    Args:
        optimizer: The optimizer, unwrapped.
        family: How to read and raise it.
        memory: What the guard remembers.

    Attributes:
        failure: What went wrong after a part was done; None if nothing did. What was done is reported first.
    """

    def __init__(self, optimizer: Optimizer, family: Family, memory: RunMemory) -> None:
        self._optimizer, self._family, self._memory = optimizer, family, memory
        self.failure: Exception | None = None

    def apply(self, decisions: Sequence[Decision], step: ComingStep) -> list[Decision]:
        """Do what was decided, all of it as far as that can be known before.

        Args:
            decisions: What the policy asks for.
            step: The step about to be taken.

        Returns:
            What was done and changed something. If one fails after others were done, it ends there, and
            `failure` says so.

        Raises:
            ValueError: If one of them can't be done: nothing was.
        """
        # Refused before anything is done: half of what a policy asks for may be worse than nothing.
        for decision in decisions:
            self._require(decision, step)
        done: list[Decision] = []
        try:
            for decision in decisions:
                if not _APPLY[decision.remedy](self, decision, step):
                    continue
                done.append(decision)
        except Exception as error:
            if not done:
                raise
            self.failure = RuntimeError(
                f"only {len(done)} of {len(decisions)} decisions could be carried out: "
                f"{type(error).__name__}: {error}"
            )
        return done

    def _require(self, decision: Decision, step: ComingStep) -> None:
        """Refuse a decision that can't be carried out, before anything is done."""
        remedy, factor = decision.remedy, decision.factor
        if remedy not in _APPLY:
            raise ValueError(f"there is no remedy {remedy!r}; there are {', '.join(_APPLY)}")
        if remedy.startswith("raise") and not 1 <= factor <= _OUT_OF_PROPORTION:
            raise ValueError(
                f"a raise of √v by the factor {factor!r} was asked for; it must lie in "
                f"[1, {_OUT_OF_PROPORTION:g}]: v would take for ever to forget more"
            )
        below = _BELOW.get(remedy, math.inf)
        if not 0 <= factor < below:
            raise ValueError(f"the factor of {remedy!r} is {factor!r}; it must lie in [0, {below:g})")
        elementwise = self._family.reader.elementwise
        if remedy == "raise along" and elementwise and decision.along not in step.directions:
            raise ValueError(
                f"v was to be raised along the {decision.along!r}, which is not known at this step; known is "
                f"the {' and the '.join(map(repr, step.directions))}"
            )

    # Each of the following returns whether there is something to report: not if nothing could be changed.

    def _raise_all(self, decision: Decision, step: ComingStep) -> bool:
        squared = decision.factor**2  # the factor is that on √v
        raised = _write([write for slot in step.slots for write in self._family.raised(slot, squared)])
        if raised:
            self._memory.natural.raised(squared)
            if decision.remedy == "raise all":
                self._memory.raised_all(decision.factor)
        return raised

    def _raise_along(self, decision: Decision, step: ComingStep) -> bool:
        if not self._family.reader.elementwise:
            return self._raise_all(decision, step)
        metric = self._family.metric(step.slots)
        # With a learning rate of zero, as at the end of a schedule, no direction has a length.
        if not step.reduction.largest(max(metric.rates, default=0.0)) > 0:
            return False
        weights = []
        for d, part, rate in zip(
            metric.denominators, step.directions[decision.along], metric.rates, strict=True
        ):
            if part is None or not rate > 0:
                weights.append(torch.zeros_like(d))
                continue
            # Shares in dᵀA⁻¹d; an eigenvector of the symmetric form has A^{-1/2} in it already. The gradient
            # stands for d = Ag: of a single unstable direction q, g = Hq and AHq ∝ q.
            square = part.to(d.dtype).square()
            if decision.along == "displacement":
                square.mul_(d).div_(rate)
            elif decision.along == "gradient":
                square.div_(d).mul_(rate)
            weights.append(square)
        factors = raise_factors(
            weights, decision.factor, total=step.reduction.total, largest=step.reduction.largest
        )
        del weights  # as large as what is to be written
        writes: list[Write] = []
        before_each, after_each = [], []
        for slot, d, k in zip(step.slots, metric.denominators, factors, strict=True):
            writes += self._family.raised(slot, k)
            squares = d.square_()
            before_each.append(squares.sum())
            after_each.append(squares.mul_(k).sum())
        sums = fetch([*before_each, *after_each])
        before, after = step.reduction.total(
            list(zip(sums[: len(before_each)], sums[len(before_each) :], strict=True))
        )
        if _write(writes):
            # D², not v: it is what all families have, and ε is neglected.
            self._memory.natural.raised(after / before if 0 < before < math.inf else 1.0)
        return bool(writes)

    def _clip(self, decision: Decision, step: ComingStep) -> bool:
        # In ``.grad`` itself, before the optimizer adds weight decay to it.
        torch._foreach_mul_([slot.gradient for slot in step.slots], decision.factor)
        self._memory.clips.coming *= decision.factor
        return decision.factor != 1

    def _raise_epsilon(self, decision: Decision, _: ComingStep) -> bool:
        groups = self._optimizer.param_groups
        changed = any(float(group["eps"]) < decision.factor for group in groups)
        for group in groups:
            group["eps"] = max(float(group["eps"]), decision.factor)
        return changed

    def _lower_beta2(self, decision: Decision, step: ComingStep) -> bool:
        """Switch β₂, v rescaled so that the bias correction of v̂ doesn't jump."""
        wanted, groups = decision.factor, self._optimizer.param_groups
        changed = any(float(group["betas"][1]) > wanted for group in groups)
        # v̂ = v/(1 − β₂ᵗ): with a smaller β₂ the same v would be corrected by less, as if it had fallen.
        for slot in step.slots:
            beta2 = float(slot.group["betas"][1])
            made = slot.updates - 1
            ratio = (1 - wanted**made) / (1 - beta2**made)
            if wanted < beta2 and "exp_avg_sq" in slot.state:
                slot.state["exp_avg_sq"].mul_(ratio)
                if slot.group.get("amsgrad", False):
                    slot.state["max_exp_avg_sq"].mul_(ratio)
        for group in groups:
            group["betas"] = (group["betas"][0], min(float(group["betas"][1]), wanted))
        return changed

    def _lower_rate(self, decision: Decision, _: ComingStep) -> bool:
        self._memory.rate_factor *= decision.factor
        return decision.factor != 1

    def _change_nothing(self, decision: Decision, step: ComingStep) -> bool:
        """Do nothing: the action is there to be reported."""
        del decision, step
        return True


class HeldOptions:
    """Options that differ for the duration of one step, so that schedulers and checkpoints don't see it.

    Args:
        optimizer: The optimizer, unwrapped.
        decoupled: Whether its weight decay is decoupled, where a group has no ``decoupled_weight_decay``.

    Attributes:
        saved: The options to be put back: group, name, value.
    """

    def __init__(self, optimizer: Optimizer, *, decoupled: bool) -> None:
        self._optimizer, self._decoupled = optimizer, decoupled
        self.saved: list[tuple[dict[str, Any], str, Any]] = []

    def hold(self, factors: Mapping[str, float]) -> None:
        """Multiply options until `restore`.

        Args:
            factors: Factor by name of the option; on ``weight_decay`` only where that is decoupled.
        """
        for name, factor in factors.items():
            for group in self._optimizer.param_groups if factor != 1 else ():
                if name == "weight_decay" and not group.get("decoupled_weight_decay", self._decoupled):
                    continue
                # The value itself is put back, not divided out: it is the same bits again.
                self.saved.append((group, name, group[name]))
                group[name] = group[name] * factor

    def restore(self) -> None:
        """Put the options back."""
        while self.saved:
            group, name, value = self.saved.pop()
            group[name] = value


def _write(writes: Sequence[Write]) -> bool:
    """Write into an optimizer's state, and return whether there was anything to write.

    Raises:
        ValueError: If one of the writes is impossible: nothing was written.
    """
    # First all of them: one that fails after others would leave v raised in part, and nobody told.
    for moment, wanted in writes:
        if not (isinstance(wanted, Tensor) and wanted.shape == moment.shape):
            shape = tuple(wanted.shape) if isinstance(wanted, Tensor) else repr(wanted)
            raise ValueError(
                f"raise_second_moment of the optimizer's Reader asks to write {shape} into a state of shape "
                f"{tuple(moment.shape)}; it must be a tensor of that shape"
            )
    # A NaN or a negative v would be in the weights after one step, and for good; inf would stay in v.
    filled = [wanted for _, wanted in writes if wanted.numel()]
    bounds = fetch([_wide(bound) for wanted in filled for bound in torch.aminmax(wanted)])
    if not all(0 <= bound < math.inf for bound in bounds):
        raise ValueError(
            "raise_second_moment of the optimizer's Reader asks to write numbers between "
            f"{min(bounds):g} and {max(bounds):g}; a second moment is finite and not negative"
        )
    for moment, wanted in writes:
        moment.copy_(wanted)
    return bool(writes)


def _wide(number: Tensor) -> Tensor:
    # What is fetched together gets the type of the first, and float16 would turn a v of 1e5 into infinity.
    return number.float() if number.dtype.itemsize < 4 else number


_APPLY: Mapping[Remedy, Callable[[ActionApplier, Decision, ComingStep], bool]] = MappingProxyType(
    {
        "raise all": ActionApplier._raise_all,
        "raise along": ActionApplier._raise_along,
        "clip": ActionApplier._clip,
        "epsilon": ActionApplier._raise_epsilon,
        "beta2": ActionApplier._lower_beta2,
        "learning rate": ActionApplier._lower_rate,
        "cooldown": ActionApplier._change_nothing,
    }
)
