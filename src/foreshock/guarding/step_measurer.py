"""What to measure of the step about to be taken, and when.

Most steps need ‖g‖² only, which takes no state of the optimizer: see the module `gradient_norms`. The secant
needs the last displacement and products with it. It is measured at every step near the threshold, and at
every eighth step while it is far below, unless the gradient grows fast or v was raised along a direction.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from foreshock.guarding.alternation import UNKNOWN, Alternation, GradientSamples
from foreshock.guarding.displacement import Displacement
from foreshock.guarding.families import Family, Metric
from foreshock.guarding.gradient_norms import (
    GradientNormCache,
    ReportedNorm,
    coming_beta2,
    fetch,
    norms,
)
from foreshock.guarding.late_norm import Clipped, LateNorm
from foreshock.guarding.parameters import Slot, all_parameters, per_group, read_slots
from foreshock.guarding.policies import Measure
from foreshock.guarding.sums import (
    Measured,
    Pair,
    Reduction,
    energies,
    lengths,
    secant_columns,
    secant_products,
)
from foreshock.stability import growing_ratio

_RARELY: frozenset[Measure] = frozenset({"secant"})
_MEANWHILE: frozenset[Measure] = frozenset({"norm"})
_NEED_STATE: frozenset[Measure] = frozenset({"secant", "preconditioned gradient"})

# While the secant is below a third of the threshold, it is measured every eighth step. v that only decays
# makes it grow by a factor of 1.004 in eight steps at β₂ = 0.999; what makes it grow faster shows in ‖g‖².
_STRIDE, _FAR = 8, 1 / 3


class StepMeasurer:
    """Measure the steps of one optimizer: `measure` before a step, `record` after what the guard did to it.

    Args:
        optimizer: The optimizer, unwrapped.
        family: How to read it.
        group: Process group to add sums up over besides, or None.

    Attributes:
        displacement: The last step, if it was recorded.
    """

    def __init__(self, optimizer: Optimizer, family: Family, *, group: Any = None) -> None:
        self._optimizer, self._family, self._group = optimizer, family, group
        self.displacement, self._cache, self._reported = Displacement(), GradientNormCache(), ReportedNorm()
        self._samples, self._late = GradientSamples(), LateNorm()
        self._sampled = -1  # the last step of which a sample was kept
        self._wait = 0  # steps until the secant is measured again
        self._alert = 0  # steps for which it is measured at each, whatever it is
        self._clipped: Clipped | None = None
        self._step, self._scale = 0, 1.0
        self._gradients: list[Tensor] = []  # of the coming step; and its slots, None while they were not read
        self._slots: list[Slot] | None = None

    def report_norm(self, norm: float | Callable[[], float], clipped: Clipped | None = None) -> None:
        """Take note of what the training loop knows of the gradients as they are now.

        Args:
            norm: ‖.grad‖ over all parameters, clipped, or what returns it.
            clipped: The report, if it may be read late.
        """
        self._clipped = clipped
        if self._group is not None:
            return
        parameters = [one for one in all_parameters(self._optimizer) if one.requires_grad]
        self._reported.take(norm, [grad for one in parameters if (grad := one.grad) is not None])

    def measure(
        self,
        wanted: frozenset[Measure],
        *,
        step: int,
        unclipped: Callable[[], tuple[float, float]],
        exact_above: float,
        late: bool = False,
    ) -> Measured | None:
        """Return what a policy needs of the coming step; None if it needs nothing or nothing has a state yet.

        Args:
            wanted: What the policy needs.
            step: Number of the step.
            unclipped: Returns factors on the gradients of the last step and of this one that undo clipping;
                called where they are compared.
            exact_above: The secant is exact above this value; below it an upper bound is enough.
            late: Whether ‖g‖² may be read at the next step, by `late`, where nothing else is needed: None is
                returned then.
        """
        # ‖g‖² is needed meanwhile, to see growth.
        needs = (wanted - _RARELY) | _MEANWHILE if self._wait else wanted
        if not needs:
            return None
        # What torch.amp.GradScaler leaves to the own step of a fused optimizer.
        scale = getattr(self._optimizer, "grad_scale", None)
        self._step, self._scale, self._slots = step, 1.0 if scale is None else float(scale), None
        gradients = self._cache.gradients(self._optimizer)
        # All processes have to branch alike, or some would wait in a sum for the others: where sums go over
        # processes nothing is ever known, see `GradientNormCache.remember`.
        if gradients is None:
            self._read_all()
            # A run that is resumed is late where the other one was.
            gradients = self._cache.gradients(self._optimizer) if late else None
        if gradients is not None and needs.isdisjoint(_NEED_STATE):
            self._slots, self._gradients = None, gradients
            squared = self._squared_norm(gradients, late=late and scale is None and self._alert == 0)
            return None if squared is None else self._cache.measure(squared, self._family, step=step)
        slots = self.slots
        if not slots:
            return None
        return self._measure_sums(slots, needs, unclipped=unclipped(), exact_above=exact_above)

    @property
    def is_late(self) -> bool:
        """Whether `measure` left ‖g‖² of the coming step, and how it was clipped, to the next one."""
        return self._late.on_its_way

    def late(self, *, step: int) -> tuple[Measured | None, float | None] | None:
        """Return ‖g‖² of the last step and by what it was clipped, as far as that was left to be read now.

        Call it before `measure`. There is no ‖g‖² without a state that could be acted on, nor where several
        processes go on from the state of one.

        Args:
            step: Number of the coming step.
        """
        came = None if self._late.empty else self._late.take()  # no call on most steps
        if came is None:
            return None
        self._step, self._slots = step, None
        if self._cache.gradients(self._optimizer) is not None:
            return self._cache.measure(came.squared, self._family, step=step - 1), came.factor
        # A resumed run has read nothing yet. Else parameters, states or groups are others now, and stand for
        # those of the last step: an outlier of theirs spoils the coming secant all the same.
        self._read_all()
        slots = self.slots
        if not (slots and self.reduction.local):
            return None, came.factor
        measured = Measured(
            squared_gradient=came.squared,
            coordinates=sum(slot.key.numel() for slot in slots),
            finite=math.isfinite(came.squared),
            updates=max(slot.updates for slot in slots) - 1,
            beta2=coming_beta2(self._family, slots[0]),
        )
        return measured, came.factor

    @property
    def slots(self) -> list[Slot]:
        """The parameters that the coming step will move and that have a state."""
        if self._slots is None:
            self._slots = self._cache.slots(step=self._step, scale=self._scale)
        slots = self._slots
        return slots if all(slot.state for slot in slots) else [slot for slot in slots if slot.state]

    @property
    def reduction(self) -> Reduction:
        """Sums over processes of numbers that belong to `slots`."""
        return Reduction(self.slots, self._group)

    def second_moment_total(self) -> tuple[float, int]:
        """Return Σv_{t−1} over all processes, and how many updates are in it."""
        slots = self.slots
        moments = [self._family.second_moment(slot) for slot in slots]
        rows = [
            [0.0 if one is None or one.previous is None else float(one.previous.sum())] for one in moments
        ]
        return self.reduction.total(rows)[0], slots[0].updates - 1

    def grown_ratio(self, growth: float) -> float:
        """Return the stability ratio that makes ‖g‖² grow by a factor at each step, alike in all processes.

        Args:
            growth: The factor.
        """
        decay, share = self._family.momentum(self.slots[0])
        ratio = growing_ratio(math.sqrt(growth), beta1=decay, direct_share=share)
        # The first parameter, whose momentum it is, may be another one in another process.
        return self.reduction.largest(ratio)

    def alternation(self, *, growing: bool) -> Alternation:
        """Return how the coming gradient lies to the last two, if it and they were growing.

        Call it after `measure`: of steps that do not grow nothing is kept, but for the eight that `record`
        was told to be watchful for. Where sums go over processes these are left out: one that failed would
        not watch, and the others would wait for it.

        Args:
            growing: Whether ‖g‖² grew so much in this step that it may become a growth.
        """
        watches = self._alert > 0 and (self._slots is None or self.reduction.local)
        if not (growing or watches):
            return UNKNOWN
        if self._sampled != self._step - 1:
            self._samples.forget()
        self._sampled = self._step
        if self._slots is None:  # then they are whole, and sums go over no processes
            return self._samples.follow(self._cache.keys, self._gradients)
        slots, reduction = self.slots, self.reduction
        keys, gradients = [slot.key for slot in slots], [slot.gradient for slot in slots]
        return self._samples.follow(keys, gradients, None if reduction.local else reduction.total)

    def record(
        self, measured: Measured | None, *, wanted: frozenset[Measure], watchful: bool, exact_above: float
    ) -> None:
        """Record the coming step where the next one is to be compared with it. Call it after `measure`.

        Args:
            measured: What `measure` returned.
            wanted: What the policy needed.
            watchful: Whether the secant can't wait for its turn, because ‖g‖² grows fast or v was raised
                along a direction. The gradients of eight steps are then compared as well, and not read late.
            exact_above: As of `measure`.
        """
        if measured is not None and not measured.finite:
            # A gradient scaler skips such a step: the last displacement stays the last, t does not go on.
            self._cache.forget()
            self._slots, self._gradients = None, []
            self._drop_report()
            return
        # The secant of a step needs the displacement of the one before: recording begins a step early.
        begins = "secant" in wanted and self._wait <= 1
        # A NaN secant is not far: it says nothing.
        far = measured is not None and measured.secant <= _FAR * exact_above
        self._alert = _STRIDE if watchful else max(self._alert - 1, 0)
        if far and not self._wait and not self._alert:
            self._wait, begins = _STRIDE, False
        elif self._wait and watchful and not begins:
            self._wait, begins = 1, True
        if begins:
            if self._slots is None and self._late.on_its_way:  # nor are the updates waited for
                self._slots = self._cache.slots(step=self._step, scale=self._scale, wait=False)
            self.displacement.begin(self.slots if self._slots is None else self._slots)
        elif not self.displacement.empty:
            self.displacement.forget()
        self._slots, self._gradients = None, []  # gradients are not held until the next step
        self._drop_report()

    def _drop_report(self) -> None:
        self._reported.drop()
        self._clipped = None

    def after_step(self) -> None:
        """Finish the record of the step that was made."""
        try:
            if not self.displacement.empty:
                self.displacement.end()
        finally:
            self._wait = max(self._wait - 1, 0)

    def reread(self) -> None:
        """Have everything read at the next step: the optimizer's state was replaced."""
        self._cache.forget()

    def forget(self) -> None:
        """Forget all steps so far."""
        self.displacement, self._wait, self._alert = Displacement(), 0, 0
        self._slots, self._gradients = None, []
        self._cache.forget()
        self._samples.forget()
        self._late.drop()
        self._reported, self._clipped = ReportedNorm(), None

    def state_dict(self, *, vectors: bool = True) -> dict[str, Any]:
        """Return what a resumed run needs, with or without the last displacement and gradients."""
        parameters = all_parameters(self._optimizer)
        displacement = self.displacement.state_dict(parameters)
        if not vectors:
            displacement |= {"moved": [], "alone": []}
        gradients = self._samples.state_dict(parameters) if vectors else []
        late = self._late.peek()
        return {
            "wait": self._wait,
            "alert": self._alert,
            "displacement": displacement,
            "gradients": gradients,
            "sampled": self._sampled,
            "agreed": self._reported.agreed,
            "uncompared": self._reported.uncompared,
            "late": None if late is None else tuple(late),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> str:
        """Continue from `state_dict()`; return why the last displacement does not fit, nothing if it does."""
        self._cache.forget()
        # Earlier versions took no reports.
        self._reported = ReportedNorm(agreed=state.get("agreed"), uncompared=int(state.get("uncompared", 0)))
        self._late.restore(state.get("late"))
        self._wait, self._alert = int(state["wait"]), int(state.get("alert", 0))
        parameters = all_parameters(self._optimizer)
        self._sampled = int(state.get("sampled", -1))
        self._samples.load_state_dict(state.get("gradients", ()), parameters)  # earlier versions had none
        return self.displacement.load_state_dict(state["displacement"], parameters)

    def _read_all(self) -> None:
        """Read the parameters with a gradient."""
        self._slots = slots = read_slots(
            self._optimizer,
            scale=self._scale,
            decoupled=self._family.reader.decoupled_decay,
            plain_adam=self._family.plain_adam,
        )
        self._cache.remember(slots, self._optimizer, step=self._step, summed=self._group is not None)

    def _squared_norm(self, gradients: Sequence[Tensor], *, late: bool) -> float | None:
        """Return ‖g‖², from what was reported where that was shown to be right; None if it comes late."""
        reported = self._reported if self._cache.precise else None
        # Where no secant is measured now and then, a report would never be compared.
        late = late and self._cache.together and not (reported is not None and reported.is_due(gradients))
        if late and self._clipped is not None:
            believed = reported is not None and reported.believes(gradients)
            self._late.put([] if believed else norms(gradients), clipped=self._clipped)
            return None
        known = None if reported is None else reported.known(gradients)
        if known is not None:
            return (known / self._scale) ** 2
        if late:
            self._late.put(norms(gradients))
            return None
        squares = [(norm / self._scale) ** 2 for norm in fetch(norms(gradients))]
        return self._compared(math.fsum(squares), gradients)

    def _compared(self, squared: float, gradients: Sequence[Tensor]) -> float:
        """Return the ‖g‖² that counts of a measured one: from what was reported, if that agrees."""
        agreeing = None
        if self._cache.precise:
            agreeing = self._reported.agreeing(math.sqrt(squared) * self._scale, gradients)
        return squared if agreeing is None else (agreeing / self._scale) ** 2

    def _measure_sums(
        self,
        slots: Sequence[Slot],
        needs: frozenset[Measure],
        *,
        unclipped: tuple[float, float],
        exact_above: float,
    ) -> Measured:
        moved = self.displacement.pairs(slots) if "secant" in needs else []
        total = Reduction(slots, self._group).total
        squared, coordinates, change, length, bundles = total(self._rows(slots, moved, unclipped))
        squared = self._compared(squared, [slot.gradient for slot in slots])
        secant, energy = _quotient(change, length), math.nan
        finite = math.isfinite(squared) and not math.isinf(change)
        # Only sums over all processes may decide here: whoever goes on below waits there for all others.
        closer = bundles > 0 and not secant <= exact_above
        preconditioned = "preconditioned gradient" in needs
        if finite and (closer or preconditioned):
            metric = self._family.metric(slots)
            if preconditioned:
                [energy] = total([[one] for one in fetch(energies(slots, metric))])
            if closer:
                [exact] = total(_lengths(slots, moved, metric))
                secant = _quotient(change, exact)
        return Measured(
            squared_gradient=squared,
            coordinates=coordinates,
            finite=finite,
            updates=max(slot.updates for slot in slots),
            beta2=coming_beta2(self._family, slots[0]),
            secant=secant,
            preconditioned_gradient=energy,
        )

    def _rows(
        self, slots: Sequence[Slot], moved: Sequence[Pair], unclipped: tuple[float, float]
    ) -> list[list[float]]:
        """Return of each parameter ‖g‖², its coordinates, dᵀΔg, the bound on dᵀA⁻¹d, and bundles that moved.

        What belongs to a bundle is in the row of its first parameter.
        """
        sizes = norms([slot.gradient for slot in slots])
        products = secant_products(slots, moved)
        numbers = fetch([*sizes, *itertools.chain(*products)])
        rows = [
            [(norm / slot.scale) ** 2, float(slot.gradient.numel()), 0.0, 0.0, 0.0]
            for norm, slot in zip(numbers, slots, strict=False)
        ]
        fetched = iter(numbers[len(slots) :])
        rates = per_group([slots[places[0]] for _, places in moved], self._family.rate)
        for (one, (place, *_)), tensors in zip(moved, products, strict=True):
            numbers, slot = [next(fetched) for _ in tensors], slots[place]
            rate = rates[id(slot.group)]
            rows[place][2:] = *secant_columns(slot, one, numbers, rate=rate, unclipped=unclipped), 1.0
        return rows


def _lengths(slots: Sequence[Slot], moved: Sequence[Pair], metric: Metric) -> list[list[float]]:
    """Return dᵀA⁻¹d of each parameter; 0 of one that did not move or has no learning rate."""
    squares, rates = lengths(moved, metric), metric.rates
    found = dict(zip(squares, fetch(list(squares.values())), strict=True))
    return [[found[i] / rates[i] if i in found and rates[i] > 0 else 0.0] for i in range(len(slots))]


def _quotient(change: float, length: float) -> float:
    return change / length if length > 0 else math.nan
