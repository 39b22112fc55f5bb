"""The state of an optimizer: what it keeps of each parameter, the options of its groups, its attributes.

`torch.optim.Optimizer.load_state_dict` is not used: it casts what an optimizer keeps in float32 for a
bfloat16 parameter to bfloat16, and it takes parameters in another order for the right ones if their shapes
agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from foreshock.preconditioner import unwrap
from foreshock.recorder.encoding import (
    Copies,
    NamedTensors,
    UnsupportedStateError,
    decode,
    encode,
    written,
)
from foreshock.recorder.spread import Layout, as_spread, is_spread, own_part


def capture_optimizer(
    optimizer: Optimizer, place: str, names: Mapping[int, str], tensors: NamedTensors
) -> dict[str, Any]:
    """Return the state of an optimizer as plain JSON; its tensors are put into a mapping, and not copied.

    Args:
        optimizer: The optimizer, or a wrapper around it.
        place: What to call it.
        names: The model's names of parameters, by their ids.
        tensors: Where tensors are put.

    Raises:
        UnsupportedStateError: If some of it can't be recorded exactly.
    """
    inner = unwrap(optimizer)
    if type(optimizer).__name__ == "ZeroRedundancyOptimizer":
        raise UnsupportedStateError(
            "ZeroRedundancyOptimizer spreads its state over processes: use its own checkpoints, and a "
            "Monitor without a recorder"
        )
    groups, known = [], dict[int, str]()
    for index, group in enumerate(inner.param_groups):
        if any(is_spread(one) and id(one) not in names for one in group["params"]):
            raise UnsupportedStateError(
                f"{place} has parameters that are spread over processes, and the model has them whole at the "
                "moment: let fully_shard free them after backward(), as set_reshard_after_backward(True) does"
            )
        members = _members(group, index, names)
        known |= {id(p): name for p, name in zip(group["params"], members, strict=True)}
        options = {key: value for key, value in group.items() if key != "params"}
        groups.append({"parameters": members, "options": encode(options, f"{place}/group/{index}", tensors)})
    states = []
    for key, state in inner.state.items():
        of_parameter = isinstance(key, Tensor)
        name = known.get(id(key)) if of_parameter else key if isinstance(key, str) else None
        if name is None:
            raise UnsupportedStateError(
                f"{place} has state for a {type(key).__name__} that is none of its parameters: it can't be "
                "found again by name"
            )
        encoded = encode(state, f"{place}/{name}", tensors)
        states.append([name, of_parameter, encoded, _elsewhere(key, state) if of_parameter else []])
    kind = f"{type(inner).__module__}.{type(inner).__qualname__}"
    attributes = _attributes(inner, place, tensors)
    return {"class": kind, "groups": groups, "state": states, "attributes": attributes}


def _members(group: Mapping[str, Any], index: int, names: Mapping[int, str]) -> list[str]:
    """Return the names of the parameters of a group; what is none of the model's is called by its place."""
    return [names.get(id(p), f"{index}.{place}") for place, p in enumerate(group["params"])]


def _elsewhere(parameter: Tensor, state: Mapping[str, Any]) -> list[str]:
    """Return what an optimizer keeps on the host of a parameter that lies elsewhere: its step, as a rule."""
    return [name for name, one in state.items() if isinstance(one, Tensor) and one.device != parameter.device]


@cache
def _of_every_optimizer() -> frozenset[str]:
    """Return the names of the attributes that any optimizer has, and of those that schedulers give it."""
    plain = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    return frozenset((*vars(plain), "_opt_called", "_step_count"))


def _attributes(optimizer: Optimizer, place: str, tensors: NamedTensors) -> Any:
    """Return an optimizer's own attributes; a private one that is no plain value is left out."""
    found = []
    for name, value in vars(optimizer).items():
        if (
            name in _of_every_optimizer()
            or callable(value)
            or type(value).__module__.startswith("foreshock.")
        ):
            continue
        try:
            found.append([name, encode(value, f"{place}/{name}", tensors)])
        except UnsupportedStateError as error:
            if not name.startswith("_"):
                raise UnsupportedStateError(
                    f"{error}; if {name!r} of {type(optimizer).__name__} is no state, begin its name with an "
                    "underscore"
                ) from error
    return found


def check_optimizers(
    saved: Sequence[Mapping[str, Any]], optimizers: Sequence[Optimizer], names: Mapping[int, str]
) -> None:
    """Refuse optimizers that a snapshot does not fit; nothing is changed.

    Args:
        saved: What `capture_optimizer` returned of each.
        optimizers: The optimizers.
        names: The model's names of parameters, by their ids.

    Raises:
        UnsupportedStateError: With what differs.
    """
    if len(saved) != len(optimizers):
        raise UnsupportedStateError(
            f"the snapshot has {len(saved)} optimizers, and {len(optimizers)} are given: pass them in the "
            "order in which they were recorded"
        )
    for index, (state, optimizer) in enumerate(zip(saved, map(unwrap, optimizers), strict=True)):
        kind = f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"
        if kind != state["class"]:
            raise UnsupportedStateError(
                f"optimizer {index} is a {kind}, and was a {state['class']}: make the same one"
            )
        groups, before = optimizer.param_groups, state["groups"]
        if len(groups) != len(before):
            raise UnsupportedStateError(
                f"optimizer {index} has {len(groups)} parameter groups, and the snapshot {len(before)}: make "
                "the groups as they were. One that was added since can't be taken back"
            )
        for number, (group, then) in enumerate(zip(groups, before, strict=True)):
            members = _members(group, number, names)
            if members != then["parameters"]:
                raise UnsupportedStateError(
                    f"group {number} of optimizer {index} has other parameters than in the snapshot, or in "
                    f"another order ({_first_difference(members, then['parameters'])}): make it as it was"
                )


def _first_difference(now: Sequence[str], then: Sequence[str]) -> str:
    for one, other in zip(now, then, strict=False):
        if one != other:
            return f"{one!r} where {other!r} was"
    return f"{len(now)} now, {len(then)} then"


def put_back_optimizer(
    tree: Mapping[str, Any],
    optimizer: Optimizer,
    names: Mapping[int, str],
    tensors: Mapping[str, Tensor],
    layouts: Mapping[str, Layout] = MappingProxyType({}),
) -> None:
    """Put the state of an optimizer back, in place where it fits.

    Args:
        tree: Of `capture_optimizer`.
        optimizer: The optimizer, which `check_optimizers` let pass.
        names: The model's names of parameters, by their ids.
        tensors: Tensors by name.
        layouts: How those are spread over processes that are.
    """
    inner, back = unwrap(optimizer), _Back(tensors, layouts)
    parameters: dict[str, Tensor] = {}
    for index, (group, then) in enumerate(zip(inner.param_groups, tree["groups"], strict=True)):
        parameters |= dict(zip(_members(group, index, names), group["params"], strict=True))
        # An option that is decoded is a tuple, a number, …: only tensors are written in place.
        options = dict(then["options"]["$dict"])
        for name in group.keys() - options.keys() - {"params"}:
            del group[name]
        for name, value in options.items():
            group[name] = back.value(value, group.get(name), None)
    kept: set[int | str] = set()
    for name, of_parameter, content, elsewhere in tree["state"]:
        key: Any = parameters[name] if of_parameter else name
        kept.add(id(key) if of_parameter else name)
        state, saved = inner.state[key], dict(content["$dict"])
        for gone in state.keys() - saved.keys():
            del state[gone]
        for item, value in saved.items():
            on_host = item in elsewhere or not of_parameter
            device = torch.device("cpu") if on_host else own_part(key).device
            put = back.value(value, state.get(item), device)
            # One of the parameter's own shape is spread as that is; a count of steps is not.
            if of_parameter and isinstance(put, Tensor) and not is_spread(put) and back.is_part(value):
                put = as_spread(put, key)
            state[item] = put
    for key in list(inner.state):
        if (id(key) if isinstance(key, Tensor) else key) not in kept:
            del inner.state[key]
    for name, value in tree["attributes"]:
        setattr(inner, name, back.value(value, getattr(inner, name, None), None))
    # As after load_state_dict: a guard forgets what it knew of steps that were not made.
    for hook in tuple(getattr(inner, "_optimizer_load_state_dict_post_hooks", {}).values()):
        hook(inner)


class _Back:
    """Saved values of an optimizer's state; what was one tensor in two places is one again."""

    def __init__(self, tensors: Mapping[str, Tensor], layouts: Mapping[str, Layout]) -> None:
        self._tensors, self._layouts, self._made = tensors, layouts, dict[str, Tensor]()

    def is_part(self, tree: Any) -> bool:
        """Return whether a value is a part of a tensor that is spread over processes."""
        return isinstance(tree, dict) and tree.get("$tensor") in self._layouts

    def value(self, tree: Any, present: Any, device: torch.device | None) -> Any:
        """Return a value; a tensor that fits is written in place, so that whoever has it keeps it."""
        if not (isinstance(tree, dict) and "$tensor" in tree):
            return decode(tree, Copies(self._tensors))
        name = tree["$tensor"]
        if name not in self._made:
            self._made[name] = written(self._tensors[name], present, device)
        return self._made[name]
