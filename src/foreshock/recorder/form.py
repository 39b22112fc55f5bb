"""Whether what was read from a folder has the form of a snapshot: checked before any of it is used.

Checksums tell what a disk did to a snapshot, not what a person did: one from elsewhere may hold anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.amp.grad_scaler import OptState

from foreshock.recorder.encoding import UnsupportedStateError, decode

_LAYOUT = {"shape", "offset", "placements", "mesh"}
_DEEPEST = 200  # lists and mappings in each other: `encode` writes 50 containers, of three each at most


def check_form(state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Refuse a state that no recorder has written.

    Args:
        state: What ``state.json`` has.
        tensors: The tensors, by name.

    Raises:
        UnsupportedStateError: With what is wrong.

    Example:
        >>> check_form({"step": -1, "ids": []}, {})
        Traceback (most recent call last):
        ...
        foreshock.recorder.encoding.UnsupportedStateError: the state's 'step' is -1
    """
    _shallow(state)
    step, ids = state["step"], state["ids"]
    _require(type(step) is int and step >= 0, "'step'", step)
    _require(isinstance(ids, list) and all(type(one) in (int, str) for one in ids), "'ids'", ids)
    _require(isinstance(state["about"], dict), "'about'", state["about"])
    loss = tensors.get("loss")
    _require(loss is None or loss.numel() == 1, "loss", loss)
    tree = state["tree"]
    for layout in _of(tree.get("layouts", {}), dict, "layouts").values():
        _require(_of(layout, dict, "layouts").keys() == _LAYOUT, "layouts", layout)
        for numbers in (layout["shape"], layout["offset"], layout["mesh"]):
            _require(
                all(type(one) is int and one >= 0 for one in _of(numbers, list, "layouts")), "layouts", layout
            )
        _names(layout["placements"], "layouts")
    _check_model(tree["model"], tensors)
    for optimizer in _of(tree["optimizers"], list, "optimizers"):
        _check_optimizer(optimizer, tensors)
    for part in (*_of(tree["others"], dict, "others").values(), tree.get("batch")):
        decode(part, tensors)
    for stage, found in _of(decode(tree["scaling"], tensors), dict, "scaling").values():
        _require(stage in OptState.__members__, "scaling", stage)
        _require(
            all(isinstance(one, Tensor) for one in _of(found, dict, "scaling").values()), "scaling", found
        )
    _of(decode(tree["random"], tensors), dict, "random")


def _check_model(model: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    _names(model["frozen"], "frozen")
    _names(model["evaluating"], "evaluating")
    for part in _of(model["extra"], dict, "extra").values():
        decode(part, tensors)
    for numbers in _of(model["numbers"], dict, "numbers").values():
        # They become attributes of modules: what begins with two underscores is no counter.
        for name, value in _of(decode(numbers, {}), dict, "numbers").items():
            _require(isinstance(name, str) and not name.startswith("__"), "a counter", name)
            _require(type(value) in (int, float), f"counter {name!r}", value)


def _check_optimizer(optimizer: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    _of(optimizer["class"], str, "class")
    known: set[str] = set()
    for group in _of(optimizer["groups"], list, "groups"):
        _names(group["parameters"], "parameters")
        known.update(group["parameters"])
        _check_mapping(group["options"], tensors)
    for name, of_parameter, content, elsewhere in _of(optimizer["state"], list, "state"):
        _require(isinstance(name, str) and (name in known or of_parameter is False), "state", name)
        _check_mapping(content, tensors)
        _names(elsewhere, "state")
    for name, value in _of(optimizer["attributes"], list, "attributes"):
        _require(isinstance(name, str) and not name.startswith("__"), "an attribute", name)
        decode(value, tensors)


def _check_mapping(tree: Any, tensors: Mapping[str, Tensor]) -> None:
    found = _of(decode(tree, tensors), dict, "options")
    _require(all(isinstance(name, str) for name in found), "options", list(found))
    _require("params" not in found, "options", "params")


def _names(value: Any, what: str) -> None:
    _require(all(isinstance(one, str) for one in _of(value, list, what)), what, value)


def _of(value: Any, kind: type, what: str) -> Any:
    _require(isinstance(value, kind), what, value)
    return value


def _require(holds: bool, what: str, value: Any) -> None:  # noqa: FBT001 - as assert has it
    if not holds:
        raise UnsupportedStateError(f"the state's {what} is {value!r:.80}")


def _shallow(tree: Any) -> None:
    """Refuse what nests so deep that Python's stack would not hold it."""
    level = [tree]
    for _ in range(_DEEPEST):
        level = [
            part
            for one in level
            if isinstance(one, dict | list)
            for part in (one.values() if isinstance(one, dict) else one)
        ]
        if not level:
            return
    raise UnsupportedStateError(f"the state nests more than {_DEEPEST} deep")
