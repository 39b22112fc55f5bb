"""A model spread by ``fully_shard`` with its parameters whole for a while, and FSDP2 doing nothing in it.

What FSDP2 does in forward and backward passes (gather, reduce, reshard) is for training: second derivatives
fail in it. But it has one state in which it does none of that, for activation checkpointing: a forward pass
that is computed again within a backward pass finds its parameters gathered, and is only cast as the mixed
precision says. In this state, `gathered`, the model is an ordinary one, and its gradients are those of this
process's batch. Afterwards each part is resharded, which frees memory and exchanges nothing.

Of FSDP2 this needs more than its public functions: all of that is in this file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only


@dataclass(frozen=True)
class ShardedParameter:
    """How ``fully_shard`` spreads one parameter over the processes of its mesh.

    Attributes:
        parameter: As the optimizer has it.
        mesh: The processes.
        shape: Shape of the gathered tensor in this process: of what tensor parallelism left it.
        dimension: Along which it is cut.
        count: Number of chunks.
        index: That of this process.
        speaks: Whether this process is the first of those with the same chunk, on a mesh of two dimensions.
        found: FSDP2's own record.
    """

    parameter: Tensor
    mesh: Any
    shape: torch.Size
    dimension: int
    count: int
    index: int
    speaks: bool
    found: Any

    @property
    def whole(self) -> Tensor:
        """The gathered tensor, inside of `gathered`."""
        whole: Tensor = self.found.unsharded_param
        return whole


def sharded_parameters(model: nn.Module) -> list[ShardedParameter]:
    """Return how each parameter that ``fully_shard`` manages is spread; none without it.

    Args:
        model: The model.

    Example:
        >>> sharded_parameters(nn.Linear(1, 1))
        []
    """
    found = []
    for group in groups_of(model):
        for one in group.fsdp_params:
            info = one.mesh_info
            found.append(
                ShardedParameter(
                    one.sharded_param,
                    info.mesh,
                    one._orig_size,
                    one.fsdp_placement.dim,
                    getattr(info, "shard_mesh_size", 1),
                    getattr(info, "shard_mesh_rank", 0),
                    getattr(info, "replicate_mesh_rank", 0) == 0,
                    one,
                )
            )
    return found


def why_not_gathered(model: nn.Module) -> str:
    """Return why a model's parameters can't be gathered for a probe, and what to do; nothing if they can.

    Args:
        model: The model.
    """
    try:
        groups = groups_of(model)
        for group in groups:
            if group.fsdp_params[0].offload_to_cpu:
                return (
                    "fully_shard keeps the parameters in the memory of the host (CPUOffloadPolicy), and a "
                    "probe needs them whole on the device: leave offload_policy out, or watch without a "
                    "loss_fn"
                )
        for state in states_of(model):
            _ = state._training_state
        if groups:
            from torch.distributed.fsdp._fully_shard._fsdp_common import TrainingState

            _ = TrainingState.PRE_BACKWARD
    except (AttributeError, ImportError) as error:
        return (
            f"the FSDP2 of torch {torch.__version__} is another one than foreshock knows ({error}): watch "
            "without a loss_fn, or use another version of torch"
        )
    return ""


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Run a block in which each process has all parameters, and a forward pass exchanges nothing.

    At its end what was sharded is sharded again, with the same bits; nothing is exchanged for that.

    Cost: one all-gather of the parameters, by the process groups of training, and the memory of all
    parameters in each process.

    Args:
        model: The model. In all processes, at the same place.
    """
    modules: list[Any] = [
        one for one in model.modules() if hasattr(one, "_get_fsdp_state") and hasattr(one, "unshard")
    ]
    sharded = [group for group in groups_of(model) if not group.is_unsharded]
    states = states_of(model)
    saved = [(one, one._training_state, set(getattr(one, "_modules_to_run_forward", ()))) for one in states]
    handle = None
    try:
        for module in modules:
            module.unshard()
        if states:
            from torch.distributed.fsdp._fully_shard._fsdp_common import TrainingState

            for state in states:
                state._training_state = TrainingState.PRE_BACKWARD
            handle = _inputs_moved(model, states[0]._device)
        yield
    finally:
        if handle is not None:
            handle.remove()
        for state, training, left in saved:
            state._training_state = training
            running = getattr(state, "_modules_to_run_forward", None)
            if running is not None and running != left:
                running.clear()
                running.update(left)
        for group in sharded:
            # Where gathering failed half-way there is a result that nobody will copy out.
            group._all_gather_result = None
            group.reshard()


def _inputs_moved(model: nn.Module, device: torch.device) -> Any:
    """Move inputs to the device in each forward pass of the model, as FSDP2 does in training."""
    if device.type == "cpu":
        return None

    def move(_: nn.Module, args: Sequence[Any], kwargs: Any) -> Any:
        return tree_map_only(Tensor, lambda one: one.to(device), (tuple(args), dict(kwargs)))

    return model.register_forward_pre_hook(move, with_kwargs=True, prepend=True)


def states_of(model: nn.Module) -> list[Any]:
    """Return FSDP2's own records of the modules that it manages, each once.

    Args:
        model: The model.
    """
    found: list[Any] = []
    for module in model.modules():
        get: Any = getattr(module, "_get_fsdp_state", None)
        if get is not None:
            state = get()
            if not any(state is one for one in found):
                found.append(state)
    return found


def groups_of(model: nn.Module) -> list[Any]:
    """Return FSDP2's groups of parameters that are gathered at once.

    Args:
        model: The model.
    """
    found: list[Any] = []
    for state in states_of(model):
        several = getattr(state, "_fsdp_param_groups", None)
        if several is None:  # torch before 2.11 has one group for each module
            one = state._fsdp_param_group
            several = [] if one is None else [one]
        found += [group for group in several if group.fsdp_params]
    return found


@contextmanager
def twice_through_tensor_parallelism() -> Iterator[None]:
    """Run a block in which tensors that enter parallel layers have second derivatives.

    Torch adds their gradients up over processes outside of the graph (2.13, `_FromTorchTensor.backward`), so
    that double backward would leave out, without an error, what passes through: the curvature of all layers
    before. Here the same sum is made by the redistribution that autograd knows.
    """
    import torch.distributed.tensor._api as api
    from torch.distributed.tensor import Replicate

    entering: Any = api._FromTorchTensor
    plain = entering.backward

    def backward(ctx: Any, grad_output: Any) -> Any:
        if grad_output is None or not torch.is_grad_enabled():
            return plain(ctx, grad_output)
        wanted = getattr(ctx, "grad_placements", None)
        if wanted is None:
            before = getattr(ctx, "forward_input_placements", None) or ctx.previous_placement
            wanted = [Replicate() if one.is_partial() else one for one in before]
        local = grad_output.redistribute(placements=wanted).to_local()
        return (local, *[None] * (len(ctx.needs_input_grad) - 1))

    entering.backward = staticmethod(backward)
    try:
        yield
    finally:
        entering.backward = staticmethod(plain)
