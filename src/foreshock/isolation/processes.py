"""What one process can probe by itself, when others train with it.

Processes that train together meet in collectives, and each must call all of them in the same order. A probe
is due, fails, or is left out in one process and not in the others: one that calls a collective would wait for
ever, or take part in one of training. So a probe calls none. Behind DistributedDataParallel each process has
the whole model, and the probe runs that, on the batch of its own process. Where parameters are spread over
processes there is no probe.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from foreshock.failures import ProbeRefusedError

_WRAPPERS = ("DistributedDataParallel", "FullyShardedDataParallel")
_COLLECTIVES = ("c10d", "_c10d_functional", "_c10d_functional_autograd", "_dtensor", "symm_mem")


def several_processes() -> bool:
    """Return whether this process trains together with others, as far as ``torch.distributed`` knows.

    Example:
        >>> several_processes()
        False
    """
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def plain_module(model: nn.Module) -> nn.Module:
    """Return the module that DistributedDataParallel wraps; any other module itself.

    A forward pass of the wrapper exchanges buffers, and prepares the next ``backward()`` to exchange
    gradients, which may be one of training under ``no_sync()``.

    Args:
        model: The model.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> plain_module(layer) is layer
        True
    """
    inner: Any = getattr(model, "_orig_mod", model)  # torch.compile may have wrapped the wrapper
    if type(inner).__name__ == "DistributedDataParallel":
        module: nn.Module = inner.module
        return module
    return model


def why_not_alone(model: nn.Module) -> str:
    """Return why one process can't evaluate a model by itself, and what to do; nothing if it can.

    Args:
        model: The model.

    Example:
        >>> why_not_alone(nn.Linear(1, 1))
        ''
    """
    spread = "each process has only a part of them, so that a probe would need all processes at the same time"
    advice = "watch without a loss_fn, or probe a copy of the model that is in one process"
    for parameter in model.parameters():
        if hasattr(parameter, "to_local"):
            return (
                "parameters are distributed tensors (FSDP2, tensor parallelism), so that all have to "
                "probe together: make a monitor with the same options in each process, and observe each step "
                "there; or watch without a loss_fn"
            )
        if hasattr(parameter, "ds_id"):
            return f"parameters are partitioned by DeepSpeed's ZeRO-3: {spread}; {advice}"
    for module in model.modules():
        if type(module).__name__ == "FullyShardedDataParallel":
            return f"the model has a FullyShardedDataParallel in it: {spread}; {advice}"
        if isinstance(module, nn.SyncBatchNorm) and module.training and several_processes():
            return (
                "the model has a SyncBatchNorm in train mode, which exchanges statistics with all processes "
                "in each forward pass, and the others may not be in a probe; watch without a loss_fn, or use "
                "BatchNorm or GroupNorm"
            )
    return ""


@contextmanager
def alone(model: nn.Module) -> Iterator[None]:
    """Run a block in which nothing may wait for another process.

    Args:
        model: The model that is evaluated inside the block.

    Raises:
        ProbeRefusedError: If the model can't be evaluated by one process, or the block runs a model wrapped
            by DistributedDataParallel or a collective; that one does not begin.

    Example:
        >>> with alone(nn.Linear(1, 1)):
        ...     pass
    """
    reason = why_not_alone(model)
    if reason:
        raise ProbeRefusedError(reason)
    with ExitStack() as stack:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            handle = register_module_forward_pre_hook(_refuse_wrapper)
            stack.callback(handle.remove)
        if several_processes():
            stack.enter_context(_NoCollectives())  # type: ignore[no-untyped-call]
        yield


def _refuse_wrapper(module: nn.Module, _: Any) -> None:
    name = type(module).__name__
    if name in _WRAPPERS:
        raise ProbeRefusedError(
            f"loss_fn runs a {name}, which exchanges tensors with other processes: let loss_fn(model, batch) "
            "run the model that it is given, which in a probe is the module inside"
        )


class _NoCollectives(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuse each collective before it begins."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        if func.namespace in _COLLECTIVES:
            raise ProbeRefusedError(
                f"loss_fn calls a collective ({func}), but the other processes may not be in a probe: let "
                "loss_fn(model, batch) use this process's batch only"
            )
        return func(*args, **(kwargs or {}))
