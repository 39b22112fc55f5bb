r"""A subspace that grows by one product at a time and does not store the products.

For an orthonormal basis V (n × m) of the subspace, full orthogonalisation of the products gives

.. math:: S V = V T + E C, \qquad V^T E = 0,\ E^T E = 1.

T = VᵀSV (m × m) and C (b × m) are small. E (n × b) is the *frontier*: the part of the products that lies
outside of the subspace, in as many vectors as the subspace was started from. A Ritz vector Vy with Ty = θy
has the residual ECy, whose norm and direction are thus known without SV. The subspace is extended by the
residual of the Ritz vector that is wanted, after a reflection of E that makes this residual one of its
vectors. From one start vector b = 1, and this is the Lanczos method with full reorthogonalisation (Parlett
1998, §13.1 to 13.6). From several it is the block Lanczos method (Golub and Underwood 1977), except that each
product goes to the Ritz pair that needs it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreshock.operators import LinearOperator
from foreshock.vectors import dimension, inner_products, is_spread_vector

Matrix = NDArray[np.float64]

# Where less of a norm remains, rounding has left more along the directions than a vector may have, and the
# next product multiplies it by the largest eigenvalue again. The usual test (Daniel et al. 1976); at a tenth,
# bases from nearly an eigenvector lose orthogonality.
_FELL = 1 / math.sqrt(2)


class KrylovSpace:
    """V, T, E and C of one subspace. Memory: m + b vectors of size n, and one more during a product.

    Args:
        vectors: Start vectors, shape (n,) each; the space takes them over and overwrites them. A vector that
            is nearly a combination of those before it is dropped.
        products: S times each of them, taken over as well.

    Raises:
        FloatingPointError: If a product is not finite.

    Example:
        >>> scale = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
        >>> start = torch.ones_like(scale)
        >>> space = KrylovSpace([start], [scale * start])
        >>> float(space.values.round(6)[0])
        2.666667
    """

    def __init__(self, vectors: list[Tensor], products: list[Tensor]) -> None:
        self.basis, images = _orthonormal_pairs(vectors, products)
        size = len(self.basis)
        # The small matrices are float64 in numpy, whatever the dtype of the vectors: eigh of T then adds no
        # error to that of the products, and needs no kernel of the device.
        self._matrix: Matrix = np.zeros((size, size))
        for column, image in enumerate(images):
            self._matrix[:, column], _ = _take_out(image, self.basis)
        _refuse_infinite(self._matrix)
        # Rounding leaves T symmetric only to within eps; eigh would read one triangle and ignore the other.
        self._matrix = (self._matrix + self._matrix.T) / 2
        self._frontier: list[Tensor] = []
        self._coupling: Matrix = np.zeros((0, size))
        # A vector that lies in the subspace leaves a remainder of some eps of its length; ten is a margin.
        self._rounding = 10 * torch.finfo(self.basis[0].dtype).eps
        for column, image in enumerate(images):
            self._push(image, column)

    @property
    def exhausted(self) -> bool:
        """Whether the subspace is invariant, so that it cannot be extended."""
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
        """Squared components of the Ritz vectors along the first start vector, shape (m,), of sum one."""
        weights: Matrix = self._ritz[1][0] ** 2
        return weights

    def errors(self, caution: float) -> Matrix:
        """Return the estimated error of each Ritz value, shape (m,), rounding of the products included.

        Args:
            caution: How many residuals the error is taken to be; see `StoppingRule`.
        """
        # Without this floor a value would seem exact as soon as the space is exhausted.
        rounding = torch.finfo(self.basis[0].dtype).eps * float(np.abs(self.values).max())
        return np.maximum(caution * self.residuals, rounding)

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
        # The new direction e is the first vector of E, so eᵀSV is the first row of C: T's new row costs
        # nothing.
        row, self._coupling = self._coupling[0], self._coupling[1:]
        self.basis.append(direction)
        image = operator(direction)
        inner, _ = _take_out(image, self.basis)
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
        weights = self._ritz[1][:, index]
        vector = self.basis[0] * float(weights[0])
        for weight, direction in zip(weights[1:], self.basis[1:], strict=True):
            vector.add_(direction, alpha=float(weight))
        return vector.div_(torch.linalg.vector_norm(vector))

    @cached_property
    def _ritz(self) -> tuple[Matrix, Matrix]:
        values, weights = np.linalg.eigh(self._matrix)
        return values[::-1], weights[:, ::-1]

    def _push(self, image: Tensor, column: int) -> None:
        """Add to the frontier the part of a product that lies outside of the subspace and the frontier."""
        outside, norm = _take_out(image, self._frontier)
        self._coupling[:, column] += outside
        if norm > self._rounding * float(np.abs(self._matrix).max()) and len(self.basis) < dimension(image):
            self._frontier.append(image.div_(norm))
            row = np.zeros((1, self._coupling.shape[1]))
            row[0, column] = norm
            self._coupling = np.vstack([self._coupling, row])

    def drop_frontier(self) -> None:
        """Free E, before eigenvectors are formed: the subspace keeps its Ritz pairs but cannot grow."""
        self._frontier.clear()

    def _turn(self, coefficients: Matrix) -> None:
        """Reflect the frontier so that its first vector is ± the combination with `coefficients`."""
        # A Householder reflection works in place on E and C alike, and keeps E orthonormal. The sign is the
        # one without cancellation (Golub and Van Loan 2013, §5.1).
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
        inner, norm = _take_out(vector, basis)
        before = math.hypot(norm, *inner)
        for coefficient, other in zip(inner, images, strict=True):
            image.sub_(other, alpha=float(coefficient))
        # The remainder's product is a difference of products, of relative rounding eps/(norm/before): below
        # √eps less than half of its digits are good, and the vector is better dropped.
        if norm > math.sqrt(torch.finfo(vector.dtype).eps) * before:
            basis.append(vector.div_(norm))
            images.append(image.div_(norm))
    return basis, images


def _take_out(vector: Tensor, directions: Sequence[Tensor]) -> tuple[Matrix, float]:
    """Subtract from `vector` its components along orthonormal directions; return them and the norm left."""
    total: Matrix = np.zeros(len(directions))
    norm = 0.0
    # Over processes each inner product is an exchange, so that all are taken at once (classical
    # Gram–Schmidt); its second pass leaves them as orthogonal as the modified one (Giraud et al. 2005).
    at_once = is_spread_vector(vector)
    for _ in range(2):
        inner = list(inner_products(directions, vector)) if at_once else []
        for place, direction in enumerate(directions):
            if not at_once:
                inner.append(torch.dot(direction, vector))
            vector.addcmul_(direction, inner[place], value=-1)
        # The sums stay on the device until the end: one transfer for all of them.
        inner.append(torch.linalg.vector_norm(vector))
        found: Matrix = torch.stack(inner).double().cpu().numpy()
        total += found[:-1]
        norm = float(found[-1])
        # One Gram–Schmidt pass loses orthogonality where little of the vector remains, and a second one,
        # which is then enough, restores it (Parlett 1998, §6.9). NaN needs none.
        if not norm < _FELL * np.linalg.norm(found):
            break
    return total, norm


def _refuse_infinite(components: Matrix) -> None:
    if not np.isfinite(components).all():
        raise FloatingPointError(
            "a Hessian product is not finite: look for NaN or Inf in the parameters and the batch, or for "
            "overflow in half precision"
        )
