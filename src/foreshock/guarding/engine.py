"""One guarded step after the other: measure, decide, act, remember."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from foreshock.guarding.actions import ActionApplier, ComingStep, HeldOptions
from foreshock.guarding.alternation import UNKNOWN
from foreshock.guarding.directional import find_directions
from foreshock.guarding.families import find_family
from foreshock.guarding.late_norm import Clipped, clip_factor
from foreshock.guarding.parameters import all_parameters
from foreshock.guarding.policies import Decision, GuardSignals, Measure, Policy
from foreshock.guarding.record import GuardAction
from foreshock.guarding.step_measurer import StepMeasurer
from foreshock.guarding.sums import Measured
from foreshock.guarding.tracking import RunMemory
from foreshock.preconditioner import unwrap

_GROWN = 1.25  # ‖g‖²: below, no policy looks at the ratio that growth implies
NOISY = 0.1
"""Usual change of ln ‖g‖² from step to step; below, each batch may be the whole set."""


class Engine:
    """Guard the steps of one optimizer; `Guard` calls it from hooks.

    Args:
        optimizer: The optimizer.
        policy: When and how to act.
        group: Process group to add sums up over besides, or None.
        wait: Whether to know ‖g‖ before each step; else, where batches differ, from the step before.

    Attributes:
        memory: What is remembered from step to step.
        step: Updates seen.
        curvature: λ_max of the coming step and its eigenvector; NaN and None where nobody measured it.
        probability: That a spike begins soon, as forecast at the coming step; NaN where nobody did.
        skipped: Whether nothing was measured at the last step because something failed.
    """

    def __init__(self, optimizer: Optimizer, policy: Policy, *, group: Any = None, wait: bool = True) -> None:
        self._wait = wait
        self._optimizer, self._policy = unwrap(optimizer), policy
        self._unused = copy.deepcopy(policy.state_dict())  # what the policy remembers before any run
        family = find_family(optimizer)
        self._held = HeldOptions(self._optimizer, decoupled=family.reader.decoupled_decay)
        self._measurer = StepMeasurer(self._optimizer, family, group=group)
        self.memory = RunMemory()
        self._applier = ActionApplier(self._optimizer, family, self.memory)
        self.step = 0
        self.curvature: tuple[float, Tensor | None] = (math.nan, None)
        self.probability = math.nan
        self._loaded = False  # a state was loaded, and no step made since
        self._report: Clipped | None = None  # of the coming step, while its factor is not read
        self.skipped = False

    def clipped(self, total_norm: Tensor | float, *, max_norm: float) -> None:
        """Take into account that the gradients of the coming step were clipped, see `Guard.clipped`."""
        # Of a DTensor all processes may have to add up parts, at once; and sums over them never come late.
        if self._wait or type(total_norm) is not Tensor:
            self._report = None
            self._measurer.report_norm(self._set_clipped(float(total_norm), max_norm))
            return
        # Read where somebody needs it: on most steps that is the next one. A copy: the loop may write to its
        # own, as where it averages what it logs over processes.
        self._report = report = Clipped(total_norm.detach().clone().reshape(()), max_norm)
        self._measurer.report_norm(lambda: self._set_clipped(float(report.total), max_norm), report)

    def _set_clipped(self, total: float, max_norm: float) -> float:
        """Remember by what gradients were clipped; return their norm after it."""
        factor = clip_factor(total, max_norm)
        self.memory.clips.set_clip_factor(factor)
        return factor * total

    def before(self) -> list[GuardAction]:
        """Guard the coming step: everything until the optimizer moves. Return what was done."""
        self.restore()  # the last step may have raised, so that `after` was not called
        self.skipped = False
        actions = self._guard_late()
        try:
            return actions + self._guard_coming(late=actions)
        except Exception as error:
            if not actions:
                raise
            self.skip()
            self._applier.failure = error  # what was done is reported first
            return actions

    def _guard_coming(self, *, late: Sequence[GuardAction]) -> list[GuardAction]:
        """Measure the coming step, and guard by that, after what was done because of the last one."""
        # What is measured belongs to the learning rate with which the step will be made. Weight decay is
        # shortened afterwards: by how much, follows from what is done to v.
        self._hold(decay=False)
        wanted, exact_above = self._policy.needs, self._policy.exact_above
        measured = self._measurer.measure(
            wanted,
            step=self.step,
            unclipped=self._undoing,
            exact_above=exact_above,
            late=not self._wait and self._may_be_late(),
        )
        if not self._measurer.is_late:
            self._undoing()
        self._report = None
        actions = [] if measured is None else self._guard(measured, wanted)
        # An instability that was met may go on in another direction.
        raised = any(action.remedy == "raise along" for action in (*late, *actions))
        self._measurer.record(
            measured,
            wanted=wanted,
            watchful=raised or self.memory.growth.growing_fast,
            exact_above=exact_above,
        )
        self.restore()
        self._hold(decay=self._policy.scales_decay)
        return actions

    def skip(self) -> None:
        """Let the coming step pass unguarded; only what was changed for good is kept up."""
        self.restore()
        self.drop()
        self._report = None
        self._hold(decay=self._policy.scales_decay)

    def drop(self) -> None:
        """Drop what is remembered of the last step: something failed."""
        self._measurer.forget()
        self.memory.growth.update(math.nan)
        self.skipped = True

    def after(self) -> None:
        """Finish the step that was made. Raise what went wrong while acting on it, see `ActionApplier`."""
        try:
            self._measurer.after_step()
        finally:
            # The step was made, whatever goes wrong while its displacement is computed.
            self.restore()
            self.step += 1
            self.memory.stepped()
            self.curvature, self.probability = (math.nan, None), math.nan
            self._loaded = False
        failure, self._applier.failure = self._applier.failure, None
        if failure is not None:
            raise failure

    def restore(self) -> None:
        """Put options back that were changed for one step."""
        if self._held.saved:
            self._held.restore()

    def optimizer_loaded(self) -> None:
        """Forget the run so far, unless it was loaded too: the optimizer got another state."""
        if self._loaded:
            self._measurer.reread()
            return
        self._measurer.forget()
        self.memory.forget()
        self.probability = math.nan
        # What it changed for good, ε or β₂, comes with the optimizer's state: it may act again.
        self._policy.load_state_dict(copy.deepcopy(self._unused))

    def buffers(self) -> list[Tensor]:
        """Return the tensors that are held between steps."""
        return self._measurer.displacement.buffers()

    def state_dict(self, *, vectors: bool = True) -> dict[str, Any]:
        """Return what a resumed run needs, with or without what is as long as the parameters."""
        return {
            "policy": self._policy.name,
            "policy_state": self._policy.state_dict(),
            "step": self.step,
            "memory": self.memory.state_dict(),
            "measurer": self._measurer.state_dict(vectors=vectors),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> str:
        """Continue from `state_dict()`, see `Guard.load_state_dict`; return what of it does not fit."""
        if state["policy"] != self._policy.name:
            raise ValueError(
                f"the state is of the policy {state['policy']!r}, this guard's is {self._policy.name!r}: "
                "pass policy=… as in the run that was saved"
            )
        misfit = self._measurer.load_state_dict(state["measurer"])
        self._policy.load_state_dict(state["policy_state"])
        self.memory.load_state_dict(state["memory"])
        self.step, self._loaded = int(state["step"]), True
        return misfit

    def _hold(self, *, decay: bool) -> None:
        rate, shortened = self.memory.rate_factor, self.memory.natural.decay_factor if decay else 1.0
        if not rate == shortened == 1:
            self._held.hold({"lr": rate, "weight_decay": shortened})

    def _guard_late(self) -> list[GuardAction]:
        """Guard by ‖g‖ of the last step, if that comes only now: also of a resumed run that did not wait."""
        late = self._measurer.late(step=self.step)
        if late is None:
            return []
        measured, factor = late
        if factor is not None:
            self.memory.clips.last = factor
        return [] if measured is None else self._guard(measured, frozenset(), late=True)

    def _undoing(self) -> tuple[float, float]:
        """Return the factors that undo clipping, what was reported of the coming step included."""
        report, self._report = self._report, None
        if report is not None:
            self._set_clipped(float(report.total), report.max_norm)
        return self.memory.clips.undoing

    def _may_be_late(self) -> bool:
        """Return whether ‖g‖ of the coming step may be known one step later.

        Not of full batches: from where their gradient doubles it is two or three steps to the spike. Nor
        where λ_max of the coming step was measured, which is to be acted on at once.
        """
        growth = self.memory.growth
        return (
            growth.settled
            and growth.noise > NOISY
            and not growth.growing_fast
            and math.isnan(self.curvature[0])
        )

    def _guard(
        self, measured: Measured, wanted: frozenset[Measure], *, late: bool = False
    ) -> list[GuardAction]:
        """Remember what was measured, decide, and act; a gradient of the last step can not be clipped."""
        memory = self.memory
        if not measured.finite:
            # One record for the first of a row of such gradients; the step is left to the optimizer.
            value = measured.squared_gradient
            none = Decision("none", 1.0, f"‖g‖² is {value}", value, math.inf)
            return [self._action(none, step=self.step - late)] if memory.not_finite() else []
        memory.update(
            measured.squared_gradient,
            coordinates=measured.coordinates,
            beta2=measured.beta2,
            second_moment=self._measurer.second_moment_total,
            unclipped=memory.clips.undoing[0 if late else 1],
        )
        decisions = self._policy.decide(self._signals(measured, wanted, late=late))
        if late:
            decisions = [one for one in decisions if one.remedy != "clip"]
        if not decisions:
            return []  # on nearly all steps; nothing below is computed for them
        slots = self._measurer.slots
        directions = find_directions(
            slots,
            self._measurer.displacement,
            vector=self.curvature[1],
            parameters=all_parameters(self._optimizer),
        )
        done = self._applier.apply(decisions, ComingStep(slots, self._measurer.reduction, directions))
        return [self._action(decision, step=self.step) for decision in done]

    def _signals(self, measured: Measured, wanted: frozenset[Measure], *, late: bool) -> GuardSignals:
        grown = self.memory.growth
        growing = not late and (grown.sustained >= _GROWN or grown.growing_fast)
        turned = UNKNOWN
        if "secant" in wanted:
            turned = self._measurer.alternation(growing=grown.latest >= _GROWN)
        return GuardSignals(
            step=self.step - late,
            updates=measured.updates,
            secant=measured.secant,
            squared_gradient=measured.squared_gradient,
            preconditioned_gradient=measured.preconditioned_gradient,
            lag=self.memory.natural.lag,
            mean_square=self.memory.mean_square,
            curvature=math.nan if late else self.curvature[0],
            probability=self._told(),
            growth=grown.sustained,
            rise=grown.rise,
            climb=grown.climb,
            leap=grown.leap,
            surge=grown.growing_fast,
            with_last=turned.with_last,
            with_second_last=turned.with_second_last,
            noise=grown.noise if growing else math.nan,
            grown_ratio=self._measurer.grown_ratio(grown.latest) if growing else math.nan,
        )

    def _told(self) -> float:
        """Return the probability that was forecast, once: in one step two gradients may be judged."""
        told, self.probability = self.probability, math.nan
        return told

    def _action(self, decision: Decision, *, step: int) -> GuardAction:
        return GuardAction(
            step=step,
            policy=self._policy.name,
            remedy=decision.remedy,
            reason=decision.reason,
            value=decision.value,
            threshold=decision.threshold,
            factor=decision.factor,
        )
