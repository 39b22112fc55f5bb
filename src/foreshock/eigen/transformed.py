"""Operators derived from another one: its negative, and its restriction away from known eigenvectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from foreshock.operators import LinearOperator


class NegatedOperator:
    """−S, whose largest eigenvalue is minus the smallest of S.

    Args:
        operator: S.

    Example:
        >>> from foreshock.operators import HessianOperator
        >>> x = torch.nn.Parameter(torch.zeros(1))
        >>> with HessianOperator(lambda: (x**2).sum(), [x]) as hessian:
        ...     NegatedOperator(hessian)(torch.ones(1))
        tensor([-2.])
    """

    def __init__(self, operator: LinearOperator) -> None:
        self._operator = operator

    @property
    def products(self) -> int:
        """Number of products with S so far."""
        return self._operator.products

    @property
    def backend(self) -> str:
        """How the products with S are computed."""
        return self._operator.backend

    def __call__(self, vector: Tensor) -> Tensor:
        """Return −S·vector, shape (n,). Cost: one product."""
        # In place: an operator returns a new tensor (see `LinearOperator`).
        return self._operator(vector).neg_()


class DeflatedOperator:
    r"""PSP with P = 1 − QQᵀ: S with the eigenvalues of known eigenvectors Q set to zero.

    If Q are exact eigenvectors, the other eigenvalues do not change (Parlett 1998, §5.1). If they are Ritz
    vectors of residual r, the others move by at most r²/gap to leading order. Since the known eigenvalues
    become zero, a largest remaining eigenvalue below zero is not found.

    Args:
        operator: S.
        known: Orthonormal vectors Q, each of shape (n,); they are not copied.

    Raises:
        ValueError: If `known` are not orthonormal to within a hundredth.

    Example:
        >>> from foreshock.eigen import largest_eigenvalue
        >>> from foreshock.operators import HessianOperator
        >>> x = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
        >>> scale = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
        >>> with HessianOperator(lambda: (scale * x**2).sum() / 2, [x]) as hessian:
        ...     first = largest_eigenvalue(hessian, torch.ones_like(scale))
        ...     second = largest_eigenvalue(
        ...         DeflatedOperator(hessian, [first.vector]), torch.ones_like(scale)
        ...     )
        >>> round(second.value, 6)
        2.0
    """

    def __init__(self, operator: LinearOperator, known: Sequence[Tensor]) -> None:
        self._operator = operator
        self._known = tuple(known)
        for index, vector in enumerate(self._known):
            for other in range(index + 1):
                inner = float(torch.dot(vector, self._known[other]))
                if not abs(inner - (other == index)) <= 0.01:
                    raise ValueError(
                        f"known vectors {other} and {index} have the scalar product {inner:.3g}; pass unit "
                        "vectors that are orthogonal to each other, as EigenResults.vectors are"
                    )

    @property
    def products(self) -> int:
        """Number of products with S so far."""
        return self._operator.products

    @property
    def backend(self) -> str:
        """How the products with S are computed."""
        return self._operator.backend

    def __call__(self, vector: Tensor) -> Tensor:
        """Return PSP·vector, shape (n,). Cost: one product."""
        return self._project(self._operator(self._project(vector.clone())))

    def pair(self, vector: Tensor, product: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pair (Py, PS·y) of this operator for a pair (y, S·y) of S. Cost: no product.

        Exact if the known vectors are eigenvectors. Neither argument is changed.

        Args:
            vector: y, shape (n,).
            product: S·y, shape (n,).
        """
        return self._project(vector.clone()), self._project(product.clone())

    def _project(self, vector: Tensor) -> Tensor:
        for known in self._known:
            vector.addcmul_(known, torch.dot(known, vector), value=-1)
        return vector
