"""Scalars from the device, many in one transfer: each transfer makes the host wait for the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def fetch(values: Sequence[Tensor]) -> list[float]:
    """Return scalar tensors as numbers, in one transfer.

    Args:
        values: Scalars, of any devices and types; the type of the first must do for all.

    Example:
        >>> fetch([torch.tensor(1.0), torch.tensor(2)])
        [1.0, 2.0]
    """
    if not values:
        return []
    like = values[0]
    if all(value.device == like.device and value.dtype == like.dtype for value in values):
        return list(torch.stack(list(values)).tolist())
    return list(torch.stack([value.to(like.device, like.dtype) for value in values]).tolist())
