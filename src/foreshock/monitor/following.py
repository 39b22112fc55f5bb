"""Σv of some steps without a pass over the optimizer's state, and without a host read at each of them.

For Adam Σv obeys V ← β₂V + (1 − β₂)‖g‖² exactly. So a step leaves ‖g‖ of each tensor on the device, and what
has gathered there is fetched in one transfer, from which Σv of all these steps follows.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from foreshock.dynamics import SecondMomentSums
from foreshock.dynamics.signals import total
from foreshock.preconditioner import unwrap
from foreshock.representation import changed
from foreshock.vectors import local

_TOLERANCE = 1e-3  # relative; rounding in float32 sums is a thousand times smaller


@dataclass(frozen=True)
class FollowedStep:
    """What the recursion says of one step.

    Attributes:
        loss: The loss.
        norm: ‖g‖.
        sums: Sums of each parameter group; None if they can't be known, as after a gradient that is not
            finite, which a gradient scaler may have left out or not.
        norms: ‖g‖ of each tensor; empty where one norm over all was given.
    """

    loss: float
    norm: float
    sums: tuple[SecondMomentSums, ...] | None
    norms: tuple[float, ...] = ()


@dataclass(frozen=True)
class GradientSize:
    """What the training loop knows of the size of ``.grad``.

    Attributes:
        scale: What ``.grad`` still has to be divided by.
        norm: ‖g‖ before clipping, over all parameters, not scaled; None if it is to be measured.
        max_norm: What gradients were clipped to after `norm` was taken; infinity if they were not.
    """

    scale: float = 1.0
    norm: Tensor | float | None = None
    max_norm: float = math.inf

    def seen_by_optimizer(self, norm: float) -> float:
        """Return ‖g‖ as the optimizer gets it.

        Args:
            norm: `norm` as a number if it is given, else the norm of ``.grad``.

        Example:
            >>> round(GradientSize(norm=5.0, max_norm=1.0).seen_by_optimizer(5.0), 6)
            1.0
        """
        if self.norm is None:
            return norm / self.scale
        # As `torch.nn.utils.clip_grad_norm_` does it.
        return norm * min(1.0, self.max_norm / (norm + 1e-6))


class FollowedSums:
    """Σv of the parameters that share β₂, followed for some steps from a true reading on.

    Args:
        groups: The parameter groups that have gradients, each with its optimizer.
        sums: Their true sums.
        steps: How many steps may be followed.
        weights: A factor on the squares of each parameter, by identity, where processes have copies of it.
    """

    def __init__(
        self,
        groups: Sequence[tuple[Optimizer, Mapping[str, Any]]],
        sums: Sequence[SecondMomentSums],
        *,
        steps: int,
        weights: Mapping[int, float] | None = None,
    ) -> None:
        self._groups, self._left = groups, steps
        self._members = [_with_gradient(group) for _, group in groups]
        self._decays = [_decays(group) for _, group in groups]
        # Another object from the first step on, and wherever a state was loaded.
        self._states = [_state(one, members) for (one, _), members in zip(groups, self._members, strict=True)]
        shared: dict[tuple[float, int], list[Tensor]] = {}
        keys = [(part.beta2, part.step) for part in sums] or [(0.0, 0)] * len(self._members)
        for members, key in zip(self._members, keys, strict=True):
            shared.setdefault(key, []).extend(members)
        self._parameters = [parameter for members in shared.values() for parameter in members]
        self._sizes = [len(members) for members in shared.values()]
        self._factors: list[float] | None = None
        if weights is not None:
            self._factors = [math.sqrt(weights.get(id(one), 1.0)) for one in self._parameters]
        self._sums = merged(sums)
        self._rows: list[tuple[Tensor, Tensor | float | None, GradientSize]] = []  # values, loss if apart
        self._sound = True

    @classmethod
    def start(
        cls,
        optimizers: Sequence[Optimizer],
        sums: Sequence[SecondMomentSums],
        *,
        steps: int,
        weights: Mapping[int, float] | None = None,
    ) -> FollowedSums | None:
        """Return what follows the sums for some steps; None where only a true reading is right.

        Args:
            optimizers: The optimizers.
            sums: True sums of the step about to be taken, one for each parameter group that has gradients;
                none if the optimizers have no second moment.
            steps: How many steps may be followed.
            weights: A factor on the squares of each parameter, by identity, where processes have copies.
        """
        if any(unwrap(one) is not one or getattr(one, "grad_scale", None) is not None for one in optimizers):
            return None
        groups = [(one, group) for one in optimizers for group in one.param_groups if _with_gradient(group)]
        if not groups or (sums and len(groups) != len(sums)):
            return None
        if not all(math.isfinite(part.current) for part in sums):
            return None
        gradients = _gradients([one for _, group in groups for one in _with_gradient(group)])
        kinds = {(gradient.device, gradient.dtype) for gradient in gradients}
        strided = all(one.layout is torch.strided and not one.dtype.is_complex for one in gradients)
        if len(kinds) > 1 or not strided:
            return None
        return cls(groups, sums, steps=steps, weights=weights)

    @property
    def parameters(self) -> Sequence[Tensor]:
        """The tensors, in the order of `FollowedStep.norms`."""
        return self._parameters

    @property
    def takes_norms(self) -> bool:
        """Whether one norm over all parameters is enough, as where all of them share β₂."""
        return len(self._sizes) == 1

    def take(self, loss: Tensor | float, size: GradientSize, *, longer: bool = False) -> bool:
        """Leave a step's numbers on the device; return False, and take nothing, if the sums must be read.

        Args:
            loss: Loss of the step.
            size: What is known of the size of ``.grad``.
            longer: Whether to follow the sums for longer than they should be.
        """
        if (self._left <= 0 and not longer) or not self._is_unchanged():
            return False
        self._left -= 1
        if size.norm is None or not self.takes_norms:
            norms = list(_foreach_norm(_gradients(self._parameters)))
            if self._factors is not None:
                torch._foreach_mul_(norms, self._factors)
            if size.norm is not None:
                size = GradientSize(scale=size.scale)
        else:
            norm = torch.as_tensor(size.norm).detach().reshape(())
            norms = [norm if norm.dtype.itemsize >= 4 else norm.float()]
        apart: Tensor | float | None = loss
        if isinstance(loss, Tensor):
            value = loss.detach() if loss.requires_grad else loss
            value = value if value.ndim == 0 else value.reshape(())
            if value.dtype == norms[0].dtype and value.device == norms[0].device:
                norms.append(value)
                apart = None
            else:
                apart = value.clone()  # a loss may be written to in place before it is fetched
        self._rows.append((torch.stack(norms), apart, size))
        return True

    def fetch(self) -> list[FollowedStep]:
        """Return the steps that were taken since the last fetch; one transfer for all of them."""
        rows, self._rows = self._rows, []
        if len({values.numel() for values, _, _ in rows}) == 1:
            fetched = torch.stack([values for values, _, _ in rows]).tolist()
        else:
            fetched = [values.tolist() for values, _, _ in rows]
        pairs = zip(fetched, rows, strict=True)
        return [self._advance(values, apart, size) for values, (_, apart, size) in pairs]

    def agrees(self, true: Sequence[SecondMomentSums]) -> bool | None:
        """Return whether the recursion has foretold the true sums; None if they are not of successive steps.

        Args:
            true: True sums of the step after the last one that was taken.
        """
        found = merged(true)
        if not self._sound or [part.step + 1 for part in self._sums] != [part.step for part in found]:
            return None
        pairs = zip(self._sums, found, strict=True)
        return all(abs(a.current - b.previous) <= _TOLERANCE * abs(b.previous) for a, b in pairs)

    def _advance(self, values: list[float], apart: Tensor | float | None, size: GradientSize) -> FollowedStep:
        loss = values.pop() if apart is None else float(apart)
        each: tuple[float, ...] = ()
        if size.norm is not None:
            seen = size.seen_by_optimizer(values[0])
            squares = [seen * seen]  # ** raises where the product is infinite
        else:
            each, squares, first = tuple([one / size.scale for one in values]), [], 0
            for count in self._sizes:
                squares.append(total([one * one for one in each[first : first + count]]))
                first += count
        norm = math.sqrt(total(squares))
        if not (self._sound and math.isfinite(norm)):
            self._sound = False
            return FollowedStep(loss, norm, None, each)
        # Without a second moment there are no sums.
        pairs = zip(self._sums, squares, strict=bool(self._sums))
        self._sums = tuple(
            changed(part, previous=part.current, squared_gradient=square, step=part.step + 1)
            for part, square in pairs
        )
        return FollowedStep(loss, norm, self._sums, each)

    def _is_unchanged(self) -> bool:
        followed = zip(self._groups, self._members, self._decays, self._states, strict=True)
        for (optimizer, group), members, decays, state in followed:
            now = _with_gradient(group)
            if len(now) != len(members) or not all(map(operator.is_, now, members)):
                return False
            if _decays(group) != decays or _state(optimizer, members) is not state:
                return False
        return True


def merged(sums: Sequence[SecondMomentSums]) -> tuple[SecondMomentSums, ...]:
    """Return one entry for all parameter groups that share β₂ and their number of steps.

    Args:
        sums: One entry for each parameter group.

    Example:
        >>> one = SecondMomentSums(1.0, 2.0, beta2=0.9, step=3)
        >>> merged([one, one])
        (SecondMomentSums(squared_gradient=2.0, previous=4.0, beta2=0.9, step=3),)
    """
    shared: dict[tuple[float, int], list[SecondMomentSums]] = {}
    for part in sums:
        shared.setdefault((part.beta2, part.step), []).append(part)
    return tuple(
        SecondMomentSums(
            total(part.squared_gradient for part in parts),
            total(part.previous for part in parts),
            beta2=beta2,
            step=step,
        )
        for (beta2, step), parts in shared.items()
    )


def _with_gradient(group: Mapping[str, Any]) -> list[Tensor]:
    """Return the parameters of a group that are about to be moved."""
    return [p for p in group["params"] if p.grad is not None and p.requires_grad]


def _gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    gradients = [p.grad for p in parameters]
    return [local(gradient) for gradient in gradients if gradient is not None]


def _foreach_norm(gradients: list[Tensor]) -> Sequence[Tensor]:
    # Low precision would lose the norm's digits, and overflow in float16.
    low = gradients[0].dtype.itemsize < 4
    return torch._foreach_norm(gradients, 2, dtype=torch.float32) if low else torch._foreach_norm(gradients)


def _state(optimizer: Optimizer, members: Sequence[Tensor]) -> Any:
    return optimizer.state.get(members[0]) if members else None


def _decays(group: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what says β₂, as plain numbers or as the very tensors."""
    betas = group["betas"][1:2] if "betas" in group else (group.get("alpha"),)
    return tuple(id(beta) if isinstance(beta, Tensor) else beta for beta in betas)
