"""Dense references that share no code with the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


def dense_hessian(closure: Callable[[], Tensor], parameters: Sequence[Tensor]) -> Tensor:
    """Return the Hessian: the gradients of all entries of the gradient at once, shape (n, n)."""
    with sdpa_kernel(SDPBackend.MATH):
        gradients = torch.autograd.grad(closure(), parameters, create_graph=True, allow_unused=True)
        flat = _joined(gradients, parameters)
        if any(gradient is not None and gradient.is_sparse for gradient in gradients):
            return _rows_of(flat, parameters)  # vectorising does not know sparse tensors
        size = len(flat)
        unit = torch.eye(size, dtype=flat.dtype)
        # One vectorised pass backward: bit for bit what n passes give, ten times as fast.
        rows = torch.autograd.grad(flat, parameters, unit, is_grads_batched=True, allow_unused=True)
    blocks = [
        torch.zeros(size, p.numel(), dtype=flat.dtype) if row is None else row.reshape(size, -1)
        for row, p in zip(rows, parameters, strict=True)
    ]
    return torch.cat(blocks, dim=1).detach()


def _rows_of(flat: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    rows = (torch.autograd.grad(entry, parameters, retain_graph=True, allow_unused=True) for entry in flat)
    return torch.stack([_joined(row, parameters).detach() for row in rows])


def reverse_hessian_product(
    closure: Callable[[], Tensor], parameters: Sequence[Tensor], vector: Tensor
) -> Tensor:
    """Return H·vector as the gradient of the inner product of the gradient with `vector`, shape (n,)."""
    with sdpa_kernel(SDPBackend.MATH):
        gradients = torch.autograd.grad(closure(), parameters, create_graph=True, allow_unused=True)
        inner = _joined(gradients, parameters) @ vector
        return _joined(torch.autograd.grad(inner, parameters, allow_unused=True), parameters).detach()


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
        sides.append(_joined(torch.autograd.grad(closure(), parameters, allow_unused=True), parameters))
        with torch.no_grad():
            for p, old in zip(parameters, saved, strict=True):
                p.copy_(old)
    return (sides[0] - sides[1]) / (2 * h)


def dense_jacobian(outputs_fn: Callable[[], Tensor], parameters: Sequence[Tensor]) -> Tensor:
    """Return the derivative of every output by every parameter, shape (outputs, n)."""
    outputs = outputs_fn().flatten()
    return torch.stack(
        [
            _joined(
                torch.autograd.grad(entry, parameters, retain_graph=True, allow_unused=True), parameters
            ).detach()
            for entry in outputs
        ]
    )


def _joined(tensors: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensor:
    return torch.cat(
        [
            torch.zeros_like(p).flatten() if t is None else t.to_dense().flatten()
            for t, p in zip(tensors, like, strict=True)
        ]
    )
