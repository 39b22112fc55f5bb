"""Whether a probe with whole parameters fits into the memory that is free, as far as that can be known."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch

WHOLE_VECTORS = 8
"""Vectors of all parameters that a probe with whole parameters holds; `python -m benchmarks.scaling`."""

GRAPH = 3
"""What the graph of two derivatives keeps over what a training step keeps; from the same page."""

_MARGIN = 0.9  # of what is free: an allocator leaves gaps


def why_not_whole(entries: int, dtype: torch.dtype, device: torch.device) -> str:
    """Return why whole parameters and the graph of two derivatives don't fit; nothing if they do.

    Nothing is said either where free memory is not known: then the first probe finds out.

    Args:
        entries: Number of coordinates in this process once all is gathered.
        dtype: Of the vectors.
        device: Where they are.

    Example:
        >>> why_not_whole(1000, torch.float32, torch.device("cpu"))
        ''
    """
    free = free_memory(device)
    needed = WHOLE_VECTORS * entries * dtype.itemsize + GRAPH * _activations(device)
    if free is None or needed <= _MARGIN * free:
        return ""
    return (
        f"whole parameters and the graph of two derivatives would take about {needed / 1e9:.3g} GB, and "
        f"{free / 1e9:.3g} GB are free"
    )


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that this process can still have on a device; None if unknown.

    Processes of one host share its memory: each is taken to have an equal part.

    Args:
        device: The device.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # Torch keeps what it frees: that is free for tensors, and not for others.
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return None if found is None else 1024 * int(found[1]) // _processes_here()


def _processes_here() -> int:
    """Return how many processes share the memory of this host, as far as the launcher says."""
    said = os.environ.get("LOCAL_WORLD_SIZE", "")
    if said.isdecimal() and int(said) > 0:
        return int(said)
    distributed = torch.distributed
    known = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if known else 1


def _activations(device: torch.device) -> int:
    """Return what training held at most beyond what it holds now, between two steps; zero if unknown."""
    if device.type != "cuda":
        return 0
    return max(torch.cuda.max_memory_allocated(device) - torch.cuda.memory_allocated(device), 0)
