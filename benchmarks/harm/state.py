"""Everything that a training owns, as digests that show where two trainings differ."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_HIDDEN = ("_parameters", "_buffers", "_modules")


def digests(owners: Mapping[str, Any]) -> dict[str, str]:
    """Return a digest of each thing that training owns, by its place.

    Args:
        owners: Models, optimizers, generators, batches, numbers, by name.
    """
    found: dict[str, str] = {}
    for name, owner in (*owners.items(), *_process().items()):
        _walk(owner, name, found)
    return found


def differences(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Return the places at which two trainings differ.

    Args:
        one: Digests of the first.
        other: Digests of the second.
    """
    return [place for place in one.keys() | other.keys() if one.get(place) != other.get(place)]


def _process() -> dict[str, Any]:
    """Return what belongs to the process: generators and switches."""
    return {
        "torch's generator": torch.get_rng_state(),
        "numpy's generator": [str(part) for part in np.random.get_state()[2:]]
        + [np.random.get_state()[1].tobytes()],
        "Python's generator": repr(random.getstate()),
        "switches": [
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cudnn.enabled,
            str(torch.get_default_dtype()),
            torch.are_deterministic_algorithms_enabled(),
            len(torch.nn.modules.module._global_forward_pre_hooks),
        ],
    }


def _walk(value: Any, place: str, found: dict[str, str]) -> None:
    if isinstance(value, nn.Module):
        for name, module in value.named_modules():
            _walk_module(module, f"{place}.{name}", found)
    elif isinstance(value, torch.optim.Optimizer):
        groups = [{k: v for k, v in group.items() if k != "params"} for group in value.param_groups]
        _walk(groups, f"{place}.options", found)
        _walk(list(value.state.values()), f"{place}.state", found)
        _walk(
            [len(value._optimizer_step_pre_hooks), len(value._optimizer_step_post_hooks)],
            f"{place}.hooks",
            found,
        )
    elif isinstance(value, Mapping):
        for key, one in value.items():
            _walk(one, f"{place}[{key}]", found)
    elif isinstance(value, list | tuple):
        found[place] = str(len(value))
        for index, one in enumerate(value):
            _walk(one, f"{place}[{index}]", found)
    else:
        found[place] = _digest(value)


def _walk_module(module: nn.Module, place: str, found: dict[str, str]) -> None:
    for name, one in vars(module).items():
        if name not in _HIDDEN and "hook" not in name:
            _walk(one, f"{place}.{name}", found)
    for name, parameter in module.named_parameters(recurse=False):
        _walk([parameter, parameter.requires_grad, parameter.grad], f"{place}.{name}", found)
        hooks = [parameter._backward_hooks, getattr(parameter, "_post_accumulate_grad_hooks", None)]
        found[f"{place}.{name}.hooks"] = str([len(one or ()) for one in hooks])
    for name, buffer in module.named_buffers(recurse=False):
        _walk(buffer, f"{place}.{name}", found)
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    found[f"{place}.hooks"] = str([len(one) for one in hooks])


def _digest(value: Any) -> str:
    if isinstance(value, Tensor):
        # The dtype first: the same bits mean something else in another.
        bits = value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        return f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(bits).hexdigest()[:16]}"
    if isinstance(value, torch.Generator):
        return _digest(value.get_state())
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, random.Random):
        return repr(value.getstate())
    if isinstance(value, bool | int | float | str | bytes | torch.dtype | type(None)):
        return repr(value)
    return type(value).__name__  # functions and the like, whose identity says nothing across two trainings
