"""What an eigen-solver returns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class EigenResult:
    """One eigenvalue with its eigenvector and an estimate of its error.

    Attributes:
        value: The Ritz value θ. It is a lower bound of a largest eigenvalue, an upper bound of a smallest.
        vector: Its unit Ritz vector x, shape (n,).
        residual: ‖Sx − θx‖; some eigenvalue lies within this distance of θ.
        error: Estimated absolute error of θ: `StoppingRule.caution` times the residual.
        products: Number of products spent; those of `extra` pairs are not counted.
        converged: Whether `error` met the tolerance. If not, raise `StoppingRule.max_products`.
        runner_up: The unit Ritz vector of the next eigenvalue, orthogonal to `vector`, shape (n,); None if
            the subspace has only one dimension.
    """

    value: float
    vector: Tensor
    residual: float
    error: float
    products: int
    converged: bool
    runner_up: Tensor | None = None

    @property
    def starts(self) -> tuple[Tensor, ...]:
        """Start vectors for the next solve, once the operator has changed a little."""
        return (self.vector,) if self.runner_up is None else (self.vector, self.runner_up)


@dataclass(frozen=True)
class EigenResults:
    """The largest eigenvalues found from one subspace, in decreasing order.

    Indexing, iteration and ``len`` apply to `pairs`.

    Attributes:
        pairs: One result per eigenvalue; fewer than requested if the subspace was exhausted before.
        products: Number of products spent on all of them together.
        converged: Whether all that were requested met the tolerance.
    """

    pairs: tuple[EigenResult, ...]
    products: int
    converged: bool

    @property
    def values(self) -> tuple[float, ...]:
        """The Ritz values."""
        return tuple(pair.value for pair in self.pairs)

    @property
    def vectors(self) -> tuple[Tensor, ...]:
        """The unit Ritz vectors, orthogonal to each other."""
        return tuple(pair.vector for pair in self.pairs)

    def __getitem__(self, index: int) -> EigenResult:
        return self.pairs[index]

    def __iter__(self) -> Iterator[EigenResult]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)
