"""‖g‖² of the steps on which nothing else is needed, without the state of the optimizer, or without any sum.

t and β₂ follow from the last step at which everything was read. Who clips gradients knows their norm already:
once it was shown to be that of the gradients that the guard sees, it isn't computed a second time.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from foreshock.guarding.families import Family
from foreshock.guarding.parameters import Slot, all_parameters, renew_slots
from foreshock.guarding.sums import Measured

# Relative. Rounding makes 4e-7 of a hundred thousand coordinates, and 1e-5 of ten million whose squares a CPU
# adds up in float32; where it makes more, the norm is computed. No rule notices such a change of ‖g‖².
_ROUNDING = 1e-4

# Steps for which a reported norm is taken without a comparison: as many as the secant waits for.
_UNCOMPARED = 7


class ReportedNorm:
    """The norm that the training loop reported of the coming gradients, once it was shown to be theirs.

    A loop may report the norm of some of the parameters, or of gradients that it then changes. So a report
    counts only if the gradients are those that were there when it was made, unchanged since, and if reports
    have agreed with what was measured, which is compared every eighth step. One that differs is the last.

    Args:
        agreed: What to begin with, as of a run that is resumed.
        uncompared: The same.

    Attributes:
        agreed: Whether reports agreed with what was measured; None before the first comparison.
        uncompared: Steps since the last comparison on which a report was taken.

    Example:
        >>> gradients, reported = [torch.tensor([3.0, 4.0])], ReportedNorm()
        >>> reported.take(5.0, gradients)
        >>> reported.known(gradients) is None
        True
        >>> reported.agreeing(5.0, gradients)
        5.0
        >>> reported.known(gradients)
        5.0
        >>> gradients[0].mul_(2)
        tensor([6., 8.])
        >>> reported.known(gradients) is None
        True
    """

    def __init__(self, *, agreed: bool | None = None, uncompared: int = 0) -> None:
        self.agreed, self.uncompared = agreed, uncompared
        self._norm: float | Callable[[], float] = math.nan
        self._versions: list[tuple[int, int]] | None = None

    def take(self, norm: float | Callable[[], float], gradients: Sequence[Tensor]) -> None:
        """Take a report.

        Args:
            norm: ‖.grad‖ after clipping, or what returns it, called once at most; one that is not finite is
                no report.
            gradients: All gradients, as they are now.
        """
        believed = self.agreed is not False and (callable(norm) or math.isfinite(norm))
        self._norm, self._versions = norm, _versions(gradients) if believed else None

    def known(self, gradients: Sequence[Tensor]) -> float | None:
        """Return ‖.grad‖ without computing it; None where it has to be measured.

        Args:
            gradients: All gradients of the coming step.
        """
        if not self.believes(gradients):
            return None
        norm = self._value()
        return norm if math.isfinite(norm) else None

    def believes(self, gradients: Sequence[Tensor]) -> bool:
        """Count a step for which the report is taken, if it is one of these gradients that may be.

        Args:
            gradients: All gradients of the coming step.
        """
        if not (self.agreed and self.uncompared < _UNCOMPARED and self._is_of(gradients)):
            return False
        self.uncompared += 1
        return True

    def is_due(self, gradients: Sequence[Tensor]) -> bool:
        """Return whether the report is to be compared now, if it is one of these gradients.

        Args:
            gradients: All gradients of the coming step.
        """
        due = self.agreed is None or (self.agreed and self.uncompared >= _UNCOMPARED)
        return due and self._is_of(gradients)

    def agreeing(self, measured: float, gradients: Sequence[Tensor]) -> float | None:
        """Compare the report with what was measured; return it if it agrees, else None.

        It then counts in place of what was measured: a run that is resumed measures where the other did not.

        Args:
            measured: ‖.grad‖.
            gradients: All gradients of the coming step.
        """
        norm = self._value() if self._is_of(gradients) else math.nan
        if not math.isfinite(norm):
            return None
        self.uncompared = 0
        self.agreed = abs(norm - measured) <= _ROUNDING * norm  # False of NaN and infinity
        return norm if self.agreed else None

    def drop(self) -> None:
        """Drop the report: its step was made or left out."""
        self._norm, self._versions = math.nan, None

    def _value(self) -> float:
        if callable(self._norm):
            self._norm = self._norm()
        return self._norm

    def _is_of(self, gradients: Sequence[Tensor]) -> bool:
        return self._versions is not None and self._versions == _versions(gradients)


class GradientNormCache:
    """What the last full reading leaves for the steps after it, so that ‖g‖² needs no state of the optimizer.

    Ask for the `gradients` before `measure` and `slots`.

    Attributes:
        keys: The parameters that had a gradient; the others are resting.
        precise: Whether their gradients are of float32 at least.
        together: Whether their gradients are of one type on one device.
    """

    def __init__(self) -> None:
        self._slots: list[Slot] = []
        self.keys: list[Tensor] = []
        self.precise = self.together = False
        self._resting: list[Tensor] = []
        self._held: list[Mapping[str, Any]] = []  # the states of `keys`
        self._groups: list[dict[str, Any]] = []
        self._members: list[list[Tensor]] = []  # the parameters of each group
        self._states: list[Any] = []  # of all parameters
        self._ahead, self._coordinates, self._read_at = 0, 0, 0

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
        kinds = {(slot.gradient.dtype, slot.gradient.device) for slot in slots}
        self.precise = all(dtype.itemsize >= 4 for dtype, _ in kinds)
        self.together = len(kinds) == 1
        self._groups = list(optimizer.param_groups)
        self._members = [list(group["params"]) for group in self._groups]
        moving = set(map(id, self.keys))
        self._resting = [one for one in all_parameters(optimizer) if id(one) not in moving]
        self._states = list(optimizer.state.values())
        self._ahead, self._read_at = max(slot.updates for slot in slots) - step, step
        self._coordinates = sum(slot.key.numel() for slot in slots)

    def forget(self) -> None:
        """Have everything read at the next step."""
        self._slots, self.keys, self._resting, self._held = [], [], [], []
        self.precise = self.together = False
        self._groups, self._members, self._states = [], [], []

    def measure(self, squared: float, family: Family, *, step: int) -> Measured:
        """Return ‖g‖², and what is known besides without reading anything.

        Args:
            squared: ‖g‖².
            family: How to read the optimizer.
            step: Number of the step.
        """
        return Measured(
            squared_gradient=squared,
            coordinates=self._coordinates,
            finite=math.isfinite(squared),
            updates=step + self._ahead,
            beta2=coming_beta2(family, self._slots[0]),
        )

    def slots(self, *, step: int, scale: float, wait: bool = True) -> list[Slot]:
        """Return all parameters with a gradient as a full reading would.

        Args:
            step: Number of the step.
            scale: What ``.grad`` still has to be divided by.
            wait: Whether to wait for the device, if it counts the updates; else each step counts as one.
        """
        slots = renew_slots(self._slots, scale=scale, steps=None if wait else step - self._read_at)
        self._ahead = max(slot.updates for slot in slots) - step
        return slots


def coming_beta2(family: Family, slot: Slot) -> float | None:
    """Return β₂ of the coming step; None without a decaying average of g².

    Args:
        family: How to read the optimizer.
        slot: A parameter with a state.
    """
    if family.plain_adam:
        return float(slot.group["betas"][1])
    moment = family.second_moment(slot)
    return None if moment is None else moment.beta2


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


def _versions(gradients: Sequence[Tensor]) -> list[tuple[int, int]] | None:
    """Return what differs once a gradient was exchanged or written to, without reading it.

    None of tensors made in inference mode, of which no changes are counted.
    """
    # References would keep the gradients of steps that a gradient scaler leaves out. A new tensor at the old
    # place hardly has the old version: clipping has written to it.
    try:
        return [(id(one), one._version) for one in gradients]
    except RuntimeError:
        return None


def _same(some: Collection[Any], known: Sequence[Any]) -> bool:
    """Return whether both have the same objects in the same order."""
    return len(some) == len(known) and all(map(operator.is_, some, known))
