"""Dense references that share no code with the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


def dense_hessian(closure: Callable[[], Tensor], parameters: Sequence[Tensor]) -> Tensor:
    """Return the Hessian row by row: the gradient of every entry of the gradient, shape (n, n)."""
    with sdpa_kernel(SDPBackend.MATH):
        gradients = torch.autograd.grad(closure(), parameters, create_graph=True)
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        rows = []
        for entry in flat:
            row = torch.autograd.grad(entry, parameters, retain_graph=True, allow_unused=True)
            parts = [
                torch.zeros_like(p) if part is None else part for p, part in zip(parameters, row, strict=True)
            ]
            rows.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(rows).detach()


def difference_hessian_product(
    closure: Callable[[], Tensor], parameters: Sequence[nn.Parameter], vector: Tensor
) -> Tensor:
    """Return H·vector from central differences of gradients; error of order h², shape (n,)."""
    h = 1e-5
    sides = []
    for sign in (1, -1):
        offset = 0
        saved = [p.detach().clone() for p in parameters]
        with torch.no_grad():
            for p in parameters:
                p.add_(vector[offset : offset + p.numel()].view_as(p), alpha=sign * h)
                offset += p.numel()
        sides.append(torch.cat([g.flatten() for g in torch.autograd.grad(closure(), parameters)]))
        with torch.no_grad():
            for p, old in zip(parameters, saved, strict=True):
                p.copy_(old)
    return (sides[0] - sides[1]) / (2 * h)
