"""One guarded step after the other: measure, decide, act, remember."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from foreshock.guarding.clipping import ClipRecord
from foreshock.guarding.directions import find_directions
from foreshock.guarding.displacement import Displacement
from foreshock.guarding.families import find_family
from foreshock.guarding.natural import NaturalMoment
from foreshock.guarding.pairs import PairAverage
from foreshock.guarding.policy import Decision, GuardSignals, Measure, Policy
from foreshock.guarding.record import GuardAction
from foreshock.guarding.reduction import Reduction
from foreshock.guarding.remedies import HeldOptions, Workbench
from foreshock.guarding.slots import Slot, read_slots
from foreshock.guarding.sums import Measurer, StepSums
from foreshock.preconditioner import stock_name, unwrap

_EVERY_FEW: frozenset[Measure] = frozenset({"secant"})
_NOTHING: frozenset[Measure] = frozenset()
_STRIDE, _FAR = 4, 1 / 3


class Engine:
    """Guard the steps of one optimizer; `Guard` hangs it on.

    Args:
        optimizer: The optimizer.
        policy: When and how to act.
        group: Process group to add sums up over besides, or None.

    Attributes:
        step: Updates seen.
        pairs: The noise of mini-batches, as far as it was measured.
        natural: The second moment as it would be without the guard.
        clips: By what gradients were multiplied.
        passed_by: Whether nothing was measured at the last step because something failed.
    """

    def __init__(self, optimizer: Optimizer, policy: Policy, *, group: Any = None) -> None:
        self._optimizer, self._policy, self._group = unwrap(optimizer), policy, group
        self._family, self._name = find_family(optimizer), stock_name(optimizer)
        self._displacement, self._held = Displacement(), HeldOptions()
        self.natural, self.pairs, self.clips = NaturalMoment(), PairAverage(), ClipRecord()
        self.step = 0
        self._rate_factor = 1.0
        self._moving: list[Slot] = []
        self._curvature: tuple[float, Tensor | None] = (math.nan, None)
        self._finite = True
        self._wait = 0  # steps until the secant is measured again
        self._loaded = False  # a state was loaded, and no step made since
        self.passed_by = False

    def see_curvature(self, ratio: float, vector: Tensor) -> None:
        """Take λ_max of the coming step and its eigenvector into account; see `Guard.see_curvature`."""
        self._curvature = (ratio, vector)

    def before(self) -> list[GuardAction]:
        """Guard the coming step: everything until the optimizer moves. Return what was done."""
        self.restore()
        self._moving, self.passed_by = [], False
        wanted = self._policy.needs
        needs = wanted - (_EVERY_FEW if self._wait else _NOTHING)
        begins = "secant" in wanted and self._wait <= 1
        actions = self._before(needs, begins=begins) if needs or begins else []
        self._hold()
        return actions

    def pass_by(self) -> None:
        """Let the coming step pass; only what was changed for good is kept up."""
        self.restore()
        self.drop()
        self._hold()

    def drop(self) -> None:
        """Drop what is remembered of the last step: something failed."""
        self._displacement = Displacement()
        self._moving, self._wait, self.passed_by = [], 0, True

    def _before(self, needs: frozenset[Measure], *, begins: bool) -> list[GuardAction]:
        scale = getattr(self._optimizer, "grad_scale", None)
        scale = 1.0 if scale is None else float(scale)
        slots = read_slots(self._optimizer, scale=scale, name=self._name)
        ready = [slot for slot in slots if slot.state]
        actions: list[GuardAction] = []
        if ready and needs:
            reduction = Reduction(ready, self._group)
            sums = self._measure(ready, needs, reduction)
            if not sums.finite:
                return self._leave_alone(sums)
            self._finite = True
            self._follow(ready, sums, reduction)
            actions = self._act(ready, sums, reduction)
            # While it is far below where the policy looks, the secant is measured every fourth step only.
            if not self._wait and sums.secant <= _FAR * self._policy.exact_from:
                self._wait, begins = _STRIDE, False
        if begins:
            self._displacement.begin(slots)
            self._moving = slots
        else:
            self._displacement.forget()
        return actions

    def after(self) -> None:
        """Remember the step that was made."""
        try:
            self._displacement.end(self._moving)
        finally:
            self.restore()
            self.step += 1
            self._wait = max(self._wait - 1, 0)
            self.clips.stepped()
            self._curvature = (math.nan, None)
            self._moving, self._loaded = [], False

    def restore(self) -> None:
        """Put options back that were changed for one step."""
        self._held.restore()

    def optimizer_loaded(self) -> None:
        """Forget the run so far, unless it was loaded too: the optimizer got another state."""
        if self._loaded:
            return
        self._displacement, self._wait = Displacement(), 0
        self.natural, self.pairs, self.clips = NaturalMoment(), PairAverage(), ClipRecord()
        self._finite = True

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {
            "policy": self._policy.name,
            "policy_state": self._policy.state_dict(),
            "step": self.step,
            "rate_factor": self._rate_factor,
            "clipped": self.clips.last,
            "finite": self._finite,
            "wait": self._wait,
            "displacement": self._displacement.state_dict(self._parameters()),
            "natural": self.natural.state_dict(),
            "pairs": self.pairs.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`; see `Guard.load_state_dict`."""
        if state["policy"] != self._policy.name:
            raise ValueError(
                f"the state is of the policy {state['policy']!r}, this guard's is {self._policy.name!r}: "
                "pass policy=… as in the run that was saved"
            )
        self._displacement.load_state_dict(state["displacement"], self._parameters())
        self._policy.load_state_dict(state["policy_state"])
        self.step, self._rate_factor = int(state["step"]), float(state["rate_factor"])
        self.clips, self._finite = ClipRecord(float(state["clipped"])), bool(state["finite"])
        self._wait = int(state["wait"])
        self.natural.load_state_dict(state["natural"])
        self.pairs.load_state_dict(state["pairs"])
        self._loaded = True

    def _parameters(self) -> list[Tensor]:
        return [p for group in self._optimizer.param_groups for p in group["params"]]

    def _measure(self, slots: Sequence[Slot], needs: frozenset[Measure], reduction: Reduction) -> StepSums:
        measurer = Measurer(
            slots,
            self._family,
            self._displacement,
            unclipped=self.clips.undoing,
            total=reduction.total,
        )
        return measurer.measure(needs, exact_from=self._policy.exact_from)

    def _leave_alone(self, sums: StepSums) -> list[GuardAction]:
        """Record the first of a row of gradients that are not finite; the step is the optimizer's affair."""
        first, self._finite = self._finite, False
        if not first:
            return []
        value = sums.squared_gradient
        return [GuardAction(self.step, self._policy.name, "none", f"‖g‖² is {value}", value, math.inf, 1.0)]

    def _follow(self, slots: Sequence[Slot], sums: StepSums, reduction: Reduction) -> None:
        first = self._family.second_moment(slots[0])
        if first is None:
            return
        if not self.natural.started:
            moments = [self._family.second_moment(slot) for slot in slots]
            rows = [
                [0.0 if one is None or one.previous is None else float(one.previous.sum())] for one in moments
            ]
            self.natural.start(reduction.total(rows)[0], beta2=first.beta2, updates=slots[0].updates - 1)
        self.natural.update(sums.squared_gradient, beta2=first.beta2)

    def _act(self, slots: Sequence[Slot], sums: StepSums, reduction: Reduction) -> list[GuardAction]:
        decisions = self._policy.decide(self._signals(slots, sums))
        if decisions:
            workbench = Workbench(
                self._optimizer,
                self._family,
                slots,
                natural=self.natural,
                reduction=reduction,
                directions=find_directions(
                    slots, self._displacement, vector=self._curvature[1], parameters=self._parameters()
                ),
            )
            for decision in decisions:
                workbench.apply(decision)
                if decision.remedy == "raise all":
                    self.pairs.lowered(decision.factor)
            self.clips.multiplied(workbench.gradient_factor)
            self._rate_factor *= workbench.rate_factor
        return [_action(self.step, self._policy.name, decision) for decision in decisions]

    def _hold(self) -> None:
        groups = self._optimizer.param_groups
        self._held.hold(groups, {"lr": self._rate_factor})
        if self._policy.scales_decay:
            decoupled = [g for g in groups if g.get("decoupled_weight_decay", self._family.decoupled)]
            self._held.hold(decoupled, {"weight_decay": self.natural.decay_factor})

    def _signals(self, slots: Sequence[Slot], sums: StepSums) -> GuardSignals:
        return GuardSignals(
            step=self.step,
            updates=max(slot.updates for slot in slots),
            secant=sums.secant,
            squared_gradient=sums.squared_gradient,
            preconditioned_gradient=sums.preconditioned_gradient,
            lag=self.natural.lag,
            mean_square=self.pairs.ratio,
            curvature=self._curvature[0],
        )


def _action(step: int, policy: str, decision: Decision) -> GuardAction:
    return GuardAction(
        step=step,
        policy=policy,
        remedy=decision.remedy,
        reason=decision.reason,
        value=decision.value,
        threshold=decision.threshold,
        factor=decision.factor,
    )
