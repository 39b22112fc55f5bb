"""A glance at the coming step: ‖g‖² without reading the optimizer's state, which takes longer.

Most steps need no more. What else a policy gets to see of such a step, t and β₂, follows from the last step
at which everything was read; and so do the slots, where they are needed after all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from foreshock.guarding.families import Family, Slot, renew_slots
from foreshock.guarding.fetching import fetch
from foreshock.guarding.policies import Measure
from foreshock.vectors import is_sharded

READ: frozenset[Measure] = frozenset({"secant", "preconditioned gradient"})
"""What can't be measured at a glance."""


class Glance:
    """What the last full reading leaves for the steps after it; see the module.

    Attributes:
        coordinates: How many coordinates had a gradient then; ask `suits` first.
    """

    def __init__(self) -> None:
        self._slots: list[Slot] = []
        self._ahead = 0
        self.coordinates = 0

    def suits(self, optimizer: Optimizer) -> bool:
        """Return whether the last full reading was of the parameters, states and groups that there are now.

        Args:
            optimizer: The optimizer, unwrapped.
        """
        known, place = self._slots, 0
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if not parameter.requires_grad or parameter.grad is None:
                    continue
                if place == len(known):
                    return False
                slot = known[place]
                if slot.key is not parameter or slot.group is not group:
                    return False
                if optimizer.state.get(parameter) is not slot.state or not slot.state:
                    return False
                place += 1
        return place == len(known) > 0

    def remember(self, slots: Sequence[Slot], *, step: int, summed: bool) -> None:
        """Go on from a full reading, if all parameters are real, have a state and lie here as a whole.

        Args:
            slots: All parameters with a gradient.
            step: Number of the step.
            summed: Whether sums are added up over processes.
        """
        keys = [slot.key for slot in slots]
        whole = not summed and not is_sharded(keys) and not any(key.is_complex() for key in keys)
        if not (slots and whole and all(slot.state for slot in slots)):
            self.forget()
            return
        # The gradient is not held: it may be freed before the next step.
        self._slots = [slot._replace(gradient=slot.key, parameter=slot.key) for slot in slots]
        self._ahead = max(slot.updates for slot in slots) - step
        self.coordinates = sum(key.numel() for key in keys)

    def forget(self) -> None:
        """Have everything read at the next step."""
        self._slots = []

    def squared_norm(self, *, scale: float) -> float:
        """Return ‖g‖² of the parameters that the last full reading was of; ask `suits` first.

        Args:
            scale: What ``.grad`` still has to be divided by.
        """
        gradients = [slot.key.grad for slot in self._slots if slot.key.grad is not None]
        return math.fsum((norm / scale) ** 2 for norm in fetch(norms(gradients)))

    def slots(self, *, step: int, scale: float) -> list[Slot]:
        """Return all parameters with a gradient as a full reading would; ask `suits` first.

        Args:
            step: Number of the step.
            scale: What ``.grad`` still has to be divided by.
        """
        slots = renew_slots(self._slots, scale=scale)
        self._ahead = max(slot.updates for slot in slots) - step
        return slots

    def updates(self, step: int) -> int:
        """Return t of a step.

        Args:
            step: Its number.
        """
        return step + self._ahead

    def beta2(self, family: Family) -> float | None:
        """Return β₂ of the coming step; None if the optimizer has no such average.

        Args:
            family: How to read the optimizer.
        """
        moment = family.second_moment(self._slots[0]) if self._slots else None
        return None if moment is None else moment.beta2


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
    if all(gradient.dtype.itemsize >= 4 for gradient in gradients):
        return list(torch._foreach_norm(list(gradients)))
    wide = [None if gradient.dtype.itemsize >= 4 else torch.float32 for gradient in gradients]
    return [torch.linalg.vector_norm(g, dtype=dtype) for g, dtype in zip(gradients, wide, strict=True)]
