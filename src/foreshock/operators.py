r"""Symmetric linear operators on flat vectors: the Hessian, and the preconditioned Hessian.

An operator maps a vector of shape (n,) to one of shape (n,) and counts its products. The unit of cost is
F, one forward and backward pass: building the Hessian's graph costs about 3 F, each product about 2 F.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Protocol, Self

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from foreshock.vectors import flatten, split


class LinearOperator(Protocol):
    """A symmetric matrix, known by its products."""

    @property
    def products(self) -> int:
        """Products so far."""
        ...

    def __call__(self, vector: Tensor) -> Tensor:
        """Return the product with `vector`, both of shape (n,), in a new tensor."""
        ...


class HessianOperator:
    """The exact Hessian of a scalar loss, by double backward (Pearlmutter 1994).

    The graph is built once and kept for all products: every product then sees the same dropout masks and
    the same batch statistics. In-place changes of the parameters make it invalid. Leave the ``with`` block,
    or call `close`, to free it: it holds 2.5 to 5 times the memory of a training step's graph.

    Args:
        closure: Returns the mean loss, a scalar tensor; evaluated once, here.
        parameters: The tensors to differentiate by.

    Raises:
        TypeError: If the loss is not a tensor.
        ValueError: If the loss is not a scalar, or does not depend on any of `parameters`.

    Example:
        >>> x = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> with HessianOperator(lambda: (x**3).sum(), [x]) as hessian:
        ...     hessian(torch.tensor([1.0, 1.0]))
        tensor([ 6., 12.])
    """

    def __init__(self, closure: Callable[[], Tensor], parameters: Sequence[Tensor]) -> None:
        self.products = 0
        self._closed = False
        self._parameters = tuple(parameters)
        with _twice_differentiable():
            loss = _checked_loss(closure())
            gradients = torch.autograd.grad(loss, self._parameters, create_graph=True, allow_unused=True)
        if all(gradient is None for gradient in gradients):
            raise ValueError(
                "the loss does not depend on any parameter of the optimizer: loss_fn(model, batch) must "
                "evaluate the very model that is trained, without detach() or no_grad()"
            )
        self.loss = loss.detach()
        self.gradient = flatten(gradients, self._parameters)
        # A gradient that is constant in the parameters has no graph, and no Hessian.
        self._curved = [g if g is not None and g.requires_grad else None for g in gradients]

    def __call__(self, vector: Tensor) -> Tensor:
        """Return H·vector. Cost: one product, about 2 F.

        Args:
            vector: Shape (n,).

        Raises:
            RuntimeError: If the operator was closed.
        """
        if self._closed:
            raise RuntimeError("the Hessian's graph was freed by close(); build a new operator")
        self.products += 1
        outputs, weights = [], []
        for gradient, part in zip(self._curved, split(vector, self._parameters), strict=True):
            if gradient is not None:
                outputs.append(gradient)
                weights.append(part.to(gradient.dtype))
        if not outputs:
            return torch.zeros_like(vector)
        with _twice_differentiable():
            product = torch.autograd.grad(
                outputs, self._parameters, weights, retain_graph=True, allow_unused=True
            )
        return flatten(product, self._parameters)

    def close(self) -> None:
        """Free the graph."""
        self._closed = True
        self._curved = []

    def __enter__(self) -> Self:
        """Return the operator itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Free the graph."""
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
    def products(self) -> int:
        """Hessian products so far, those of others on the same operator included."""
        return self._hessian.products

    def __call__(self, vector: Tensor) -> Tensor:
        """Return the product with `vector`, both of shape (n,). Cost: one Hessian product."""
        return self.curvature(vector * self._scale_root).mul_(self._scale_root)

    def curvature(self, vector: Tensor) -> Tensor:
        """Return (H + W)·vector in the coordinates of the parameters. Cost: one Hessian product."""
        product = self._hessian(vector).mul_(self._sign)
        return product if self._shift is None else product.addcmul_(self._shift, vector)


def _checked_loss(loss: Tensor) -> Tensor:
    if not isinstance(loss, Tensor):
        raise TypeError(
            f"loss_fn returned {type(loss).__name__}; it must return the mean loss as a scalar tensor "
            "(loss_fn(model, batch) -> loss)"
        )
    if loss.numel() != 1:
        raise ValueError(
            f"loss_fn returned a tensor of shape {tuple(loss.shape)}; it must return the mean loss as "
            "a scalar tensor: add .mean()"
        )
    if not loss.requires_grad:
        raise ValueError(
            "the loss does not require a gradient: loss_fn(model, batch) must evaluate the model that "
            "is trained, without detach(), item() or no_grad()"
        )
    return loss.reshape(())


@contextmanager
def _twice_differentiable() -> Iterator[None]:
    """Choose kernels whose backward can be differentiated again."""
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        # Flash and memory-efficient attention, and cuDNN's recurrent nets, have no double backward.
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        yield
