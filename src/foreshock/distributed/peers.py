"""Who trains together with this process, and what all of them can read and write."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

_LONGEST_WAIT = dt.timedelta(seconds=15)
_PARTS = 4  # of the run's own time-out: a probe waits twice at most, and the run must not notice


@dataclass(frozen=True)
class Peers:
    """The processes that train one model on different batches.

    Attributes:
        store: The key-value store of ``torch.distributed``, under a prefix of these processes.
        rank: Of this process among them.
        size: How many they are, ≥ 2.
        timeout: How long to wait for another, at most: a quarter of a minute, or a quarter of what the run's
            own collectives wait where that is less, so that training goes on where one of ours failed.
    """

    store: Any
    rank: int
    size: int
    timeout: dt.timedelta


def data_parallel_peers(model: nn.Module) -> Peers | None:
    """Return who shares a model by DistributedDataParallel; None if nobody does.

    Nothing is exchanged. Parameters that are distributed tensors, as behind tensor parallelism, have other
    owners than the batches, so for them there are no peers.

    Args:
        model: The model.

    Example:
        >>> data_parallel_peers(nn.Linear(1, 1)) is None
        True
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return None
    wrapper: Any = getattr(model, "_orig_mod", model)  # torch.compile may have wrapped the wrapper
    if type(wrapper).__name__ != "DistributedDataParallel" or not hasattr(wrapper, "process_group"):
        return None
    if any(hasattr(parameter, "to_local") for parameter in wrapper.parameters()):
        return None
    return peers_of(wrapper.process_group)


def peers_of(group: Any) -> Peers | None:
    """Return the processes of a group; None if it is this one alone, or not in it.

    Args:
        group: A process group.
    """
    distributed: Any = torch.distributed
    ranks = distributed.get_process_group_ranks(group)
    rank = distributed.get_rank(group)
    if len(ranks) < 2 or rank < 0:
        return None
    # No public function returns the store, and a group of our own made by new_group() would be counted with
    # the user's: were it made in one process only, all later groups would have other names there.
    found = getattr(distributed.distributed_c10d, "_get_default_store", None)
    if found is None:
        return None
    name = "-".join(map(str, ranks)) if len(ranks) < distributed.get_world_size() else "world"
    store = distributed.PrefixStore(f"foreshock/{name}", found())
    return Peers(store, rank, len(ranks), _wait(group))


def all_peers() -> Peers | None:
    """Return all processes of the run, whatever they share; None if this one trains alone.

    Example:
        >>> all_peers() is None
        True
    """
    distributed: Any = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return None
    return peers_of(distributed.group.WORLD)


def _wait(group: Any) -> dt.timedelta:
    for device in ("cuda", "cpu"):
        try:
            timeout: dt.timedelta = group._get_backend(torch.device(device)).options._timeout
        except (AttributeError, RuntimeError):
            continue
        if timeout.total_seconds() > 0 and math.isfinite(timeout.total_seconds()):
            return min(timeout / _PARTS, _LONGEST_WAIT)
    return _LONGEST_WAIT
