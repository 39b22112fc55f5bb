"""One guarded step after the other: measure, decide, act, remember."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from foreshock.guarding.altering import Acting
from foreshock.guarding.families import Slot, all_parameters, find_family, read_slots
from foreshock.guarding.measuring import READ, Displacement, Glance, Measurer, Reduction, StepSums
from foreshock.guarding.policies import Decision, GuardSignals, Measure, Policy
from foreshock.guarding.record import GuardAction
from foreshock.guarding.tracking import ClipRecord, Growth
from foreshock.preconditioner import stock_name, unwrap
from foreshock.stability import growing_ratio

Read = Callable[[], tuple[Sequence[Slot], Reduction]]

_EVERY_FEW: frozenset[Measure] = frozenset({"secant"})
_MEANWHILE: frozenset[Measure] = frozenset({"norm"})
_STRIDE, _FAR = 8, 1 / 3
_DOUBLED = 2.0


class Engine:
    """Guard the steps of one optimizer; `Guard` hangs it on.

    Args:
        optimizer: The optimizer.
        policy: When and how to act.
        group: Process group to add sums up over besides, or None.

    Attributes:
        acting: Does what is decided, and remembers what that needs.
        step: Updates seen.
        beta2: β₂ of the last step that was measured; None before, and without such an average.
        passed_by: Whether nothing was measured at the last step because something failed.
    """

    def __init__(self, optimizer: Optimizer, policy: Policy, *, group: Any = None) -> None:
        self._optimizer, self._policy, self._group = unwrap(optimizer), policy, group
        self._unused = copy.deepcopy(policy.state_dict())  # what the policy remembers of no run
        self._family, self._name = find_family(optimizer), stock_name(optimizer)
        self._displacement, self._glance, self._growth = Displacement(), Glance(), Growth()
        self.acting = Acting(self._optimizer, self._family)
        self.step = 0
        self.beta2: float | None = None
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
        self.passed_by = False
        self.acting.hold(decay=False)  # what is measured is of the rate with which the step will be made
        wanted = self._policy.needs
        needs = (wanted - _EVERY_FEW) | _MEANWHILE if self._wait else wanted
        begins = "secant" in wanted and self._wait <= 1
        actions = self._before(needs, begins=begins) if needs or begins else []
        self.restore()
        self.acting.hold(decay=self._policy.scales_decay)
        return actions

    def pass_by(self) -> None:
        """Let the coming step pass; only what was changed for good is kept up."""
        self.restore()
        self.drop()
        self.acting.hold(decay=self._policy.scales_decay)

    def drop(self) -> None:
        """Drop what is remembered of the last step: something failed."""
        self._displacement, self._growth = Displacement(), Growth()
        self._glance.forget()
        self._wait, self.passed_by = 0, True

    def _before(self, needs: frozenset[Measure], *, begins: bool) -> list[GuardAction]:
        scale = getattr(self._optimizer, "grad_scale", None)
        scale = 1.0 if scale is None else float(scale)
        known = self._glance.suits(self._optimizer)
        if known and not needs & READ:
            return self._before_at_a_glance(scale, begins=begins)
        slots, ready = self._read(scale, known=known)
        if not known:
            self._glance.remember(slots, step=self.step, summed=self._group is not None)
        actions: list[GuardAction] = []
        if ready and needs:
            reduction = Reduction(ready, self._group)
            sums = self._measure(ready, needs, reduction)
            if not sums.finite:
                return self._leave_alone(sums)
            first = self._family.second_moment(ready[0])
            self._follow(sums, None if first is None else first.beta2, lambda: (ready, reduction))
            actions = self._act(sums, max(slot.updates for slot in ready), lambda: (ready, reduction))
            # While it is far below where the policy looks, the secant is measured every eighth step only.
            if not self._wait and sums.secant <= _FAR * self._policy.exact_from and not self._growth.wakes:
                self._wait, begins = _STRIDE, False
        self._remember(slots, begins=begins or self._is_woken())
        return actions

    def _before_at_a_glance(self, scale: float, *, begins: bool) -> list[GuardAction]:
        """Guard a step of which ‖g‖² is all that is measured."""

        def read() -> tuple[list[Slot], Reduction]:
            ready = self._glance.slots(step=self.step, scale=scale)
            return ready, Reduction(ready, self._group)

        sums = StepSums(self._glance.squared_norm(scale=scale), coordinates=self._glance.coordinates)
        if not sums.finite:
            self._displacement.forget()
            return self._leave_alone(sums)
        self._follow(sums, self._glance.beta2(self._family), read)
        actions = self._act(sums, self._glance.updates(self.step), read)
        begins = begins or self._is_woken()
        self._remember(read()[0] if begins else [], begins=begins)
        return actions

    def _read(self, scale: float, *, known: bool) -> tuple[list[Slot], list[Slot]]:
        """Return the parameters with a gradient, and those of them that have a state."""
        if known:
            slots = self._glance.slots(step=self.step, scale=scale)
            return slots, slots
        slots = read_slots(self._optimizer, scale=scale, name=self._name)
        return slots, [slot for slot in slots if slot.state]

    def _is_woken(self) -> bool:
        """Return whether the secant has to be measured at the next step although its turn is later."""
        if not (self._wait and self._growth.wakes):
            return False
        self._wait = 1
        return True

    def _remember(self, slots: list[Slot], *, begins: bool) -> None:
        """Remember this step's displacement for the next one, or that there is none."""
        if begins:
            self._displacement.begin(slots)
        else:
            self._displacement.forget()

    def after(self) -> None:
        """Remember the step that was made. Raise what went wrong while acting on it, see `Acting.failure`."""
        try:
            self._displacement.end()
        finally:
            self.restore()
            self.step += 1
            self._wait = max(self._wait - 1, 0)
            if self._finite:
                self.acting.clips.stepped()
            else:
                self.acting.clips.skipped()
            self._curvature = (math.nan, None)
            self._loaded = False
        failure, self.acting.failure = self.acting.failure, None
        if failure is not None:
            raise failure

    def restore(self) -> None:
        """Put options back that were changed for one step."""
        self.acting.restore()

    def optimizer_loaded(self) -> None:
        """Forget the run so far, unless it was loaded too: the optimizer got another state."""
        self._glance.forget()
        if self._loaded:
            return
        self._displacement, self._growth, self._wait = Displacement(), Growth(), 0
        self.acting.forget()
        # What it changed for good, ε or β₂, the optimizer's state brings as it was then: it may act again.
        self._policy.load_state_dict(copy.deepcopy(self._unused))
        self._finite = True

    def buffers(self) -> list[Tensor]:
        """Return the tensors that are held between steps."""
        return self._displacement.buffers()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {
            "policy": self._policy.name,
            "policy_state": self._policy.state_dict(),
            "step": self.step,
            "rate_factor": self.acting.rate_factor,
            "clipped": self.acting.clips.last,
            "finite": self._finite,
            "wait": self._wait,
            "displacement": self._displacement.state_dict(all_parameters(self._optimizer)),
            "growth": self._growth.state_dict(),
            "natural": self.acting.natural.state_dict(),
            "pairs": self.acting.pairs.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`; see `Guard.load_state_dict`."""
        if state["policy"] != self._policy.name:
            raise ValueError(
                f"the state is of the policy {state['policy']!r}, this guard's is {self._policy.name!r}: "
                "pass policy=… as in the run that was saved"
            )
        self._glance.forget()
        self._displacement.load_state_dict(state["displacement"], all_parameters(self._optimizer))
        self._policy.load_state_dict(state["policy_state"])
        self.step, self.acting.rate_factor = int(state["step"]), float(state["rate_factor"])
        self.acting.clips, self._finite = ClipRecord(float(state["clipped"])), bool(state["finite"])
        self._wait = int(state["wait"])
        self._growth.load_state_dict(state["growth"])
        self.acting.natural.load_state_dict(state["natural"])
        self.acting.pairs.load_state_dict(state["pairs"])
        self._loaded = True

    def _measure(self, slots: Sequence[Slot], needs: frozenset[Measure], reduction: Reduction) -> StepSums:
        measurer = Measurer(
            slots,
            self._family,
            self._displacement,
            unclipped=self.acting.clips.undoing,
            total=reduction.total,
        )
        return measurer.measure(needs, exact_from=self._policy.exact_from)

    def _leave_alone(self, sums: StepSums) -> list[GuardAction]:
        """Record the first of a row of gradients that are not finite; the step is the optimizer's affair."""
        first, self._finite = self._finite, False
        self._glance.forget()  # an optimizer that skips the step does not count it
        self._growth.update(math.nan)
        if not first:
            return []
        value = sums.squared_gradient
        return [GuardAction(self.step, self._policy.name, "none", f"‖g‖² is {value}", value, math.inf, 1.0)]

    def _start(self, slots: Sequence[Slot], reduction: Reduction) -> None:
        """Take over v as the optimizer has it."""
        moments = [self._family.second_moment(slot) for slot in slots]
        rows = [
            [0.0 if one is None or one.previous is None else float(one.previous.sum())] for one in moments
        ]
        if moments[0] is not None:
            total = reduction.total(rows)[0]
            self.acting.natural.start(total, beta2=moments[0].beta2, updates=slots[0].updates - 1)

    def _follow(self, sums: StepSums, beta2: float | None, read: Read) -> None:
        self._finite, self.beta2 = True, beta2
        self._growth.update(sums.squared_gradient * self.acting.clips.undoing[1] ** 2)
        if beta2 is not None:
            if self.acting.natural.is_outdated(sums.coordinates):
                self._start(*read())
            self.acting.natural.update(sums.squared_gradient, beta2=beta2)

    def _act(self, sums: StepSums, updates: int, read: Read) -> list[GuardAction]:
        decisions = self._policy.decide(self._signals(sums, updates, read))
        if not decisions:
            return []
        slots, reduction = read()
        done = self.acting.apply(
            decisions, slots, reduction, displacement=self._displacement, vector=self._curvature[1]
        )
        return [_action(self.step, self._policy.name, decision) for decision in done]

    def _signals(self, sums: StepSums, updates: int, read: Read) -> GuardSignals:
        return GuardSignals(
            step=self.step,
            updates=updates,
            secant=sums.secant,
            squared_gradient=sums.squared_gradient,
            preconditioned_gradient=sums.preconditioned_gradient,
            lag=self.acting.natural.lag,
            mean_square=self.acting.pairs.ratio,
            curvature=self._curvature[0],
            growth=self._growth.sustained,
            grown_ratio=self._grown_ratio(read),
        )

    def _grown_ratio(self, read: Read) -> float:
        if not self._growth.sustained >= _DOUBLED:
            return math.nan
        slots, reduction = read()
        decay, share = self._family.momentum(slots[0])
        ratio = growing_ratio(math.sqrt(self._growth.sustained), beta1=decay, direct_share=share)
        # Of parameters that are split, the first may be another one elsewhere.
        return reduction.largest(ratio)


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
