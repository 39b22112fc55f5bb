"""Sums over processes: of sharded parameters each process has a part, and all must act alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from foreshock.guarding.families import Slot
from foreshock.vectors import is_sharded, shard_groups


class Reduction:
    """Add up, over processes, what each computed of its own coordinates.

    Of distributed tensors (FSDP2) the groups are known by themselves. Where parameters are plain tensors that
    differ between processes (FSDP1, ZeRO), the group has to be given. Under data parallelism every process
    has all coordinates and the same gradients, hence the same sums: there is nothing to do, and a group that
    is given multiplies numerators and denominators alike.

    Args:
        slots: The parameters, in the order of the rows to come.
        group: A process group over which to add up besides; None for none.
    """

    def __init__(self, slots: Sequence[Slot], group: Any = None) -> None:
        keys = [slot.key for slot in slots]
        self._keys = [shard_groups(key) for key in keys] if is_sharded(keys) else [()] * len(keys)
        self._here = not any(self._keys)
        self._group = group
        self._device = slots[0].parameter.device if slots else torch.device("cpu")

    def total(self, rows: Sequence[Sequence[float]]) -> list[float]:
        """Return the sums of columns over parameters and processes.

        Args:
            rows: One row a parameter.
        """
        whole = _columns(rows) if self._here else self._total_of_shards(rows)
        if self._group is not None:
            whole = self._reduced(whole, self._group, torch.distributed.ReduceOp.SUM)
        return whole

    def largest(self, value: float) -> float:
        """Return the largest value of any process."""
        groups = list(dict.fromkeys(group for key in self._keys for group in key))
        for group in (*groups, *(() if self._group is None else (self._group,))):
            [value] = self._reduced([value], group, torch.distributed.ReduceOp.MAX)
        return value

    def _total_of_shards(self, rows: Sequence[Sequence[float]]) -> list[float]:
        width = len(rows[0]) if rows else 0
        sums: dict[tuple[Any, ...], list[Sequence[float]]] = {}
        for key, row in zip(self._keys, rows, strict=True):
            sums.setdefault(key, []).append(row)
        whole = [0.0] * width
        for groups, members in sums.items():
            part = _columns(members)
            for group in groups:
                part = self._reduced(part, group, torch.distributed.ReduceOp.SUM)
            whole = [old + new for old, new in zip(whole, part, strict=True)]
        return whole

    def _reduced(self, values: Sequence[float], group: Any, operation: Any) -> list[float]:
        tensor: Tensor = torch.tensor(list(values), dtype=torch.float64, device=self._device)
        torch.distributed.all_reduce(tensor, op=operation, group=group)
        return list(tensor.tolist())


def _columns(rows: Sequence[Sequence[float]]) -> list[float]:
    return [math.fsum(column) for column in zip(*rows, strict=True)]
