"""What an eigen-solver returns, and the estimate of its error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

# One in a hundred of the relative gaps λ₁/λ₂ − 1 of trained CNNs and Transformers is below this.
WIDEST_GAP = 0.02


@dataclass(frozen=True)
class EigenResult:
    """One eigenvalue, and how far it can be believed.

    Attributes:
        value: The Ritz value θ; for a largest eigenvalue a lower bound of it.
        vector: Its unit Ritz vector, shape (n,).
        residual: ‖Sx − θx‖: some eigenvalue lies within it of θ.
        error: Estimated error of θ: the residual, or residual²/gap where that is less.
        products: Products spent, those of `extra` pairs not counted.
        converged: Whether `error` fell below the tolerance.
        runner_up: Where the next eigenvalue is to be expected, a unit vector orthogonal to `vector`; None if
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
        """What to start from when the operator has changed a little: the vector, and its runner-up."""
        return (self.vector,) if self.runner_up is None else (self.vector, self.runner_up)


@dataclass(frozen=True)
class EigenResults:
    """The largest eigenvalues found from one subspace, in decreasing order.

    Indexing, iterating and ``len`` go over the single results.

    Attributes:
        pairs: One result an eigenvalue. Fewer than asked for if the subspace was exhausted before.
        products: Products spent on all of them together.
        converged: Whether all that were asked for met the tolerance.
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


def estimated_error(residual: float, gap: float, value: float) -> float:
    """Return the estimated error of a Ritz value, residual²/gap or the residual.

    Kato and Temple: if no other eigenvalue lies within `gap` of θ, the error is at most residual²/gap
    (Parlett 1998, §11.5). The gap to the next *Ritz* value bounds it from above only, and from a warm start
    grossly: the few directions of the subspace have not seen the next eigenvalue, and the estimate comes
    out far too small. So no gap above `WIDEST_GAP` times θ is believed, however far apart the Ritz values.

    Args:
        residual: ‖Sx − θx‖.
        gap: Distance from θ to the next eigenvalue, as far as known; where it is not above `residual` it
            says nothing.
        value: θ.
    """
    believed = min(gap, WIDEST_GAP * abs(value))
    return residual**2 / believed if believed > residual else residual
