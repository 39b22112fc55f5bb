"""A lower learning rate that holds whatever a schedule sets."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from foreshock.preconditioner import unwrap
from foreshock.recorder import Snapshot


class RateFactor:
    """Multiply the learning rate inside ``optimizer.step()``, whatever a schedule sets.

    Args:
        optimizers: The optimizers.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self._optimizers, self.factor = tuple(map(unwrap, optimizers)), 1.0
        self._hooked = False

    def lower(self, factor: float) -> None:
        """Multiply by one more factor from the next step on.

        Args:
            factor: Between 0 and 1; 1 changes nothing.
        """
        self.set(self.factor * factor)

    def set(self, factor: float) -> None:
        """Multiply by a factor from the next step on, and by no other.

        Args:
            factor: Above 0; 1 leaves the rate to whoever sets it.
        """
        self.factor = factor
        if factor == 1 or self._hooked:
            return
        self._hooked = True
        for optimizer in self._optimizers:
            saved: list[Any] = []
            applied: list[float] = []
            # Not bound to an object that has the optimizer: hooks that hold it would keep it alive.
            this = weakref.ref(self)

            def before(
                one: Optimizer,
                *_: Any,
                saved: list[Any] = saved,
                applied: list[float] = applied,
                this: Any = this,
            ) -> None:
                owner = this()
                factor = 1.0 if owner is None else owner.factor
                # A step that failed never put its rates back: those that nobody set since.
                for group, rate in zip(one.param_groups, saved, strict=False):
                    if float(group["lr"]) == float(rate * applied[0]):
                        set_rate(group, rate)
                applied[:] = [factor]
                saved[:] = [copy_of_rate(group) for group in one.param_groups]
                for group, rate in zip(one.param_groups, saved, strict=True):
                    set_rate(group, rate * factor)

            def after(one: Optimizer, *_: Any, saved: list[Any] = saved) -> None:
                for group, rate in zip(one.param_groups, saved, strict=False):
                    set_rate(group, rate)
                saved.clear()

            optimizer.register_step_pre_hook(before)
            optimizer.register_step_post_hook(after)

    def rose(self, snapshot: Snapshot) -> float:
        """Return by how much the rate is above that of a snapshot, 1 if it is not.

        Args:
            snapshot: The snapshot.
        """
        then = snapshot.learning_rate
        now = max(float(group["lr"]) for one in self._optimizers for group in one.param_groups)
        return max(now * self.factor / then, 1.0) if then > 0 and now < math.inf else 1.0


def copy_of_rate(group: dict[str, Any]) -> Any:
    """Return the learning rate of a group; of a tensor a copy.

    Args:
        group: A parameter group.
    """
    rate = group["lr"]
    return rate.clone() if isinstance(rate, Tensor) else rate


@torch.no_grad()
def set_rate(group: dict[str, Any], rate: Any) -> None:
    """Set the learning rate of a group; a tensor is written in place.

    Args:
        group: A parameter group.
        rate: The rate.
    """
    if isinstance(group["lr"], Tensor):
        group["lr"].copy_(rate) if isinstance(rate, Tensor) else group["lr"].fill_(rate)
    else:
        group["lr"] = rate
