"""Other starts of the same training: near the edge of stability one run is one draw of many."""

from __future__ import annotations

import torch
from torch import nn

PERTURBATION = 1e-6
"""Relative size: some ten units in the last place of float32, as another processor's rounding would make."""


@torch.no_grad()
def perturb_weights(model: nn.Module, start: int) -> None:
    """Multiply all weights by 1 + 1e-6 ε, ε normal, in place; the global random state is left alone.

    Args:
        model: The model, before its first step.
        start: Number of the start, which seeds ε; 0 leaves the weights as they are.

    Raises:
        ValueError: If `start` is below zero.

    Example:
        >>> model = nn.Linear(3, 1)
        >>> before = model.weight.clone()
        >>> perturb_weights(model, 1)
        >>> bool(0 < (model.weight / before - 1).abs().max() < 1e-5)
        True
    """
    if not start >= 0:
        raise ValueError(f"start is {start!r}; starts count from 0, which leaves the weights as they are")
    generator = torch.Generator().manual_seed(start)
    for weight in model.parameters() if start else ():
        noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        weight.mul_((1 + PERTURBATION * noise).to(weight))
