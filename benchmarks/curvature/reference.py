"""The truth to compare with: float64, plain double backward, converged; shares no code with any tool."""

from __future__ import annotations

import copy
from typing import Any

import torch
from benchmarks.curvature.cases import Problem
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


def reference_pair(
    problem: Problem, scale_root: Tensor | None = None, near: Tensor | None = None
) -> tuple[float, Tensor]:
    """Return the largest eigenpair of H, or of SHS, the value to about five digits.

    Args:
        problem: Model, loss and batch; a copy of the model in float64 is differentiated.
        scale_root: Diagonal of S, shape (n,); None for H itself.
        near: The vector at an earlier point, to save time; some noise is added to it.
    """
    model = copy.deepcopy(problem.model).double()
    inputs, targets = (_double(part) for part in problem.batch)
    # Fused attention has no double backward.
    with sdpa_kernel(SDPBackend.MATH):
        loss = problem.criterion(model(inputs), targets)
    return largest_pair(loss, model, None if scale_root is None else scale_root.double(), near)


def largest_pair(
    loss: Tensor, model: nn.Module, scale_root: Tensor | None = None, near: Tensor | None = None
) -> tuple[float, Tensor]:
    """Return the largest eigenpair of the Hessian of a loss, in the precision of the model."""
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    gradient = torch.cat([part.flatten() for part in gradients])
    scale = torch.ones_like(gradient) if scale_root is None else scale_root

    def matvec(vector: Any) -> Any:
        weight = torch.from_numpy(vector.ravel()).to(scale.dtype) * scale
        product = torch.autograd.grad(gradient, parameters, weight, retain_graph=True)
        return (torch.cat([part.flatten() for part in product]) * scale).double().numpy()

    size = len(gradient)
    begin = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    if near is not None:
        begin = near.double() + begin * (0.1 / size**0.5)
    operator = LinearOperator((size, size), matvec=matvec, dtype="float64")
    # A residual of 1e-3 λ leaves an error of the order of 1e-6 λ²/gap in λ (Kato–Temple).
    values, vectors = eigsh(operator, k=1, which="LA", ncv=min(10, size), tol=1e-3, v0=begin.numpy())
    return float(values[0]), torch.from_numpy(vectors[:, 0].copy())


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor
