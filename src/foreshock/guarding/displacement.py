r"""The last displacement of every parameter, the guard's only buffer, and products with it.

The secant needs dᵀDd with the D of the *next* step, a pass over v with square roots. A bound is nearly free:
Adam's own step is u = −ηm̂/D and d = u − ηwθ, so that in the metric of D of this step, by Cauchy and Schwarz,

.. math:: d^\top D d \ge \frac{(u^\top D d)^2}{u^\top D u}
    = \frac{(η\hat m^\top d)^2}{-η\hat m^\top(d + ηwθ)},

with equality for w = 0. From one step to the next D falls by √(β₂(1 − β₂^{t−1})/(1 − β₂ᵗ)) at most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from foreshock.guarding.slots import Slot, per_group

_WIDE = (torch.float32, torch.float64)


class Moved(NamedTuple):
    """What is known of the last displacement d of one parameter.

    Attributes:
        back: −d.
        product: −gᵀd with the gradient of that step.
        momentum: −mᵀd; None where the step is not one of Adam.
        shrunk: mᵀθ before the step; None without decoupled weight decay.
        rate: η/(1 − β₁ᵗ) of that step.
        decay: ηw of that step.
    """

    back: Tensor
    product: Tensor
    momentum: Tensor | None = None
    shrunk: Tensor | None = None
    rate: float = 0.0
    decay: float = 0.0

    @property
    def products(self) -> tuple[Tensor, ...]:
        """The products that are known, to be fetched together and given to `least_length`."""
        return tuple(p for p in (self.product, self.momentum, self.shrunk) if p is not None)

    def least_length(self, momentum: float, shrunk: float = 0.0) -> float:
        """Return a lower bound of dᵀDd, D that of the last step.

        Args:
            momentum: −mᵀd.
            shrunk: mᵀθ before the step.
        """
        along = self.rate * momentum
        whole = along - self.rate * self.decay * shrunk
        return along * along / whole if along > 0 and whole > 0 else 0.0


class Displacement:
    """Remember what one step moved.

    `begin` copies the parameters before the step, `end` turns the copy into the displacement with its sign
    turned, θ_t − θ_{t+1}. A parameter that had no gradient did not move and is forgotten.
    """

    def __init__(self) -> None:
        self._back: dict[Tensor, Tensor] = {}
        self._moved: dict[Tensor, Moved] = {}

    def begin(self, slots: Sequence[Slot]) -> None:
        """Keep the parameters as they are before the step."""
        old, self._back, self._moved = self._back, {}, {}
        reused: list[Tensor] = []
        sources: list[Tensor] = []
        for slot in slots:
            buffer = old.get(slot.key)
            if buffer is None:
                self._back[slot.key] = slot.parameter.clone()
            else:
                self._back[slot.key] = buffer
                reused.append(buffer)
                sources.append(slot.parameter)
        if reused:
            torch._foreach_copy_(reused, sources)

    def end(self, slots: Sequence[Slot]) -> None:
        """Compute the displacement and its products, while the options of the step are still in place."""
        if not slots:
            return
        backs = [self._back[slot.key] for slot in slots]
        rates = per_group(slots, lambda slot: float(slot.group["lr"]))
        # On the CPU tensor by tensor: what was just written is still in the cache for the products.
        together = backs[0].device.type != "cpu"
        if together:
            torch._foreach_sub_(backs, [slot.parameter for slot in slots])
        for slot, back in zip(slots, backs, strict=True):
            if not together:
                back.sub_(slot.parameter)
            self._moved[slot.key] = _moved(slot, back, rate=rates[id(slot.group)])

    def forget(self) -> None:
        """Forget the last displacement: another step is made that is not remembered."""
        self._moved = {}

    def moved(self, slot: Slot) -> Moved | None:
        """Return what is known of a parameter's last displacement; None if it did not move."""
        return self._moved.get(slot.key)

    def buffers(self) -> list[Tensor]:
        """Return the tensors that are held: one of the size of each parameter that moved at some step."""
        return list(self._back.values())

    def state_dict(self, parameters: Sequence[Tensor]) -> list[Any]:
        """Return copies of what is remembered, in the order of the parameters.

        Args:
            parameters: All parameters of the optimizer.
        """
        known = [self._moved.get(parameter) for parameter in parameters]
        return [None if one is None else _copied(one._asdict()) for one in known]

    def load_state_dict(self, state: Sequence[Any], parameters: Sequence[Tensor]) -> None:
        """Continue from `state_dict()`.

        Args:
            state: What `state_dict` returned.
            parameters: All parameters of the optimizer.

        Raises:
            ValueError: If it is of other parameters.
        """
        if len(state) != len(parameters):
            raise ValueError(
                f"the guard's state is of an optimizer with {len(state)} parameters, this one has "
                f"{len(parameters)}: build the optimizer as in the run that was saved"
            )
        pairs = [(p, kept) for p, kept in zip(parameters, state, strict=True) if kept is not None]
        self._moved = {p: Moved(**_copied(kept, device=p.device)) for p, kept in pairs}
        self._back = {parameter: moved.back for parameter, moved in self._moved.items()}


def inner(one: Tensor, other: Tensor) -> Tensor:
    """Return the inner product of two tensors of one shape, in float32 at least.

    Args:
        one: Any tensor.
        other: Of the same shape.
    """
    if one.dtype not in _WIDE:
        one = one.float()
    if other.dtype != one.dtype:
        other = other.to(one.dtype)
    return torch.dot(one.reshape(-1), other.reshape(-1))


def _moved(slot: Slot, back: Tensor, *, rate: float) -> Moved:
    product = inner(slot.gradient, back)
    momentum = slot.state.get("exp_avg") if slot.plain_adam else None
    if momentum is None:
        return Moved(back, product)
    beta1 = float(slot.group["betas"][0])
    decay = 0.0 if slot.coupled_decay else rate * float(slot.group["weight_decay"])
    along = inner(momentum, back)
    shrunk = inner(momentum, slot.parameter) + along if decay else None
    return Moved(back, product, along, shrunk, rate / (1 - beta1**slot.updates), decay)


def _copied(fields: Mapping[str, Any], device: torch.device | None = None) -> dict[str, Any]:
    return {
        name: value.to(device or value.device, copy=True) if isinstance(value, Tensor) else value
        for name, value in fields.items()
    }
