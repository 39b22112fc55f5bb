"""The interface of the operators."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from torch import Tensor


class LinearOperator(Protocol):
    """A symmetric matrix S of size n × n, given by its products with vectors."""

    @property
    def backend(self) -> str:
        """How products are computed, as written to the log."""
        ...

    @property
    def products(self) -> int:
        """Number of products so far."""
        ...

    def __call__(self, vector: Tensor) -> Tensor:
        """Return S·vector, shape (n,), in a new tensor that the caller may overwrite.

        Args:
            vector: Shape (n,); it is not changed.
        """
        ...


class LossOperator(LinearOperator, Protocol):
    """A second derivative of a loss. Use it in a ``with`` block, which frees its graphs at the end."""

    loss: Tensor
    """The loss at the present parameters, a scalar tensor without a graph."""
    gradient: Tensor
    """Its gradient, shape (n,)."""

    @property
    def passes(self) -> float:
        """What was spent so far, in F: the opening, and each product; see ``foreshock.operators.cost``."""
        ...

    def close(self) -> None:
        """Free graphs and copies."""
        ...

    def __enter__(self) -> Self:
        """Return the operator itself."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Free graphs and copies."""
        ...


class Closing:
    """A base class whose ``with`` block ends with `close`."""

    def close(self) -> None:
        """Give back what is held, such as graphs and copies."""

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()
