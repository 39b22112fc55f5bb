r"""The largest eigenvalue of a symmetric operator, by Lanczos.

Full reorthogonalisation, a warm start, and a stop that is honest about what it knows: the residual
‖Sx − θx‖ bounds the distance from θ to *an* eigenvalue; where the next Ritz value is well separated the
error of θ is only of the order residual²/gap (Kato–Temple; Parlett 1998, §10.3 and §11.5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreshock.operators import LinearOperator


@dataclass(frozen=True)
class StoppingRule:
    """When an eigen-solver may stop.

    Attributes:
        relative_tolerance: Once the estimated error is below this fraction of |θ|, > 0. The overshoot above
            the edge is a few percent: an error of 0.5 % keeps the two sides of it apart.
        max_products: After this many products in any case, ≥ 1. Not converging is no error.
    """

    relative_tolerance: float = 5e-3
    max_products: int = 20

    def __post_init__(self) -> None:
        """Refuse impossible values.

        Raises:
            ValueError: If a field lies outside its interval.
        """
        if not self.relative_tolerance > 0 or not self.max_products >= 1:
            raise ValueError(
                f"relative_tolerance {self.relative_tolerance!r} must be positive and max_products "
                f"{self.max_products!r} at least 1"
            )


@dataclass(frozen=True)
class EigenResult:
    """The largest eigenvalue found, and how far it can be believed.

    Attributes:
        value: The Ritz value θ, a lower bound of the largest eigenvalue.
        vector: Its unit Ritz vector, shape (n,).
        residual: ‖Sx − θx‖: some eigenvalue lies within it of θ.
        error: Estimated error of θ: the residual, or residual²/gap where that is less.
        products: Products spent.
        converged: Whether `error` fell below the tolerance.
    """

    value: float
    vector: Tensor
    residual: float
    error: float
    products: int
    converged: bool


def largest_eigenvalue(
    operator: LinearOperator, start: Tensor, stop: StoppingRule | None = None
) -> EigenResult:
    """Return the algebraically largest eigenvalue. Memory: one vector of size n a product.

    Args:
        operator: The symmetric operator S.
        start: Where to start, shape (n,), not zero: the last eigenvector, or anything with a component
            along the one that is sought. A start that is exactly an eigenvector finds only its own.
        stop: When to stop; see `EigenResult.converged` for whether it was met.

    Raises:
        ValueError: If `start` is zero or not finite.
        FloatingPointError: If a product is not finite.

    Example:
        >>> from foreshock.operators import HessianOperator
        >>> x = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
        >>> scale = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
        >>> with HessianOperator(lambda: (scale * x**2).sum() / 2, [x]) as hessian:
        ...     result = largest_eigenvalue(hessian, torch.ones_like(scale))
        >>> round(result.value, 6), result.converged
        (5.0, True)
    """
    stop = stop or StoppingRule()
    norm = float(torch.linalg.vector_norm(start))
    if not 0 < norm < math.inf:
        raise ValueError(f"start has norm {norm}; it must be finite and not zero")
    basis = [start / norm]
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    for count in range(1, stop.max_products + 1):
        candidate = operator(basis[-1])
        diagonal.append(float(torch.dot(basis[-1], candidate)))
        if not math.isfinite(diagonal[-1]):
            raise FloatingPointError("a Hessian product is not finite (overflow, or NaN in the model)")
        _orthogonalise(candidate, basis)
        beta = float(torch.linalg.vector_norm(candidate))
        ritz = _Ritz.of(diagonal, off_diagonal, beta)
        exhausted = beta <= torch.finfo(start.dtype).eps * ritz.scale
        converged = exhausted or ritz.error <= stop.relative_tolerance * abs(ritz.value)
        if converged or count == stop.max_products:
            break
        basis.append(candidate / beta)
        off_diagonal.append(beta)
    vector = torch.zeros_like(basis[0])
    for weight, direction in zip(ritz.weights, basis, strict=True):
        vector.add_(direction, alpha=float(weight))
    vector /= torch.linalg.vector_norm(vector)
    return EigenResult(ritz.value, vector, ritz.residual, ritz.error, count, converged)


@dataclass(frozen=True)
class _Ritz:
    value: float
    weights: NDArray[np.float64]
    residual: float
    error: float
    scale: float

    @classmethod
    def of(cls, diagonal: list[float], off_diagonal: list[float], beta: float) -> _Ritz:
        matrix = np.diag(diagonal) + np.diag(off_diagonal, 1) + np.diag(off_diagonal, -1)
        values, vectors = np.linalg.eigh(matrix)
        residuals = beta * np.abs(vectors[-1])
        residual = float(residuals[-1])
        error = residual
        if len(values) >= 2:
            gap = float(values[-1] - values[-2] - residuals[-2])
            if gap > residual:
                error = residual**2 / gap
        scale = float(np.max(np.abs(values)))
        return cls(float(values[-1]), vectors[:, -1], residual, error, scale)


def _orthogonalise(vector: Tensor, basis: list[Tensor]) -> None:
    # Twice is enough (Parlett 1998, §6.9).
    for _ in range(2):
        for direction in basis:
            vector.sub_(direction * torch.dot(direction, vector))
