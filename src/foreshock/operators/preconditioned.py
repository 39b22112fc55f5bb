r"""The symmetric form of the preconditioned Hessian.

A·H is not symmetric, but it is similar to the symmetric matrix

.. math:: S = A^{1/2} H A^{1/2} = A^{-1/2} (A H) A^{1/2},

which has the same eigenvalues. Solvers for symmetric matrices (Lanczos) therefore apply, and the eigenvalues
are real. An eigenvector q of S belongs to the eigenvector A^{1/2}q of A·H.
"""

from __future__ import annotations

from torch import Tensor

from foreshock.operators.base import LinearOperator


class PreconditionedOperator:
    r"""The symmetric form :math:`A^{1/2} (H + W) A^{1/2}` of the preconditioned Hessian A·(H + W).

    Args:
        hessian: H.
        scale_root: Diagonal of A^{1/2}, shape (n,), finite and ≥ 0. Coordinates where it is zero are fixed.
        shift: Diagonal of W, shape (n,), which L2 regularisation adds to H; None for no such term.
        sign: −1 if the optimizer maximizes, which replaces H by −H; else 1.

    Example:
        >>> import torch
        >>> from foreshock.operators import HessianOperator
        >>> x = torch.nn.Parameter(torch.zeros(2))
        >>> with HessianOperator(lambda: x[0] ** 2 + 4 * x[1] ** 2, [x]) as hessian:
        ...     PreconditionedOperator(hessian, torch.tensor([1.0, 0.5]))(torch.ones(2))
        tensor([2., 2.])
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
        """How products with H are computed, as written to the log."""
        return self._hessian.backend

    @property
    def products(self) -> int:
        """Number of products with H so far, including those that others made with the same H."""
        return self._hessian.products

    def __call__(self, vector: Tensor) -> Tensor:
        """Return A^{1/2}(H + W)A^{1/2}·vector, shape (n,). Cost: one Hessian product.

        Args:
            vector: Shape (n,).
        """
        return self.curvature(vector * self._scale_root).mul_(self._scale_root)

    def curvature(self, vector: Tensor) -> Tensor:
        """Return (H + W)·vector, shape (n,), in the coordinates of the parameters. Cost: one Hessian product.

        Args:
            vector: Shape (n,).
        """
        product = self._hessian(vector)
        # Only H changes sign: torch negates the gradient of a maximizing optimizer and adds wd·θ afterwards.
        if self._sign != 1:
            product.mul_(self._sign)
        return product if self._shift is None else product.addcmul_(self._shift, vector)
