"""Tensors that are spread over processes (FSDP2, tensor parallelism): each process records its own part.

Nothing is exchanged. A part comes back where it was: in a run of as many processes, spread in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from foreshock.vectors import placed_as

Layout = Mapping[str, Any]
"""How a tensor is spread: ``shape`` of all of it, ``offset`` of this process's part, ``placements`` in words,
``mesh``, the shape of the grid of processes."""

REMEDY = (
    "For another number, go on from a checkpoint of torch.distributed.checkpoint, in which "
    "foreshock.Checkpointed(monitor) is what the monitor knows"
)


def is_spread(tensor: Any) -> bool:
    """Return whether a tensor is a DTensor.

    Args:
        tensor: The tensor.
    """
    if type(tensor) in (Tensor, nn.Parameter):
        return False  # nearly all, of which there may be thousands
    return hasattr(tensor, "device_mesh") and hasattr(tensor, "placements") and hasattr(tensor, "to_local")


def own_part(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process has, detached and not copied; of a plain one all of it.

    Args:
        tensor: The tensor.
    """
    if not is_spread(tensor):
        return tensor.detach()
    whole: Any = tensor.detach()
    part: Tensor = whole.to_local()
    return part


def layout_of(tensor: Any) -> Layout | None:
    """Return how a tensor is spread, as plain JSON; None if it is not.

    Args:
        tensor: The tensor.

    Example:
        >>> import torch
        >>> layout_of(torch.zeros(2)) is None
        True
    """
    if not is_spread(tensor):
        return None
    # Only here, where torch.distributed is in use: importing it takes a second.
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    placements = tensor.placements
    _, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, placements)
    return {
        "shape": list(tensor.shape),
        "offset": list(offset),
        "placements": list(map(str, placements)),
        "mesh": list(tensor.device_mesh.shape),
    }


def is_partial(tensor: Any) -> bool:
    """Return whether a spread tensor waits for a sum, so that no part of it is a part of its content.

    Args:
        tensor: The tensor.
    """
    return any(one.is_partial() for one in tensor.placements)


def as_spread(part: Tensor, like: Tensor) -> Tensor:
    """Return a part of this process as a tensor that is spread as another is, if that is.

    Args:
        part: The part; one that is spread already stays.
        like: The other one.
    """
    return placed_as(part, like) if is_spread(like) and not is_spread(part) else part
