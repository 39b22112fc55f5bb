"""The state of a model: parameters, buffers, gradients, what is trained, modes, and counters of modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from foreshock.recorder.encoding import (
    NamedTensors,
    UnsupportedStateError,
    decode,
    encode,
    refuse_unusual,
    written,
)
from foreshock.recorder.spread import REMEDY, Layout, as_spread, layout_of, own_part


def model_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters and buffers by name; what is tied comes once.

    Args:
        model: The model.
    """
    for name, parameter in model.named_parameters():
        yield f"parameter/{name}", parameter
    for name, buffer in model.named_buffers():
        yield f"buffer/{name}", buffer


def with_extra_state(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules that have a state of their own kind, by name.

    Args:
        model: The model.
    """
    for name, module in model.named_modules():
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            yield name, module


def capture_model(model: nn.Module, tensors: NamedTensors) -> dict[str, Any]:
    """Return the state of a model as plain JSON; its tensors are put into a mapping, and not copied.

    Args:
        model: The model.
        tensors: Where tensors are put.

    Raises:
        UnsupportedStateError: If some of it can't be recorded exactly.
    """
    frozen = []
    for name, parameter in model.named_parameters():
        _keep(parameter, f"parameter/{name}", tensors)
        if parameter.grad is not None:
            _keep(parameter.grad, f"gradient/{name}", tensors)
        if not parameter.requires_grad:
            frozen.append(name)
    for name, buffer in model.named_buffers():
        _keep(buffer, f"buffer/{name}", tensors)
    modules, extra, numbers = dict(model.named_modules()), {}, {}
    for name, module in modules.items():
        if type(module).__name__ == "FullyShardedDataParallel":
            raise UnsupportedStateError(
                "the model is spread over processes by FullyShardedDataParallel: use its own checkpoints, "
                "and a Monitor without a recorder"
            )
        # Counters that a module keeps as plain numbers are state as buffers are.
        found = {key: value for key, value in vars(module).items() if type(value) in (int, float)}
        if found:
            numbers[name] = encode(found, name, NamedTensors())
    for name, module in with_extra_state(model):
        extra[name] = encode(module.get_extra_state(), f"extra/{name}", tensors)
    evaluating = [name for name, module in modules.items() if not module.training]
    return {"frozen": frozen, "evaluating": evaluating, "extra": extra, "numbers": numbers}


def _keep(tensor: Tensor, name: str, tensors: NamedTensors) -> None:
    refuse_unusual(tensor, name)
    if hasattr(tensor, "ds_id"):
        raise UnsupportedStateError(
            f"{name} is partitioned by DeepSpeed's ZeRO-3: use its own checkpoints, and a Monitor without a "
            "recorder"
        )
    tensors.put(name, own_part(tensor), layout_of(tensor))


def put_back_model(
    tree: Mapping[str, Any], model: nn.Module, tensors: Mapping[str, Tensor], *, gradients: bool
) -> None:
    """Put the state of a model back, in place, but for the extra state of modules.

    Args:
        tree: Of `capture_model`.
        model: The model, which `check_model` let pass.
        tensors: Of `capture_model`.
        gradients: Whether gradients are put back, too.
    """
    for name, live in model_tensors(model):
        own_part(live).copy_(tensors[name])
    if gradients:
        for name, parameter in model.named_parameters():
            saved = tensors.get(f"gradient/{name}")
            device = own_part(parameter).device
            parameter.grad = (
                None if saved is None else as_spread(written(saved, parameter.grad, device), parameter)
            )
    frozen, evaluating = set(tree["frozen"]), set(tree["evaluating"])
    for name, parameter in model.named_parameters():
        if parameter.requires_grad == (name in frozen):
            parameter.requires_grad_(name not in frozen)
    for name, module in model.named_modules():
        module.training = name not in evaluating
        for key, value in decode(tree["numbers"].get(name, {"$dict": []}), {}).items():
            if getattr(module, key, None) != value:
                setattr(module, key, value)


def check_model(
    model: nn.Module, tensors: Mapping[str, Tensor], layouts: Mapping[str, Layout] = MappingProxyType({})
) -> None:
    """Refuse a model that the tensors of a snapshot do not fit; nothing is changed.

    Args:
        model: The model.
        tensors: Of the snapshot, by name.
        layouts: How those are spread that are.

    Raises:
        UnsupportedStateError: With what differs.
    """
    live = dict(model_tensors(model))
    saved = {name: one for name, one in tensors.items() if name.startswith(("parameter/", "buffer/"))}
    lacking = sorted(saved.keys() ^ live.keys())
    if lacking:
        where = "the snapshot" if lacking[0] in saved else "the model"
        raise UnsupportedStateError(
            f"{len(lacking)} tensors are in one of snapshot and model only (the first is {lacking[0]!r}, in "
            f"{where}): build the model as it was built when it was recorded"
        )
    for name, tensor in saved.items():
        refuse_unusual(live[name], name)
        part, layout = own_part(live[name]), layout_of(live[name])
        if layout != layouts.get(name):
            raise UnsupportedStateError(
                f"{name} was spread over processes as {layouts.get(name)}, and is so now as {layout}: a "
                f"snapshot goes back into a run of as many processes, spread in the same way. {REMEDY}"
            )
        if tensor.shape != part.shape or tensor.dtype != part.dtype:
            raise UnsupportedStateError(
                f"{name} is {tensor.dtype} of shape {tuple(tensor.shape)} in the snapshot, and in the model "
                f"{part.dtype} of shape {tuple(part.shape)}: build the model as it was"
            )
    for name, parameter in model.named_parameters():
        gradient, part = tensors.get(f"gradient/{name}"), own_part(parameter)
        # torch has a type for gradients of its own where the user set one; None allows any.
        dtype = getattr(parameter, "grad_dtype", parameter.dtype) or None
        if gradient is not None and (
            gradient.shape != part.shape or (dtype is not None and gradient.dtype != dtype)
        ):
            raise UnsupportedStateError(
                f"the gradient of {name} in the snapshot is {gradient.dtype} of {tuple(gradient.shape)}, and "
                f"the parameter {part.dtype} of {tuple(part.shape)}: take another snapshot"
            )
