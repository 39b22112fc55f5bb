"""Who trains together with this process, and what all of them can read and write."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from foreshock.distributed.pieces import Grid, is_spread, why_not_spread

_LONGEST_WAIT = dt.timedelta(seconds=15)
_PARTS = 4  # of the run's own time-out: a probe waits twice at most, and the run must not notice


@dataclass(frozen=True)
class Peers:
    """The processes that train one model.

    Attributes:
        store: The key-value store of ``torch.distributed``, under a prefix of these processes.
        rank: Of this process among them.
        size: How many they are, ≥ 2 but where one process alone has distributed tensors.
        timeout: How long to wait for another, at most: a quarter of a minute, or a quarter of what the run's
            own collectives wait where that is less, so that training goes on where one of ours failed.
        grid: How the model is spread over them; None where each has all of it.
    """

    store: Any
    rank: int
    size: int
    timeout: dt.timedelta
    grid: Grid | None = None

    @property
    def copies(self) -> int:
        """Number of processes that train on the same batch: more than one under tensor parallelism."""
        return 1 if self.grid is None else self.grid.copies

    def same_batch_apart(self) -> Peers | None:
        """Return those that hold the same once all is gathered; None if that is all of them, or this one.

        They have different batches.
        """
        if self.grid is None or self.grid.copies == 1 or len(self.grid.data_ranks) == 1:
            return None
        ranks = self.grid.data_ranks
        rank = ranks.index(torch.distributed.get_rank())
        distributed: Any = torch.distributed
        store = distributed.PrefixStore(f"data{ranks[0]}", self.store)
        return Peers(store, rank, len(ranks), self.timeout)


def training_peers(model: nn.Module) -> Peers | None:
    """Return who trains a model together; None if nobody does, or they can't measure together.

    Nothing is exchanged. Known are DistributedDataParallel, ``fully_shard`` and tensor parallelism, the last
    two also together.

    Args:
        model: The model.

    Example:
        >>> training_peers(nn.Linear(1, 1)) is None
        True
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return None
    wrapper: Any = getattr(model, "_orig_mod", model)  # torch.compile may have wrapped the wrapper
    if type(wrapper).__name__ == "DistributedDataParallel" and hasattr(wrapper, "process_group"):
        if any(hasattr(parameter, "to_local") for parameter in wrapper.parameters()):
            return None  # its batches have other owners than its parameters
        group = wrapper.process_group
        return _peers_among(distributed.get_process_group_ranks(group), group)
    if not is_spread(wrapper) or why_not_spread(wrapper):
        return None
    grid = Grid.of(wrapper)
    return _peers_among(grid.ranks, distributed.group.WORLD, grid)


def _peers_among(ranks: Sequence[int], group: Any, grid: Grid | None = None) -> Peers | None:
    """Return processes, by their ranks; None if it is this one alone, or it is not among them."""
    distributed: Any = torch.distributed
    own = distributed.get_rank()
    # A single process with parameters in one piece needs nobody; its shards have to be gathered all the same.
    if own not in ranks or (len(ranks) < 2 and grid is None):
        return None
    # No public function returns the store, and a group of our own made by new_group() would be counted with
    # the user's: were it made in one process only, all later groups would have other names there.
    found = getattr(distributed.distributed_c10d, "_get_default_store", None)
    if found is None:
        return None
    name = "-".join(map(str, ranks)) if len(ranks) < distributed.get_world_size() else "world"
    store = distributed.PrefixStore(f"foreshock/{name}", found())
    return Peers(store, list(ranks).index(own), len(ranks), _wait(group), grid)


def all_peers() -> Peers | None:
    """Return all processes of the run, whatever they share; None if this one trains alone.

    Example:
        >>> all_peers() is None
        True
    """
    distributed: Any = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return None
    return _peers_among(range(distributed.get_world_size()), distributed.group.WORLD)


def _wait(group: Any) -> dt.timedelta:
    for device in ("cuda", "cpu"):
        try:
            timeout: dt.timedelta = group._get_backend(torch.device(device)).options._timeout
        except (AttributeError, RuntimeError):
            continue
        if timeout.total_seconds() > 0 and math.isfinite(timeout.total_seconds()):
            return min(timeout / _PARTS, _LONGEST_WAIT)
    return _LONGEST_WAIT
