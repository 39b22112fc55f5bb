"""The free signals of one training step: what loss, gradients and optimizer state show without a probe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from foreshock.curvature import CurvatureReading
from foreshock.dynamics import SecondMomentSums, second_moment_lag
from foreshock.forecast import EdgeReading
from foreshock.preconditioner import (
    Preconditioner,
    live_groups,
    read_gradient_norm,
    read_second_moment_sums,
    unwrap,
)
from foreshock.representation import short_repr
from foreshock.vectors import is_sharded

_LONGEST_INTERVAL = 50
_READ_AFTER_FAILURE = 200
_TOLERANCE = 1e-3  # relative; rounding in float32 sums is a thousand times smaller


@dataclass(frozen=True)
class StepObservation:
    """The free signals of one training step.

    Attributes:
        step: Number of updates before this one.
        loss: The training loss.
        gradient_norm: ‖g‖ over all parameters of the optimizer.
        learning_rate: The largest η of a parameter group.
        instant_lag: v above g² at this step, Σv̂/Σg²; infinity at a zero gradient, NaN without a second
            moment. The `lag` of a forecast looks at some dozens of steps.
        decay_exponent: log(Σv_t/Σv_{t−1})/log β₂.
        squared_gradient: Σg² over the coordinates that have a second moment, or over all if none has.
        second_moment: Σv̂ over them; NaN if none has.
    """

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float
    instant_lag: float
    decay_exponent: float
    squared_gradient: float
    second_moment: float

    __repr__ = short_repr


class FreeSignals:
    """Read the free signals of step after step, between ``backward()`` and ``step()``.

    Σv needs no pass over the optimizer's state: for Adam it obeys V ← β₂V + (1 − β₂)‖g‖² exactly. So most
    steps cost one norm of the gradients and one transfer. The true Σv is read after 1, 2, 4, … and then every
    50 steps, and whenever something changed that the recursion can't know: other parameters have a gradient,
    β₂ or the number of updates is another one (a skipped step, a loaded state), a guard raised v. Where the
    recursion turns out not to hold (coupled weight decay adds to g), the true sums are read at each step.

    Args:
        optimizers: The optimizers.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self._optimizers = optimizers
        self._followed: _FollowedSums | None = None
        self._interval = 1  # steps from one true reading to the next
        self._reads_left = 0  # steps on which the true sums are read because the recursion failed

    def observe(self, *, step: int, loss: float, gradient_scale: float) -> StepObservation:
        """Return the free signals of the step about to be taken.

        Args:
            step: Step number.
            loss: Loss of the step.
            gradient_scale: What ``.grad`` still has to be divided by.
        """
        followed = self._followed
        sums = None if followed is None else followed.advance(gradient_scale)
        if followed is None or sums is None:
            # Of the step about to be taken: v_t with its present gradient, which the optimizer has not seen.
            sums = read_second_moment_sums(self._optimizers, gradient_scale=gradient_scale)
            norm = read_gradient_norm(self._optimizers, gradient_scale=gradient_scale)
            rate = max(float(group["lr"]) for one in self._optimizers for group in live_groups(one))
            self._follow(sums)
        else:
            norm, rate = followed.norm, followed.rate
        lag = second_moment_lag(sums)
        return StepObservation(
            step=step,
            loss=loss,
            gradient_norm=norm,
            learning_rate=rate,
            instant_lag=lag.instant_lag,
            decay_exponent=lag.decay_exponent,
            # v and g² over the same coordinates, so that their quotient is one where v follows.
            squared_gradient=sum(part.squared_gradient for part in sums) if sums else norm**2,
            second_moment=sum(part.corrected for part in sums) if sums else math.nan,
        )

    def refresh(self) -> None:
        """Read the true sums at the next step: v was changed from outside."""
        self._followed = None

    def _follow(self, sums: Sequence[SecondMomentSums]) -> None:
        """Follow the sums from here on by their recursion, unless it failed lately."""
        if self._followed is not None:
            # Trust has to be earned: each reading that the recursion foretold doubles the way to the next.
            held = not self._followed.is_off(sums)
            self._interval = min(2 * self._interval, _LONGEST_INTERVAL) if held else 1
            self._reads_left = max(self._reads_left - 1, 0) if held else _READ_AFTER_FAILURE
        self._followed = _FollowedSums.start(
            self._optimizers, sums, steps=0 if self._reads_left else self._interval - 1
        )


class _FollowedSums:
    """Σv of each parameter group, followed for some steps from a true reading on."""

    def __init__(
        self,
        groups: Sequence[tuple[Optimizer, Mapping[str, Any]]],
        sums: Sequence[SecondMomentSums],
        *,
        steps: int,
    ) -> None:
        self._groups, self._sums, self._left = groups, list(sums), steps
        self._parameters = [_with_gradient(group) for _, group in groups]
        self._decays = [_decays(group) for _, group in groups]
        self._optimizers = {id(one): one for one, _ in groups}.values()
        self.norm = self.rate = math.nan

    @classmethod
    def start(
        cls, optimizers: Sequence[Optimizer], sums: Sequence[SecondMomentSums], *, steps: int
    ) -> _FollowedSums | None:
        """Return what follows the sums for some steps; None where only a true reading is right."""
        if any(unwrap(one) is not one or getattr(one, "grad_scale", None) is not None for one in optimizers):
            return None
        groups = [(one, group) for one in optimizers for group in one.param_groups if _with_gradient(group)]
        if not sums or len(groups) != len(sums) or not all(math.isfinite(part.current) for part in sums):
            return None
        gradients = [gradient for _, group in groups for gradient in _gradients(_with_gradient(group))]
        kinds = {(gradient.device, gradient.dtype, gradient.layout) for gradient in gradients}
        [(_, dtype, layout), *others] = kinds
        wide = layout is torch.strided and dtype.itemsize >= 4 and not dtype.is_complex
        if others or not wide or is_sharded(gradients):
            return None
        return cls(groups, sums, steps=steps)

    def advance(self, gradient_scale: float) -> list[SecondMomentSums] | None:
        """Return the sums of the coming step; None if they have to be read."""
        self._sums = [replace(part, previous=part.current, step=part.step + 1) for part in self._sums]
        self._left -= 1
        if self._left < 0 or not self._is_unchanged():
            return None
        norms = torch._foreach_norm([one for members in self._parameters for one in _gradients(members)])
        fetched = iter(torch.stack(list(norms)).tolist())  # the only transfer of the step
        squares = [math.fsum((next(fetched) / gradient_scale) ** 2 for _ in m) for m in self._parameters]
        if not all(map(math.isfinite, squares)):
            return None
        pairs = zip(self._sums, squares, strict=True)
        self._sums = [replace(part, squared_gradient=square) for part, square in pairs]
        self.norm = math.sqrt(math.fsum(squares))
        self.rate = max(float(group["lr"]) for one in self._optimizers for group in one.param_groups)
        return self._sums

    def is_off(self, true: Sequence[SecondMomentSums]) -> bool:
        """Return whether the recursion has left the true sums, as far as both are of the same step."""
        if [part.step for part in self._sums] != [part.step for part in true]:
            return False
        pairs = zip(self._sums, true, strict=True)
        return any(not abs(a.previous - b.previous) <= _TOLERANCE * abs(b.previous) for a, b in pairs)

    def _is_unchanged(self) -> bool:
        followed = zip(self._groups, self._parameters, self._decays, self._sums, strict=True)
        for (optimizer, group), members, decays, part in followed:
            now = _with_gradient(group)
            if len(now) != len(members) or any(a is not b for a, b in zip(now, members, strict=True)):
                return False
            made = optimizer.state.get(members[0], {}).get("step")
            # On an accelerator the count would cost a transfer: there the next true reading puts it right.
            remote = isinstance(made, Tensor) and made.device.type != "cpu"
            if made is None or not (remote or int(made) == part.step - 1) or _decays(group) != decays:
                return False
        return True


def _with_gradient(group: Mapping[str, Any]) -> list[Tensor]:
    return [p for p in group["params"] if p.grad is not None and p.requires_grad]


def _gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]


def _decays(group: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what says β₂, as plain numbers or as the very tensors."""
    betas = group["betas"] if "betas" in group else (group.get("alpha"),)
    return tuple(id(beta) if isinstance(beta, Tensor) else beta for beta in betas)


def edge_reading(
    seen: StepObservation, reading: CurvatureReading, preconditioner: Preconditioner
) -> EdgeReading:
    """Return the plain numbers of a reading and its step that a forecast takes.

    Args:
        seen: The free signals of the step.
        reading: The curvature at that step.
        preconditioner: The step about to be taken.
    """
    recursion = preconditioner.recursion
    return EdgeReading(
        stability_ratio=reading.stability_ratio,
        learning_rate=preconditioner.largest_rate,
        relative_error=reading.relative_error,
        gradient_stability_ratio=reading.gradient_stability_ratio,
        predicted_loss_change=reading.predicted_loss_change,
        alignment=reading.alignment,
        excess_loss=reading.excess_loss,
        instant_lag=seen.instant_lag,
        loss=seen.loss,
        beta1=recursion.decay,
        direct_share=recursion.direct,
    )
