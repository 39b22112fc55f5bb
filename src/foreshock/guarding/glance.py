"""A glance at the coming step: ‖g‖² without reading the optimizer's state, which takes far longer.

Most steps need no more. What else a policy gets to see of such a step, t and β₂, follows from the last step
at which everything was read.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from foreshock.guarding.families import Family
from foreshock.guarding.fetching import fetch
from foreshock.guarding.policy import Measure
from foreshock.guarding.slots import Slot, all_parameters
from foreshock.vectors import is_sharded

READ: frozenset[Measure] = frozenset({"secant", "preconditioned gradient"})
"""What can't be measured at a glance."""


class Glance:
    """What the last full reading leaves for the steps after it; see the module."""

    def __init__(self) -> None:
        self._first: Slot | None = None
        self._moving: list[Tensor] = []
        self._ahead = 0

    def suits(self, optimizer: Optimizer) -> bool:
        """Return whether the last full reading was of the parameters that have a gradient now.

        Args:
            optimizer: The optimizer, unwrapped.
        """
        if self._first is None or self._first.key not in optimizer.state:
            return False
        moving = moved(optimizer)
        return len(moving) == len(self._moving) and all(map(operator.is_, moving, self._moving))

    def remember(self, slots: Sequence[Slot], *, step: int, summed: bool) -> None:
        """Go on from a full reading, if that can be: all parameters have a state and lie here as a whole.

        Args:
            slots: All parameters with a gradient.
            step: Number of the step.
            summed: Whether sums are added up over processes.
        """
        whole = not summed and not is_sharded([slot.key for slot in slots])
        if not (slots and whole and all(slot.state for slot in slots)):
            self.forget()
            return
        # The gradient is not held: it may be freed before the next step.
        self._first = slots[0]._replace(gradient=slots[0].parameter)
        self._moving = [slot.key for slot in slots]
        self._ahead = max(slot.updates for slot in slots) - step

    def forget(self) -> None:
        """Have everything read at the next step."""
        self._first, self._moving = None, []

    def squared_norm(self, *, scale: float) -> float:
        """Return ‖g‖² of the parameters that the last full reading was of; ask `suits` first.

        Args:
            scale: What ``.grad`` still has to be divided by.
        """
        return squared_norm(self._moving, scale=scale)

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
        moment = None if self._first is None else family.second_moment(self._first)
        return None if moment is None else moment.beta2

    @property
    def beta1(self) -> float:
        """β₁ of the coming step; 0 for an optimizer without."""
        return 0.0 if self._first is None else first_decay(self._first.group)


def first_decay(group: Mapping[str, Any]) -> float:
    """Return β₁ of a parameter group, or the momentum that takes its place; 0 if there is neither.

    Args:
        group: The parameter group.
    """
    return float(group["betas"][0] if "betas" in group else group.get("momentum", 0.0))


def moved(optimizer: Optimizer) -> list[Tensor]:
    """Return the parameters that have a gradient, in order.

    Args:
        optimizer: The optimizer, unwrapped.
    """
    return [p for p in all_parameters(optimizer) if p.requires_grad and p.grad is not None]


def squared_norm(parameters: Iterable[Tensor], *, scale: float) -> float:
    """Return ‖g‖² of parameters.

    Args:
        parameters: Parameters; those without a gradient count as zero.
        scale: What ``.grad`` still has to be divided by.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    # As two real numbers each, as a full reading has them: the last digits would differ.
    gradients = [torch.view_as_real(g) if g.is_complex() else g for g in gradients]
    return math.fsum((norm / scale) ** 2 for norm in fetch(norms(gradients)))


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
