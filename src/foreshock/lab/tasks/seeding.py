"""Initial weights from a seed, with the global random state left as it was."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def build_seeded(make: Callable[[], nn.Module], *, seed: int) -> nn.Module:
    """Return a model whose initial weights depend on the seed alone.

    Args:
        make: Builds the model from the global random state.
        seed: Seed of the initial weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()
