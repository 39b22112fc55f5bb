"""How many items the mean loss of a part may be over, if not examples: tokens without padding, for one."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from foreshock.batches.structure import MicroBatches, named_tensors

# Labels that losses leave out: of torch and Hugging Face, of older code, of padding, of segmentation maps.
_IGNORED = (-100, -1, 0, 255)


def part_counts(parts: MicroBatches) -> dict[str, tuple[float, ...]]:
    """Return the counts that the mean losses of some parts may be over, by what is counted.

    Counted are the labels of each integer tensor that are not one of the usual values for "ignore" (with and
    without the first position, which a language model does not predict), the set and the unset elements of a
    mask, and the sums of lengths or weights. Which of them a loss is over only its values can tell.

    Cost: some sums over the integer tensors, and one transfer.

    Args:
        parts: The parts of a batch, all of the same structure.

    Returns:
        One number for each part, without counts that are zero in some part.

    Example:
        >>> labels = torch.tensor([[5, 6, -100], [7, -100, -100], [8, 9, 4]])
        >>> part_counts(MicroBatches([{"y": labels[:2]}, {"y": labels[2:]}]))["batch['y'] != -100"]
        (3.0, 3.0)
    """
    structures = [dict(named_tensors(part)) for part in parts.batches]
    counted = [dict(_all_counts(one)) for one in structures]
    names = [name for name in counted[0] if all(name in one for one in counted)]
    if not names:
        return {}
    table = [torch.stack([one[name].cpu() for name in names]).tolist() for one in counted]
    return {name: tuple(counts) for name, *counts in zip(names, *table, strict=True) if min(counts) > 0}


def _all_counts(tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors.items():
        if tensor.is_complex() or tensor.is_sparse or tensor.is_nested or not tensor.ndim:
            continue
        for what, count in _counts(name, tensor.detach()):
            yield what, count.to(torch.float64 if count.device.type != "mps" else torch.float32)


def _counts(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    if tensor.dtype == torch.bool:
        yield name, tensor.sum()
        yield f"~{name}", (~tensor).sum()
    elif tensor.ndim == 1:
        # Lengths of sequences, or weights of examples; negative ones are neither.
        yield f"sum of {name}", tensor.sum() * (tensor >= 0).all()
    elif tensor.is_floating_point():
        if (
            tensor.ndim == 2
        ):  # a mask of zeros and ones; of features all are counted, in proportion to examples
            yield f"{name} != 0", (tensor != 0).sum()
    elif tensor.ndim <= 3:
        for value in _IGNORED:
            yield f"{name} != {value}", (tensor != value).sum()
            if tensor.ndim == 2:
                yield f"{name}[:, 1:] != {value}", (tensor[:, 1:] != value).sum()
