"""Forward and backward passes of a probe that FSDP2 makes as it makes those of training, layer by layer.

Whole parameters and the graph of two derivatives may not fit into memory, where a training step does. What a
step can do is a gradient, with one layer gathered at a time. A probe that needs no more than gradients runs
inside of `own_passes`: gradients are then averaged over all processes, whatever training has set, and nothing
that training has accumulated is touched. If a pass breaks off in the middle, as where another process failed,
FSDP2 is put back to between two steps; by itself it would leave out the end of the next backward pass.

Of FSDP2 this needs more than its public functions: all of that is in this file and in `gathered`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from foreshock.distributed.gathered import groups_of, states_of

# What these set for training: micro-batches without a sum, a loss that is divided by the user.
_OF_GROUP = {
    "reduce_grads": True,
    "all_reduce_grads": True,
    "reshard_after_backward": True,
    "gradient_divide_factor": None,
    "_partial_reduce_output": None,
}
_OF_PARAMETER = {"unsharded_accumulated_grad": None}


def why_no_passes(model: nn.Module) -> str:
    """Return why a probe can't make passes of its own, and what to do; nothing if it can.

    Args:
        model: A model that ``fully_shard`` manages.

    Example:
        >>> why_no_passes(nn.Linear(1, 1))
        ''
    """
    groups = groups_of(model)
    if any(getattr(one, "_all_reduce_hook", None) is not None for one in groups):
        return (
            "fully_shard has an all-reduce hook (set_all_reduce_hook), which would see the gradients of "
            "probes: leave it out, or measure with whole parameters by hvp='exact'"
        )
    # One of a parameter that fully_shard does not manage is enough: what runs none is no backward() at all.
    found = [*model.parameters(), *(one.sharded_param for group in groups for one in group.fsdp_params)]
    if any(getattr(one, "_post_accumulate_grad_hooks", None) for one in found):
        return (
            "parameters have hooks that run after accumulation (an optimizer that steps inside of "
            "backward()), which would see the gradients of probes: measure with whole parameters by "
            "hvp='exact'"
        )
    return ""


def reduce_dtypes(model: nn.Module) -> list[torch.dtype]:
    """Return the precisions in which ``fully_shard`` averages gradients, where it was told one.

    Args:
        model: The model.

    Example:
        >>> reduce_dtypes(nn.Linear(1, 1))
        []
    """
    found = [getattr(one.mp_policy, "reduce_dtype", None) for one in groups_of(model)]
    return [one for one in found if one is not None]


def let_go(model: nn.Module) -> None:
    """Free what was gathered and is still held, as where training accumulates; nothing is exchanged.

    Displaced are the shards: what was gathered before is of others, and would be used instead. It is before
    anything is noted of the model that is to be restored: what is freed here can't be read any more. Who
    needs it in training gathers it again.

    Args:
        model: The model.
    """
    for group in groups_of(model):
        group.reshard()


@contextmanager
def own_passes(model: nn.Module) -> Iterator[None]:
    """Run a block whose passes are FSDP2's own, averaged over all processes, and leave no trace in training.

    Call `let_go` before.

    Args:
        model: The model. In all processes, at the same place.
    """
    groups, states = groups_of(model), states_of(model)
    parameters = [one for group in groups for one in group.fsdp_params]
    contexts = list({id(one._state_ctx): one._state_ctx for one in states}.values())
    saved = [
        *_saved(groups, _OF_GROUP),
        *_saved(parameters, _OF_PARAMETER),
        *_saved(contexts, {"is_last_backward": True}),
    ]
    gradients = [(one, one.grad) for one in map(_whole, parameters) if one is not None]
    failed = True
    try:
        for one, _ in gradients:
            one.grad = None
        yield
        failed = False
    finally:
        if failed:
            reset_passes(model)
        for holder, name, value in saved:
            setattr(holder, name, value)
        for one, gradient in gradients:
            one.grad = gradient


def _saved(holders: Sequence[Any], values: dict[str, Any]) -> list[tuple[Any, str, Any]]:
    """Set attributes, and return what they were; those that this version of torch lacks are left out."""
    found = []
    for holder in holders:
        for name, value in values.items():
            if hasattr(holder, name):
                found.append((holder, name, getattr(holder, name)))
                setattr(holder, name, value)
    return found


def _whole(parameter: Any) -> Tensor | None:
    """Return the gathered tensor of a parameter, if it was gathered before."""
    whole: Tensor | None = getattr(parameter, "_unsharded_param", None)
    return whole


def reset_passes(model: nn.Module) -> None:
    """Put FSDP2 back to between two steps, from wherever a pass broke off. Nothing is exchanged.

    Args:
        model: The model.
    """
    states, groups = states_of(model), groups_of(model)
    if not states:
        return
    from torch.distributed.fsdp._fully_shard._fsdp_common import TrainingState

    if states[0]._device.type != "cpu":
        torch.get_device_module(states[0]._device).synchronize()
    for state in states:
        state._training_state = TrainingState.IDLE
        getattr(state, "_modules_to_run_forward", set()).clear()
        state._state_ctx.iter_forward_root = None
        # Left on, it keeps the next backward pass from ever being finished.
        state._state_ctx.post_backward_final_callback_queued = False
        shared = state._comm_ctx
        for name in ("all_gather_state", "reduce_scatter_state"):
            if hasattr(shared, name):
                setattr(shared, name, None)
        getattr(shared, "reduce_scatter_states", []).clear()
        getattr(shared, "post_forward_order", []).clear()
    for group in groups:
        if group._all_gather_result is not None:
            work = group._all_gather_result.all_gather_work
            if hasattr(work, "wait"):
                work.wait()
            group._all_gather_result = None
        group._post_reduce_event = None
        if hasattr(group, "_all_reduce_state"):
            group._all_reduce_state = None
        group._post_forward_indices.clear()
        group._training_state = TrainingState.IDLE
        group.reshard()
        for one in group.fsdp_params:
            whole = _whole(one)
            if whole is not None:
                whole.grad = None
