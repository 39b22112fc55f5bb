r"""The last displacement of every parameter, the guard's only buffer, and products with it.

The secant needs dᵀDd with the D of the *next* step, a pass over v with square roots. A bound is nearly free:
Adam's own step is u = −ηm̂/D and d = u − ηwθ, so that in the metric of D of this step, by Cauchy and Schwarz,

.. math:: d^\top D d \ge \frac{(u^\top D d)^2}{u^\top D u}
    = \frac{(η\hat m^\top d)^2}{-η\hat m^\top(d + ηwθ)},

with equality for w = 0. From one step to the next D falls by √(β₂(1 − β₂^{t−1})/(1 − β₂ᵗ)) at most.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from foreshock.guarding.parameters import LARGEST, Bundle, Slot, as_real, bundle, flat, per_group
from foreshock.vectors import split

_WIDE = (torch.float32, torch.float64)


class Moved(NamedTuple):
    """What is known of the last displacement d of a bundle of parameters.

    Attributes:
        keys: The parameters themselves.
        back: −d, of several parameters one after the other.
        product: −gᵀd with the gradient of that step.
        momentum: −mᵀd; None where the step is not one of Adam.
        shrunk: mᵀθ before the step; None without decoupled weight decay.
        rate: η/(1 − β₁ᵗ) of that step.
        decay: ηw of that step.
    """

    keys: tuple[Tensor, ...]
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

    @property
    def backs(self) -> list[Tensor]:
        """−d of each parameter, in its shape."""
        return [self.back] if len(self.keys) == 1 else split(self.back, list(map(as_real, self.keys)))

    def least_length(self, momentum: float, shrunk: float = 0.0) -> float:
        """Return a lower bound of dᵀDd, D that of the last step.

        Args:
            momentum: −mᵀd.
            shrunk: mᵀθ before the step.
        """
        # −ηm̂ᵀd and −ηm̂ᵀ(d + ηwθ) of the module's inequality. Where they are not positive, because of rounding
        # or a state that was changed from outside, nothing is known.
        along = self.rate * momentum
        whole = along - self.rate * self.decay * shrunk
        return along * along / whole if along > 0 and whole > 0 else 0.0


class Displacement:
    """Remember what one step moved.

    `begin` copies the parameters before the step, `end` turns the copy into the displacement with its sign
    turned, θ_t − θ_{t+1}. A parameter that had no gradient did not move and is forgotten.

    Attributes:
        empty: Whether no step is remembered, nor begun.
    """

    def __init__(self) -> None:
        self.empty = True
        self._bundles: list[Bundle] = []
        self._backs: dict[tuple[int, ...], Tensor] = {}
        self._moved: list[Moved] = []
        # Parameters that had no gradient once when others of their bundle had one.
        self._alone: list[weakref.ref[Tensor]] = []

    def begin(self, slots: Sequence[Slot]) -> None:
        """Copy the parameters before the step.

        Args:
            slots: The parameters that have a gradient.
        """
        self._bundles, self._moved = bundle(slots, alone=self._apart()), []
        self.empty = not slots
        # Memory that is of no use any more is freed before any new is taken.
        named = {_name([slot.key for slot in members]): members for members in self._bundles}
        self._backs = {name: self._backs[name] for name in named if self._has_room(name, named[name])}
        reused: list[Tensor] = []
        sources: list[Tensor] = []
        for name, members in named.items():
            buffer = self._backs.get(name)
            if len(members) > 1 and (buffer is None or buffer.numel() <= LARGEST):
                self._backs[name] = flat(members, lambda slot: slot.parameter)
            elif buffer is None:  # a large parameter for the first time
                self._backs[name] = members[0].parameter.clone()
            else:
                targets = [slot.parameter for slot in members]
                reused += split(buffer, targets) if len(members) > 1 else [buffer]
                sources += targets
        if reused:
            torch._foreach_copy_(reused, sources)

    def end(self) -> None:
        """Compute the displacement and its products, while the options of the step are still in place.

        There is none if no step was begun.
        """
        bundles, self._bundles = self._bundles, []
        # A learning rate may be a tensor on an accelerator: one transfer for each group.
        rates = per_group([members[0] for members in bundles], lambda slot: float(slot.group["lr"]))
        for members in bundles:
            parameters = flat(members, lambda slot: slot.parameter)
            keys = tuple([slot.key for slot in members])
            back = self._backs[_name(keys)].sub_(parameters)
            self._moved.append(_moved(members, keys, back, parameters, rate=rates[id(members[0].group)]))

    def forget(self) -> None:
        """Forget the last displacement: another step is made that is not remembered."""
        self._moved, self._bundles, self.empty = [], [], True

    def pairs(self, slots: Sequence[Slot]) -> list[tuple[Moved, tuple[int, ...]]]:
        """Return what moved and has a gradient again, with the places of its parameters among `slots`.

        A bundle of which some have none is left out, and what has none is left alone from now on.

        Args:
            slots: The parameters that have a gradient and a state.
        """
        # By identity: to hash a tensor is a call of Python.
        places = {id(slot.key): place for place, slot in enumerate(slots)}
        found = []
        for moved in self._moved:
            missing = [key for key in moved.keys if id(key) not in places]
            if not missing:
                found.append((moved, tuple([places[id(key)] for key in moved.keys])))
            elif len(moved.keys) > 1:
                self._alone += map(weakref.ref, missing)
        return found

    def _has_room(self, name: tuple[int, ...], members: Bundle) -> bool:
        """Return whether there is a buffer for a bundle: names are used again for other parameters."""
        buffer, first = self._backs.get(name), members[0].parameter
        if buffer is None or (buffer.dtype, buffer.device) != (first.dtype, first.device):
            return False
        if len(members) == 1:
            return buffer.shape == first.shape
        return buffer.numel() == sum(slot.parameter.numel() for slot in members)

    def _apart(self) -> list[Tensor]:
        return [key for reference in self._alone if (key := reference()) is not None]

    def backs(self, slots: Sequence[Slot]) -> list[Tensor | None]:
        """Return −d of each parameter in its shape; None if it did not move.

        Args:
            slots: Parameters.
        """
        known = {
            key: back for moved in self._moved for key, back in zip(moved.keys, moved.backs, strict=True)
        }
        return [known.get(slot.key) for slot in slots]

    def buffers(self) -> list[Tensor]:
        """Return the tensors that are held: one coordinate for each that moved at some step."""
        return list(self._backs.values())

    def state_dict(self, parameters: Sequence[Tensor]) -> dict[str, Any]:
        """Return copies of what is remembered; parameters by their places.

        Args:
            parameters: All parameters of the optimizer.
        """
        places = {parameter: place for place, parameter in enumerate(parameters)}
        known = [one for one in self._moved if all(key in places for key in one.keys)]
        moved = [{**_copied(one._asdict()), "keys": [places[key] for key in one.keys]} for one in known]
        alone = [places[key] for key in self._apart() if key in places]
        return {"parameters": len(parameters), "moved": moved, "alone": alone}

    def load_state_dict(self, state: Mapping[str, Any], parameters: Sequence[Tensor]) -> str:
        """Continue from `state_dict()`; return why that can't be done, nothing if it can.

        Args:
            state: What `state_dict` returned.
            parameters: All parameters of the optimizer.
        """
        self.empty, self._bundles, self._moved, self._alone, self._backs = True, [], [], [], {}
        misfit = _misfit(state, parameters)
        if misfit:
            return misfit
        for kept in state["moved"]:
            keys = tuple(parameters[place] for place in kept["keys"])
            self._moved.append(Moved(**{**_copied(kept, device=keys[0].device), "keys": keys}))
        self.empty = not self._moved
        self._alone = [weakref.ref(parameters[place]) for place in state["alone"]]
        self._backs = {_name(moved.keys): moved.back for moved in self._moved}
        return ""


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


def _misfit(state: Mapping[str, Any], parameters: Sequence[Tensor]) -> str:
    """Return in what a state differs from the parameters of an optimizer."""
    if state["parameters"] != len(parameters):
        return f"it is of an optimizer with {state['parameters']} parameters, this one has {len(parameters)}"
    for kept in state["moved"]:
        size = sum(as_real(parameters[place]).numel() for place in kept["keys"])
        if kept["back"].numel() != size:
            return f"it has {kept['back'].numel()} coordinates where this optimizer has {size}"
    return ""


def _name(keys: Iterable[Tensor]) -> tuple[int, ...]:
    return tuple(map(id, keys))


def _moved(
    members: Bundle, keys: tuple[Tensor, ...], back: Tensor, parameters: Tensor, *, rate: float
) -> Moved:
    first = members[0]
    # The products with this step's gradient are taken now: it is gone when the next one is there. A fused
    # optimizer has divided the scale of mixed precision out of ``.grad`` by now.
    product = inner(flat(members, lambda slot: slot.gradient), back)
    if not (first.plain_adam and "exp_avg" in first.state):
        return Moved(keys, back, product)
    beta1 = float(first.group["betas"][0])
    decay = 0.0 if first.coupled_decay else rate * float(first.group["weight_decay"])
    momentum = flat(members, lambda slot: slot.state["exp_avg"])
    along = inner(momentum, back)
    shrunk = inner(momentum, parameters) + along if decay else None
    return Moved(keys, back, product, along, shrunk, rate / (1 - beta1**first.updates), decay)


def _copied(fields: Mapping[str, Any], device: torch.device | None = None) -> dict[str, Any]:
    return {
        name: value.to(device or value.device, copy=True) if isinstance(value, Tensor) else value
        for name, value in fields.items()
    }
