"""A batch in another floating-point precision."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from foreshock.batches.structure import MicroBatches


def cast_batch(batch: Any, dtype: torch.dtype) -> Any:
    """Return a batch whose floating-point tensors are of another precision; what holds none stays as it is.

    Args:
        batch: Tensors, also inside of tuples, lists, dictionaries and `MicroBatches`.
        dtype: The precision.

    Example:
        >>> [one.dtype for one in cast_batch((torch.ones(2), torch.arange(2)), torch.float64)]
        [torch.float64, torch.int64]
    """
    if isinstance(batch, Tensor):
        return batch.to(dtype) if batch.is_floating_point() else batch
    if isinstance(batch, MicroBatches):
        return replace(batch, batches=[cast_batch(one, dtype) for one in batch.batches])
    if isinstance(batch, tuple):
        items = [cast_batch(one, dtype) for one in batch]
        return type(batch)(*items) if hasattr(batch, "_fields") else tuple(items)
    if isinstance(batch, list):
        return [cast_batch(one, dtype) for one in batch]
    if isinstance(batch, dict):
        return {key: cast_batch(one, dtype) for key, one in batch.items()}
    return batch
