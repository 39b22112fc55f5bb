"""A batch of its own for each evaluation of a loss function, which may write into it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor

_DEPTH = 8  # a container may contain itself


def fresh(batch: Any, *, depth: int = _DEPTH) -> Any:
    """Return a batch that a loss function may change: containers and tensors are copied, all else is kept.

    Loss functions pop labels from a mapping, or normalise inputs in place. In a probe they are called several
    times on the batch of the training loop, which may use it again.

    Args:
        batch: A tensor, or a (nested) tuple, list or mapping with tensors. Anything else is returned itself.
        depth: How many containers inside each other to copy.

    Example:
        >>> import torch
        >>> batch = {"x": torch.ones(2), "y": "label"}
        >>> own = fresh(batch)
        >>> own.pop("y"), own["x"].zero_()
        ('label', tensor([0., 0.]))
        >>> batch
        {'x': tensor([1., 1.]), 'y': 'label'}
    """
    if isinstance(batch, Tensor):
        # What needs a gradient can't be written to in place, or is part of a graph that a copy would leave.
        return batch if batch.requires_grad else batch.detach().clone()
    if not depth:
        return batch
    if isinstance(batch, tuple):
        items = [fresh(one, depth=depth - 1) for one in batch]
        return type(batch)(*items) if hasattr(batch, "_fields") else _like(batch, items)
    if type(batch) is list:
        return [fresh(one, depth=depth - 1) for one in batch]
    if isinstance(batch, Mapping):
        return _fresh_mapping(batch, depth)
    return batch


def _fresh_mapping(batch: Mapping[Any, Any], depth: int) -> Any:
    if type(batch) is dict:
        return {key: fresh(value, depth=depth - 1) for key, value in batch.items()}
    try:
        values = {key: fresh(value, depth=depth - 1) for key, value in batch.items()}
        # Whatever else such a mapping holds comes with it.
        own: Any = copy.copy(batch)
        if getattr(own, "data", None) is getattr(batch, "data", own):
            own.data = dict(batch.data)  # type: ignore[attr-defined]
        for key, value in values.items():
            own[key] = value
    except Exception:  # noqa: BLE001 - a mapping that can't be read, copied or written to stays itself
        return batch
    return own


def _like(batch: tuple[Any, ...], items: list[Any]) -> Any:
    return tuple(items) if type(batch) is tuple else batch
