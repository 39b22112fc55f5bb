"""The last displacement of every parameter, and the gradient's product with it: the guard's only buffer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from foreshock.guarding.slots import Slot


class Displacement:
    """Remember what one step moved.

    `begin` copies the parameters before the step, `end` turns the copy into the displacement with its sign
    turned, θ_t − θ_{t+1}. A parameter that had no gradient did not move and is forgotten.
    """

    def __init__(self) -> None:
        self._back: dict[Tensor, Tensor] = {}
        self._products: dict[Tensor, Tensor] = {}

    def begin(self, slots: Sequence[Slot]) -> None:
        """Keep the parameters as they are before the step."""
        old, self._back, self._products = self._back, {}, {}
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
        """Compute the displacement, and its product with the gradient that was used."""
        if not slots:
            return
        buffers = [self._back[slot.key] for slot in slots]
        if buffers:
            torch._foreach_sub_(buffers, [slot.parameter for slot in slots])
        self._products = {
            slot.key: inner(slot.gradient, back) for slot, back in zip(slots, buffers, strict=True)
        }

    def forget(self) -> None:
        """Forget the last step."""
        self._products = {}

    def moved(self, slot: Slot) -> tuple[Tensor, Tensor] | None:
        """Return −d of a parameter and −gᵀd with the gradient before; None if that is not known."""
        product = self._products.get(slot.key)
        return None if product is None else (self._back[slot.key], product)

    def state_dict(self, parameters: Sequence[Tensor]) -> dict[str, Any]:
        """Return copies of what is remembered, in the order of the parameters.

        Args:
            parameters: All parameters of the optimizer.
        """
        known = [p if p in self._products else None for p in parameters]
        return {
            "back": [None if p is None else self._back[p].clone() for p in known],
            "products": [None if p is None else self._products[p].clone() for p in known],
        }

    def load_state_dict(self, state: Mapping[str, Any], parameters: Sequence[Tensor]) -> None:
        """Continue from `state_dict()`.

        Args:
            state: What `state_dict` returned.
            parameters: All parameters of the optimizer.

        Raises:
            ValueError: If it is of other parameters.
        """
        if len(state["back"]) != len(parameters):
            raise ValueError(
                f"the guard's state is of an optimizer with {len(state['back'])} parameters, this one has "
                f"{len(parameters)}: build the optimizer as in the run that was saved"
            )
        self._back, self._products = {}, {}
        for parameter, back, product in zip(parameters, state["back"], state["products"], strict=True):
            if back is not None:
                self._back[parameter] = back.to(parameter.device).clone()
                self._products[parameter] = product.to(parameter.device).clone()


def inner(one: Tensor, other: Tensor) -> Tensor:
    """Return the inner product of two tensors of one shape, in float32 at least."""
    if one.dtype.itemsize < 4:
        one, other = one.float(), other.float()
    if other.dtype != one.dtype:
        other = other.to(one.dtype)
    return torch.dot(one.reshape(-1), other.reshape(-1))
