"""What to measure of the step about to be taken, and when.

Most steps need ‖g‖² only, which takes no state of the optimizer: t and β₂ follow from the last step at which
everything was read. The secant needs the last displacement and products with it. It is measured at every step
near the threshold, and at every eighth step while it is far below, unless the gradient grows fast.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from foreshock.guarding.alternation import UNKNOWN, Alternation, GradientSamples
from foreshock.guarding.displacement import Displacement
from foreshock.guarding.families import Family, Metric
from foreshock.guarding.parameters import Slot, all_parameters, per_group, read_slots, renew_slots
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


class GradientNormCache:
    """What the last full reading leaves for the steps after it, so that ‖g‖² needs no state of the optimizer.

    Ask for the `gradients` before `measure` and `slots`.

    Attributes:
        keys: The parameters that had a gradient; the others are resting.
    """

    def __init__(self) -> None:
        self._slots: list[Slot] = []
        self.keys: list[Tensor] = []
        self._resting: list[Tensor] = []
        self._held: list[Mapping[str, Any]] = []  # the states of `keys`
        self._groups: list[dict[str, Any]] = []
        self._members: list[list[Tensor]] = []  # the parameters of each group
        self._states: list[Any] = []  # of all parameters
        self._ahead, self._coordinates = 0, 0

    def gradients(self, optimizer: Optimizer) -> list[Tensor] | None:
        """Return the gradients, if the last full reading was of the parameters, states and groups of now.

        Args:
            optimizer: The optimizer, unwrapped.
        """
        # All by identity, which costs nothing: load_state_dict makes new states and groups. Looking up each
        # parameter's state would cost more than its norm, since hashing a tensor is a call of Python.
        groups = optimizer.param_groups
        if not self.keys or not _same(groups, self._groups):
            return None
        for group, members in zip(groups, self._members, strict=True):
            if not _same(group["params"], members):
                return None
        if not (_same(optimizer.state.values(), self._states) and all(self._held)):
            return None
        if any(one.grad is not None and one.requires_grad for one in self._resting):
            return None
        found = [grad for key in self.keys if (grad := key.grad) is not None and key.requires_grad]
        return found if len(found) == len(self.keys) else None

    def remember(self, slots: Sequence[Slot], optimizer: Optimizer, *, step: int, summed: bool) -> None:
        """Go on from a full reading, if all parameters are real, have a state and are whole in this process.

        Args:
            slots: All parameters with a gradient.
            optimizer: The optimizer, unwrapped.
            step: Number of the step.
            summed: Whether sums are added up over processes.
        """
        # Shards and complex numbers are converted at each reading, and sums over processes need all slots.
        whole = not summed and not any(slot.sharded or slot.key.is_complex() for slot in slots)
        if not (slots and whole and all(slot.state for slot in slots)):
            self.forget()
            return
        # The gradient is not held: it may be freed before the next step.
        self._slots = [slot._replace(gradient=slot.key, parameter=slot.key) for slot in slots]
        self.keys, self._held = [slot.key for slot in slots], [slot.state for slot in slots]
        self._groups = list(optimizer.param_groups)
        self._members = [list(group["params"]) for group in self._groups]
        moving = set(map(id, self.keys))
        self._resting = [one for one in all_parameters(optimizer) if id(one) not in moving]
        self._states = list(optimizer.state.values())
        self._ahead = max(slot.updates for slot in slots) - step
        self._coordinates = sum(slot.key.numel() for slot in slots)

    def forget(self) -> None:
        """Have everything read at the next step."""
        self._slots, self.keys, self._resting, self._held = [], [], [], []
        self._groups, self._members, self._states = [], [], []

    def measure(self, gradients: Sequence[Tensor], family: Family, *, step: int, scale: float) -> Measured:
        """Return ‖g‖², and what is known besides without reading anything.

        Args:
            gradients: What `gradients` returned.
            family: How to read the optimizer.
            step: Number of the step.
            scale: What ``.grad`` still has to be divided by.
        """
        squared = math.fsum([(norm / scale) ** 2 for norm in fetch(norms(gradients))])
        return Measured(
            squared_gradient=squared,
            coordinates=self._coordinates,
            finite=math.isfinite(squared),
            updates=step + self._ahead,
            beta2=_beta2(family, self._slots[0]),
        )

    def slots(self, *, step: int, scale: float) -> list[Slot]:
        """Return all parameters with a gradient as a full reading would.

        Args:
            step: Number of the step.
            scale: What ``.grad`` still has to be divided by.
        """
        slots = renew_slots(self._slots, scale=scale)
        self._ahead = max(slot.updates for slot in slots) - step
        return slots


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
        self.displacement, self._cache = Displacement(), GradientNormCache()
        self._samples = GradientSamples()
        self._sampled = -1  # the last step of which a sample was kept
        self._wait = 0  # steps until the secant is measured again
        self._alert = 0  # steps for which it is measured at each, whatever it is
        self._step, self._scale = 0, 1.0
        self._gradients: list[Tensor] = []  # of the coming step; and its slots, None while they were not read
        self._slots: list[Slot] | None = None

    def measure(
        self,
        wanted: frozenset[Measure],
        *,
        step: int,
        unclipped: tuple[float, float],
        exact_above: float,
    ) -> Measured | None:
        """Return what a policy needs of the coming step; None if it needs nothing or nothing has a state yet.

        Args:
            wanted: What the policy needs.
            step: Number of the step.
            unclipped: Factors on the gradients of the last step and of this one that undo clipping.
            exact_above: The secant is exact above this value; below it an upper bound is enough.
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
        elif needs.isdisjoint(_NEED_STATE):
            self._gradients = gradients
            return self._cache.measure(gradients, self._family, step=step, scale=self._scale)
        slots = self.slots
        if not slots:
            return None
        return self._measure_sums(slots, needs, unclipped=unclipped, exact_above=exact_above)

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

        Call it after `measure`: of steps that do not grow nothing is kept.

        Args:
            growing: Whether ‖g‖² grew so much in this step that it may become a growth.
        """
        if not growing:
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
        self, measured: Measured | None, *, wanted: frozenset[Measure], growing_fast: bool, exact_above: float
    ) -> None:
        """Record the coming step where the next one is to be compared with it. Call it after `measure`.

        Args:
            measured: What `measure` returned.
            wanted: What the policy needed.
            growing_fast: Whether ‖g‖² grows so fast that the secant can't wait for its turn.
            exact_above: As of `measure`.
        """
        if measured is not None and not measured.finite:
            # A gradient scaler skips such a step: the last displacement stays the last, t does not go on.
            self._cache.forget()
            self._slots, self._gradients = None, []
            return
        # The secant of a step needs the displacement of the one before: recording begins a step early.
        begins = "secant" in wanted and self._wait <= 1
        # A NaN secant is not far: it says nothing.
        far = measured is not None and measured.secant <= _FAR * exact_above
        self._alert = _STRIDE if growing_fast else max(self._alert - 1, 0)
        if far and not self._wait and not self._alert:
            self._wait, begins = _STRIDE, False
        elif self._wait and growing_fast and not begins:
            self._wait, begins = 1, True
        if begins:
            self.displacement.begin(self.slots if self._slots is None else self._slots)
        elif not self.displacement.empty:
            self.displacement.forget()
        self._slots, self._gradients = None, []  # gradients are not held until the next step

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

    def state_dict(self, *, vectors: bool = True) -> dict[str, Any]:
        """Return what a resumed run needs, with or without the last displacement and gradients."""
        parameters = all_parameters(self._optimizer)
        displacement = self.displacement.state_dict(parameters)
        if not vectors:
            displacement |= {"moved": [], "alone": []}
        gradients = self._samples.state_dict(parameters) if vectors else []
        return {
            "wait": self._wait,
            "alert": self._alert,
            "displacement": displacement,
            "gradients": gradients,
            "sampled": self._sampled,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> str:
        """Continue from `state_dict()`; return why the last displacement does not fit, nothing if it does."""
        self._cache.forget()
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
            beta2=_beta2(self._family, slots[0]),
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


def _beta2(family: Family, slot: Slot) -> float | None:
    """Return β₂ of the coming step; None without a decaying average of g²."""
    if family.plain_adam:
        return float(slot.group["betas"][1])
    moment = family.second_moment(slot)
    return None if moment is None else moment.beta2


def _lengths(slots: Sequence[Slot], moved: Sequence[Pair], metric: Metric) -> list[list[float]]:
    """Return dᵀA⁻¹d of each parameter; 0 of one that did not move or has no learning rate."""
    squares, rates = lengths(moved, metric), metric.rates
    found = dict(zip(squares, fetch(list(squares.values())), strict=True))
    return [[found[i] / rates[i] if i in found and rates[i] > 0 else 0.0] for i in range(len(slots))]


def _quotient(change: float, length: float) -> float:
    return change / length if length > 0 else math.nan


def fetch(values: Sequence[Tensor]) -> list[float]:
    """Return scalar tensors as numbers, in one transfer: each makes the host wait for the device.

    Args:
        values: Scalars, of any devices and types; the type of the first must do for all.

    Example:
        >>> fetch([torch.tensor(1.0), torch.tensor(2)])
        [1.0, 2.0]
    """
    if not values:
        return []
    like = values[0]
    if len({value.dtype for value in values}) > 1:
        values = [value.to(like.dtype) for value in values]
    try:
        stacked = torch.stack(tuple(values))
    except RuntimeError:  # several devices: to ask each scalar for its own takes as long as the stack
        stacked = torch.stack([value.to(like.device) for value in values])
    return list(stacked.tolist())


def norms(gradients: Sequence[Tensor]) -> list[Tensor]:
    """Return the Euclidean norm of each tensor, in float32 at least.

    Args:
        gradients: Tensors of any shapes and types.

    Example:
        >>> [float(norm) for norm in norms([torch.tensor([3.0, 4.0]), torch.tensor([[2.0]])])]
        [5.0, 2.0]
    """
    if not gradients:
        return []
    if all(dtype.itemsize >= 4 for dtype in {gradient.dtype for gradient in gradients}):
        return list(torch._foreach_norm(list(gradients)))
    # In half precision the square of an entry overflows or vanishes long before the entry does.
    wide = [None if gradient.dtype.itemsize >= 4 else torch.float32 for gradient in gradients]
    return [torch.linalg.vector_norm(g, dtype=dtype) for g, dtype in zip(gradients, wide, strict=True)]


def _same(some: Collection[Any], known: Sequence[Any]) -> bool:
    """Return whether both have the same objects in the same order."""
    return len(some) == len(known) and all(map(operator.is_, some, known))
