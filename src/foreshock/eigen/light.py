r"""The largest eigenvalue in six vectors: the locally optimal conjugate-gradient method.

Only two directions are kept: the present vector x, and the direction p in which it last moved. Each step adds
the residual r, and the best vector in span{x, p, r} is the next x (Knyazev 2001, algorithm 5.1 with one
vector and no preconditioner). A step takes one product, Sr; Sx and Sp follow by the same combinations as x
and p. If the solve starts from an eigenvector and its runner-up, p is instead the second-best vector of the
span, as in a thick restart (Wu and Simon 2000): so close to the solution, noticing which of the two is the
larger is worth more than the conjugate direction.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreshock.eigen.results import EigenResult
from foreshock.eigen.stopping import StoppingRule
from foreshock.operators import LinearOperator

LIGHT_VECTORS = 6  # x, p, r and the product of each

# A good warm start needs 3 to 6 products (docs/benchmarks/curvature.md). Where it takes more, the start was
# not good, and the conjugate direction converges faster.
_PATIENCE = 6

Pair = tuple[Tensor, Tensor]
Row = NDArray[np.float64]


def solve_light(
    operator: LinearOperator, starts: Iterator[Tensor], stop: StoppingRule, extra: Iterable[Pair] = ()
) -> EigenResult:
    """Return the largest eigenvalue. Memory: six vectors of size n, whatever the number of products.

    Args:
        operator: The symmetric operator S.
        starts: At least one unit vector, shape (n,), the best first. The solver overwrites them. An iterator,
            so that only one exists at a time.
        stop: When to stop.
        extra: Pairs (y, S·y) that are known already; they are not changed.

    Raises:
        FloatingPointError: If a product is not finite.
    """
    first = next(starts)
    pair = _TravellingPair(first, operator(first))
    products = 1
    rounding = 10 * torch.finfo(first.dtype).eps
    for vector in starts:
        pair.join(vector, operator(vector))
        products += 1
        del vector  # or it would be a seventh vector while the next start is made
    follow = products > 1
    for vector, image in extra:
        pair.join(vector.clone(), image.clone())
    while True:
        direction = torch.add(pair.image, pair.vector, alpha=-pair.value)
        residual = float(torch.linalg.vector_norm(direction))
        error = stop.caution * residual
        # Compared with the largest Ritz value seen, not with the present one, which may be near zero.
        exhausted = residual <= rounding * pair.scale
        converged = exhausted or stop.allows(pair.value, error)
        if converged or products >= stop.max_products or not pair.orthonormalise(direction):
            return EigenResult(pair.value, pair.vector, residual, error, products, converged, pair.runner_up)
        image = operator(direction)
        products += 1
        pair.absorb(direction, image, follow=follow and products < _PATIENCE)
        del direction, image  # or the next residual would be a seventh vector


class _TravellingPair:
    """x with Sx, and p with Sp: x and p are orthonormal, x is the best vector in the last span{x, p, r}."""

    def __init__(self, vector: Tensor, image: Tensor) -> None:
        self.vector = vector
        self.image = image
        self.value = float(torch.dot(vector, image))
        _refuse_infinite(self.value)
        self.scale = abs(self.value)
        self._travel: Pair | None = None

    @property
    def runner_up(self) -> Tensor | None:
        """p, the only other direction that is kept; None before the first step."""
        return None if self._travel is None else self._travel[0]

    def orthonormalise(self, vector: Tensor, image: Tensor | None = None) -> bool:
        """Make `vector` orthonormal to x and p in place; return whether enough of it remained."""
        before = float(torch.linalg.vector_norm(vector))
        for _ in range(2):
            for other, others_image in self._pairs():
                inner = torch.dot(other, vector)
                vector.addcmul_(other, inner, value=-1)
                if image is not None:
                    image.addcmul_(others_image, inner, value=-1)
        norm = float(torch.linalg.vector_norm(vector))
        # As in `krylov`: below √eps less than half of the digits of the remainder's product are good.
        if not norm > math.sqrt(torch.finfo(vector.dtype).eps) * before:
            return False
        vector.div_(norm)
        if image is not None:
            image.div_(norm)
        return True

    def join(self, vector: Tensor, image: Tensor) -> None:
        """Add a vector whose product is known to the span, if it is independent; overwrites both."""
        if self.orthonormalise(vector, image):
            self.absorb(vector, image, follow=True)

    def absorb(self, vector: Tensor, image: Tensor, *, follow: bool = False) -> None:
        """Move to the best vector in the span of x, p and one orthonormal to them, and choose the next p.

        Args:
            vector: A unit vector orthogonal to x and p; overwritten.
            image: Its product; overwritten.
            follow: Whether p becomes the second-best vector of the span instead of the direction travelled.
        """
        pairs = [*self._pairs(), (vector, image)]
        matrix = _inner_products([v for v, _ in pairs], [w for _, w in pairs])
        matrix = (matrix + matrix.T) / 2
        _refuse_infinite(matrix)
        values, weights = np.linalg.eigh(matrix)
        self.value = float(values[-1])
        self.scale = max(self.scale, float(np.abs(values).max()))
        best = weights[:, -1]
        self._move(pairs, best, weights[:, -2] if follow else _travelled(best))

    def _move(self, pairs: list[Pair], first: Row, second: Row) -> None:
        """Turn x and p into the combinations `first` and `second`, in place."""
        if self._travel is None:
            scratch = (torch.empty_like(self.vector), torch.empty_like(self.vector))
            self._travel = pairs[-1]
            _rotate(pairs[0], self._travel, scratch, first, second)
            return
        # Three vectors become two in place, without a seventh: with u in span{p, r} orthogonal to the
        # combination that is dropped, p becomes u and x the third axis; then both are rotated within their
        # plane.
        dropped = np.cross(first, second)
        along = np.array([0.0, dropped[2], -dropped[1]])
        length = float(np.linalg.norm(along))
        along = along / length if length > 0 else np.array([0.0, 1.0, 0.0])
        across = np.cross(along, dropped)
        for x, p, r in zip(*pairs, strict=True):
            x.mul_(float(across[0])).add_(p, alpha=float(across[1])).add_(r, alpha=float(across[2]))
            p.mul_(float(along[1])).add_(r, alpha=float(along[2]))
        turned = [np.array([row @ across, row @ along]) for row in (first, second)]
        _rotate(pairs[0], pairs[1], pairs[2], *turned)

    def _pairs(self) -> list[Pair]:
        first = (self.vector, self.image)
        return [first] if self._travel is None else [first, self._travel]


def _travelled(best: Row) -> Row:
    """Return the combination orthogonal to `best` in the span of x and the new x."""
    turn = float(np.linalg.norm(best[1:]))
    travelled: Row = np.eye(len(best))[1]
    if turn > 0:
        travelled = np.concatenate([[-turn], best[1:] * (best[0] / turn)])
    return travelled


def _rotate(left: Pair, right: Pair, scratch: Pair, first: Row, second: Row) -> None:
    for x, p, spare in zip(left, right, scratch, strict=True):
        spare.copy_(x)
        x.mul_(float(first[0])).add_(p, alpha=float(first[1]))
        p.mul_(float(second[1])).add_(spare, alpha=float(second[0]))


def _inner_products(rows: list[Tensor], columns: list[Tensor]) -> NDArray[np.float64]:
    entries = torch.stack([torch.dot(row, column) for row in rows for column in columns])
    matrix: NDArray[np.float64] = entries.double().cpu().numpy().reshape(len(rows), len(columns))
    return matrix


def _refuse_infinite(values: float | NDArray[np.float64]) -> None:
    if not np.isfinite(values).all():
        raise FloatingPointError(
            "a Hessian product is not finite: look for NaN or Inf in the parameters and the batch, or for "
            "overflow in half precision"
        )
