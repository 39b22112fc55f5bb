"""The one place that knows how Foreshock is called: re-point it here when its interface moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from benchmarks.curvature.cases import Problem
from benchmarks.curvature.selection import Setting
from torch import Tensor, nn

import foreshock
from foreshock.eigen import StoppingRule, largest_eigenvalue
from foreshock.operators import HessianOperator, LinearOperator, PreconditionedOperator
from foreshock.preconditioner import read_preconditioner

MOST_PRODUCTS = 60


@dataclass(frozen=True)
class Outcome:
    """What a tool found.

    Attributes:
        value: The eigenvalue.
        vector: Its vector, shape (n,), or all vectors that the tool's next solve starts from.
        products: Products spent.
        claimed: The absolute error that the tool claims; None if it claims none.
        converged: Whether the tool says that it has met its tolerance.
    """

    value: float
    vector: Tensor | tuple[Tensor, ...]
    products: int
    claimed: float | None = None
    converged: bool = True


@dataclass(frozen=True)
class Opened:
    """Foreshock's operator, with its graph, and the gradient in its coordinates, shape (n,)."""

    hessian: HessianOperator
    operator: LinearOperator
    gradient: Tensor


def open_operator(problem: Problem) -> Opened:
    """Build the graph of the Hessian, and read the optimizer if it is wanted."""
    hessian = HessianOperator(problem.loss, problem.parameters)
    if not problem.preconditioned:
        return Opened(hessian, hessian, hessian.gradient)
    scale = scale_root(problem)
    return Opened(hessian, PreconditionedOperator(hessian, scale), hessian.gradient * scale)


def scale_root(problem: Problem) -> Tensor:
    """Return the diagonal of A^{1/2} from the optimizer's live state, shape (n,)."""
    return read_preconditioner(problem.optimizer).scale_root()


def solve(opened: Opened, setting: Setting, start: Tensor | tuple[Tensor, ...] | None, seed: int) -> Outcome:
    """Return the largest eigenvalue as a probe does: from the last vectors, and from gradient and noise."""
    rule = StoppingRule(**{"max_products": MOST_PRODUCTS, **setting}) if setting else StoppingRule()
    last = () if start is None else (start,) if isinstance(start, Tensor) else start
    found = largest_eigenvalue(opened.operator, (*last, _cold_start(opened.gradient, seed)), rule)
    return Outcome(found.value, found.starts, found.products, found.error, converged=found.converged)


def _cold_start(gradient: Tensor, seed: int) -> Tensor:
    # In place, as in a probe: on millions of parameters each new vector takes as long as three in place.
    noise = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(seed), dtype=gradient.dtype)
    noise.mul_(0.1 / torch.linalg.vector_norm(noise))
    return noise.add_(gradient, alpha=1 / float(torch.linalg.vector_norm(gradient)))


def sharpness(
    model: nn.Module, loss_fn: Callable[[nn.Module, Any], Tensor], batch: Any, tolerance: float = 1e-4
) -> float:
    """Return λ_max(H) of a loss in one call, cold; it leaves the model as it was."""
    stop = StoppingRule(relative_tolerance=tolerance, max_products=MOST_PRODUCTS)
    return foreshock.sharpness(model, loss_fn, batch, stop=stop).value
