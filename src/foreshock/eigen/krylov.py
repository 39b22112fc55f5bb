r"""A subspace that grows by one product at a time, kept so that the products need not be.

Full orthogonalisation of basis, start block and remainder gives, for an orthonormal basis V (n × m),

.. math:: S V = V T + E C, \qquad V^T E = 0,\ E^T E = 1,

with T = VᵀSV (m × m) and C (b × m) small and E (n × b) the *frontier*: the part of the products that
leaves the subspace. A Ritz vector Vy with T y = θ y has the residual E C y, so its norm and its direction are
known without SV. The subspace is extended by the residual of the Ritz vector that is sought, and E is turned
so that this residual is one of its vectors. From one start vector, b = 1, and this is the Lanczos method with
full reorthogonalisation (Parlett 1998, §13.1 to 13.6); from a block it is the block Lanczos method (Golub and
Underwood 1977), told to spend each product where it helps most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreshock.eigen.results import estimated_error
from foreshock.operators import LinearOperator

Matrix = NDArray[np.float64]


class KrylovSpace:
    """V, T, E and C of one subspace. Memory: m + b vectors of size n, and one more in passing.

    Args:
        vectors: What to start from, tensors of shape (n,) that become the space's own. A vector that is
            nearly a combination of those before it is dropped.
        products: S times each of them, likewise its own.

    Raises:
        FloatingPointError: If a product is not finite.
    """

    def __init__(self, vectors: list[Tensor], products: list[Tensor]) -> None:
        self.basis, images = _orthonormal_pairs(vectors, products)
        size = len(self.basis)
        self._matrix: Matrix = np.zeros((size, size))
        for column, image in enumerate(images):
            self._matrix[:, column] = _take_out(image, self.basis)
        _refuse_infinite(self._matrix)
        self._matrix = (self._matrix + self._matrix.T) / 2
        self._frontier: list[Tensor] = []
        self._coupling: Matrix = np.zeros((0, size))
        # What is left of a vector that lies in the subspace is rounding, some eps of its length.
        self._rounding = 10 * torch.finfo(self.basis[0].dtype).eps
        for column, image in enumerate(images):
            self._push(image, column)

    @property
    def exhausted(self) -> bool:
        """Whether the subspace is invariant: there is nothing to extend it by."""
        return not self._frontier

    @property
    def values(self) -> Matrix:
        """The Ritz values in decreasing order, shape (m,)."""
        return self._ritz[0]

    @property
    def residuals(self) -> Matrix:
        """‖Sx − θx‖ of each Ritz pair, shape (m,)."""
        residuals: Matrix = np.linalg.norm(self._coupling @ self._ritz[1], axis=0)
        return residuals

    @property
    def start_weights(self) -> Matrix:
        """Squared components of the Ritz vectors along the first start vector, shape (m,); sum one."""
        weights: Matrix = self._ritz[1][0] ** 2
        return weights

    def errors(self) -> Matrix:
        """Return the estimated error of each Ritz value, shape (m,), rounding of the products included."""
        values, residuals = self.values, self.residuals
        rounding = torch.finfo(self.basis[0].dtype).eps * float(np.abs(values).max())
        errors = []
        for index, (value, residual) in enumerate(zip(values, residuals, strict=True)):
            gaps = np.abs(np.delete(values, index) - value) - np.delete(residuals, index)
            errors.append(
                estimated_error(float(residual), float(gaps.min()) if len(gaps) else 0.0, abs(value))
            )
        return np.maximum(errors, rounding)

    def extend(self, operator: LinearOperator, index: int = 0) -> None:
        """Add the residual of a Ritz vector to the subspace. Cost: one product.

        Args:
            operator: S.
            index: Which Ritz vector, in decreasing order of values.

        Raises:
            FloatingPointError: If the product is not finite.
        """
        if len(self._frontier) > 1:
            self._turn(self._coupling @ self._ritz[1][:, index])
        direction = self._frontier.pop(0)
        row, self._coupling = self._coupling[0], self._coupling[1:]
        self.basis.append(direction)
        image = operator(direction)
        inner = _take_out(image, self.basis)
        _refuse_infinite(inner)
        size = len(self.basis)
        matrix = np.zeros((size, size))
        matrix[:-1, :-1] = self._matrix
        matrix[-1, :-1] = matrix[:-1, -1] = row
        matrix[-1, -1] = inner[-1]
        self._matrix = matrix
        self._coupling = np.pad(self._coupling, ((0, 0), (0, 1)))
        self._push(image, size - 1)
        self.__dict__.pop("_ritz", None)

    def vector(self, index: int = 0) -> Tensor:
        """Return a unit Ritz vector, shape (n,), in a new tensor."""
        vector = torch.zeros_like(self.basis[0])
        for weight, direction in zip(self._ritz[1][:, index], self.basis, strict=True):
            vector.add_(direction, alpha=float(weight))
        return vector.div_(torch.linalg.vector_norm(vector))

    @cached_property
    def _ritz(self) -> tuple[Matrix, Matrix]:
        values, weights = np.linalg.eigh(self._matrix)
        return values[::-1], weights[:, ::-1]

    def _push(self, image: Tensor, column: int) -> None:
        """Put what is left of a product into the frontier."""
        self._coupling[:, column] += _take_out(image, self._frontier)
        norm = float(torch.linalg.vector_norm(image))
        if norm > self._rounding * float(np.abs(self._matrix).max()) and len(self.basis) < image.numel():
            self._frontier.append(image.div_(norm))
            row = np.zeros((1, self._coupling.shape[1]))
            row[0, column] = norm
            self._coupling = np.vstack([self._coupling, row])

    def drop_frontier(self) -> None:
        """Free E: the subspace can't be extended any more, its Ritz pairs stay."""
        self._frontier.clear()

    def _turn(self, coefficients: Matrix) -> None:
        """Reflect the frontier so that its first vector is ± the combination with `coefficients`."""
        normal = coefficients / max(float(np.linalg.norm(coefficients)), np.finfo(np.float64).tiny)
        normal[0] += math.copysign(1.0, normal[0])
        normal /= np.linalg.norm(normal)
        together = torch.zeros_like(self._frontier[0])
        for weight, part in zip(normal, self._frontier, strict=True):
            together.add_(part, alpha=float(weight))
        for weight, part in zip(normal, self._frontier, strict=True):
            part.sub_(together, alpha=2 * float(weight))
        self._coupling = self._coupling - 2 * np.outer(normal, normal @ self._coupling)


def _orthonormal_pairs(vectors: list[Tensor], products: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Orthonormalise vectors in place, and their products by the same combinations."""
    basis: list[Tensor] = []
    images: list[Tensor] = []
    while vectors:
        vector, image = vectors.pop(0), products.pop(0)
        before = float(torch.linalg.vector_norm(vector))
        inner = _take_out(vector, basis)
        for coefficient, other in zip(inner, images, strict=True):
            image.sub_(other, alpha=float(coefficient))
        norm = float(torch.linalg.vector_norm(vector))
        # Below this the product of what is left is mostly rounding of the products it is the difference of.
        if norm > math.sqrt(torch.finfo(vector.dtype).eps) * before:
            basis.append(vector.div_(norm))
            images.append(image.div_(norm))
    return basis, images


def _take_out(vector: Tensor, directions: Sequence[Tensor]) -> Matrix:
    """Subtract from `vector` its components along orthonormal directions; return them."""
    if not directions:
        return np.zeros(0)
    total = torch.zeros(len(directions), dtype=torch.float64)
    # Twice is enough (Parlett 1998, §6.9).
    for _ in range(2):
        inner = []
        for direction in directions:
            inner.append(torch.dot(direction, vector))
            vector.addcmul_(direction, inner[-1], value=-1)
        total += torch.stack(inner).to(total)
    components: Matrix = total.numpy()
    return components


def _refuse_infinite(components: Matrix) -> None:
    if not np.isfinite(components).all():
        raise FloatingPointError("a Hessian product is not finite (overflow, or NaN in the model)")
