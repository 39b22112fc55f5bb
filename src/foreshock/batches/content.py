r"""The content of a batch in a few numbers, from which the same data are recognised in other tensors.

Each example becomes one number, a projection :math:`h_i = \sum_f r_f x_{if}` of all its values in all tensors
with fixed irregular weights r; the content is :math:`\sum_i h_i, \sum_i h_i^2, \sum_i h_i^3` in double
precision. The sums do not depend on the order, so that a full batch that is shuffled anew has the same
content. An example with other values, or inputs that belong to other targets, changes the h_i. Samples or
plain sums of the values would not do: one-hot inputs have the same sum in every batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from foreshock.batches.structure import MicroBatches, example_axes, tensors_in

Content = tuple[float, ...]

_CHUNK = 1 << 20  # elements in double precision at a time: 8 MiB, whatever the size of the batch
_ROUNDING = 1e-10  # of sums of up to 10⁹ terms in double precision, a hundred times over
_SINGLE_ROUNDING = 1e-5  # on devices without double precision


def content(batch: Any) -> Content | None:
    """Return the content of a batch; None if it can't be read.

    Cost: one pass over the data, in double precision, and one transfer from the device.

    Args:
        batch: Whatever a loss function takes.

    Example:
        >>> x = torch.randn(8, 3)
        >>> same_content(content(x), content(x.flip(0))), same_content(content(x), content(-x))
        (True, False)
    """
    try:
        with torch.no_grad():
            sums = [_sums(one) for one in _single_batches(batch)]
    except (RuntimeError, TypeError, NotImplementedError):  # a dtype or layout without the arithmetic
        return None
    if not any(True for _ in tensors_in(batch)):
        return None
    found = tuple(math.fsum(column) for column in zip(*sums, strict=True))
    return found if all(map(math.isfinite, found)) else None


def same_content(one: Content | None, other: Content | None) -> bool:
    """Return whether two contents are equal up to rounding; False if either is unknown.

    Args:
        one: The content of one batch.
        other: That of the other.
    """
    if one is None or other is None:
        return False
    # The last numbers are the scale of the rounding errors of each sum, and of its device.
    powers = len(one) // 2
    return all(
        abs(one[place] - other[place]) <= max(one[powers + place], other[powers + place])
        for place in range(powers)
    )


def _single_batches(batch: Any) -> Sequence[Any]:
    """Return the micro-batches of an accumulation, whose sums add up whatever their order."""
    return batch.batches if isinstance(batch, MicroBatches) else [batch]


def _sums(batch: Any) -> Content:
    readings = example_axes(batch)
    examples = readings[0].examples if readings else 1
    projections = [_project(_rows(one, examples), place) for place, one in enumerate(tensors_in(batch))]
    device = projections[0].device if projections else torch.device("cpu")
    projections = [one.to(device) for one in projections]
    # What has no examples along dimension 0 counts as one more, in its present order.
    joint = (
        torch.zeros(examples, device=device, dtype=projections[0].dtype) if projections else torch.zeros(1)
    )
    for one in projections:
        if len(one) == examples:
            joint += one
    numbers = torch.cat([joint, *(one for one in projections if len(one) != examples)])
    rounding = _ROUNDING if numbers.dtype == torch.float64 else _SINGLE_ROUNDING
    powers = [numbers, numbers**2, numbers**3]
    sums = [one.sum() for one in powers] + [rounding * one.abs().sum() for one in powers]
    return tuple(torch.stack(sums).tolist())


def _rows(tensor: Tensor, examples: int) -> Tensor:
    """Return the values of a tensor with one row for each example, or in a single row."""
    values = tensor.detach()
    values = torch.view_as_real(values) if values.is_complex() else values
    by_example = tensor.ndim > 0 and len(tensor) == examples and values.numel() > 0
    return values.reshape(examples if by_example else 1, -1)


def _project(rows: Tensor, place: int) -> Tensor:
    """Return one number for each row, in double precision where the device has it, shape (rows,)."""
    dtype = torch.float32 if rows.device.type == "mps" else torch.float64
    features = max(rows.shape[1], 1)
    # Irregular and of the order of one, without any random generator: sin of multiples of an irrational.
    ranks = torch.arange(1, features + 1, device=rows.device, dtype=dtype)
    weights = torch.sin(ranks * (1.2345678910111213 + place) + 0.5) + 0.1
    parts = []
    height = max(_CHUNK // features, 1)
    for start in range(0, len(rows), height):
        chunk = torch.nan_to_num(rows[start : start + height].to(dtype), nan=0.5, posinf=2.0, neginf=-2.0)
        parts.append((chunk * weights[: rows.shape[1]]).sum(1))
    return torch.cat(parts)
