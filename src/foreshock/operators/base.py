"""What every operator offers, and the preconditioned form of one."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from torch import Tensor


class LinearOperator(Protocol):
    """A symmetric matrix, known by its products."""

    @property
    def backend(self) -> str:
        """How products are computed, in words for the log."""
        ...

    @property
    def products(self) -> int:
        """Products so far."""
        ...

    def __call__(self, vector: Tensor) -> Tensor:
        """Return the product with `vector`, both of shape (n,), in a new tensor."""
        ...


class LossOperator(LinearOperator, Protocol):
    """A second derivative of a loss. Use it in a ``with`` block: that frees what it holds."""

    loss: Tensor
    """The loss at the present parameters, a scalar tensor without graph."""
    gradient: Tensor
    """Its gradient, shape (n,)."""

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
    """A ``with`` block that ends with `close`."""

    def close(self) -> None:
        """Free graphs and copies."""

    def __enter__(self) -> Self:
        """Return the operator itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Free graphs and copies."""
        self.close()


class PreconditionedOperator:
    r"""The symmetric form :math:`A^{1/2} (H + W) A^{1/2}` of the preconditioned Hessian A·H.

    Its eigenvalues are those of A·(H + W); its eigenvector q belongs to the eigenvector A^{1/2} q of that.

    Args:
        hessian: H.
        scale_root: Diagonal of A^{1/2}, shape (n,), finite and ≥ 0.
        shift: Diagonal of W, shape (n,): what L2 regularisation adds to H; nothing if None.
        sign: −1 turns the sign of H: the optimizer maximizes.
    """

    def __init__(
        self,
        hessian: LinearOperator,
        scale_root: Tensor,
        *,
        shift: Tensor | None = None,
        sign: float = 1.0,
    ) -> None:
        self._hessian = hessian
        self._scale_root = scale_root
        self._shift = shift
        self._sign = sign

    @property
    def backend(self) -> str:
        """How products with H are computed, in words for the log."""
        return self._hessian.backend

    @property
    def products(self) -> int:
        """Hessian products so far, those of others on the same operator included."""
        return self._hessian.products

    def __call__(self, vector: Tensor) -> Tensor:
        """Return the product with `vector`, both of shape (n,). Cost: one Hessian product."""
        return self.curvature(vector * self._scale_root).mul_(self._scale_root)

    def curvature(self, vector: Tensor) -> Tensor:
        """Return (H + W)·vector in the coordinates of the parameters. Cost: one Hessian product."""
        product = self._hessian(vector)
        if self._sign != 1:
            product.mul_(self._sign)
        return product if self._shift is None else product.addcmul_(self._shift, vector)
