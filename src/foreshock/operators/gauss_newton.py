r"""The generalised Gauss–Newton matrix of a loss with a convex output loss (Schraudolph 2002).

.. math:: G = J^\top H_{out} J, \qquad J = \partial z/\partial θ, \quad H_{out} = \partial^2 ℓ/\partial z^2

z are the outputs and ℓ is their loss, L(θ) = ℓ(z(θ)). The Hessian is G plus the curvature of the model,
weighted by the residuals. G is positive semidefinite if ℓ is convex in z, and equal to H if z is linear in θ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foreshock.operators.base import Closing
from foreshock.operators.cost import GRAPH_PASSES, PRODUCT_PASSES
from foreshock.operators.loss import LossTerm, evaluate, reaches, require_dependence, twice_differentiable
from foreshock.vectors import flatten, split


class GaussNewtonOperator(Closing):
    """The generalised Gauss–Newton matrix, by reverse mode only.

    Jv is computed as the derivative of u ↦ Jᵀu along v, by two vector-Jacobian products, because forward mode
    is silently wrong through some normalisation layers. The graph is kept until `close`. Cost: about 2 F
    for the graphs.

    Args:
        outputs_fn: Returns the outputs z, a tensor of any shape. It is called once, here.
        loss_of_outputs: z ↦ ℓ, a scalar. It must be convex for G to be positive semidefinite.
        parameters: The tensors to differentiate with respect to.
        eager: Run compiled modules uncompiled.

    Raises:
        TypeError: If the outputs or their loss are not tensors.
        ValueError: If the loss is not a scalar, or the outputs do not depend on any of `parameters`.

    Example:
        >>> x = torch.nn.Parameter(torch.tensor([3.0]))
        >>> with GaussNewtonOperator(lambda: x**2, lambda z: (z**2).sum() / 2, [x]) as matrix:
        ...     matrix(torch.tensor([1.0]))
        tensor([36.])
    """

    backend = "Gauss-Newton"

    def __init__(
        self,
        outputs_fn: Callable[[], Tensor],
        loss_of_outputs: Callable[[Tensor], Tensor],
        parameters: Sequence[Tensor],
        *,
        eager: bool = False,
    ) -> None:
        self.products = 0
        # Measured within a third of the Hessian's, graph and product alike.
        self.passes = GRAPH_PASSES
        self._parameters = tuple(parameters)
        with twice_differentiable(eager=eager):
            # Weights that autocast cast in an earlier evaluation belong to that evaluation's graph.
            torch.clear_autocast_cache()
            outputs = outputs_fn()
            if not isinstance(outputs, Tensor):
                raise TypeError(
                    f"outputs_fn returned {type(outputs).__name__}; it must return the model's outputs as "
                    "one tensor (for a transformers model: model(**batch).logits)"
                )
            # ℓ is differentiated from a leaf, so that its second derivative stops at z: H_out, not H.
            cut = outputs.detach().requires_grad_()
            loss = evaluate(LossTerm(lambda: loss_of_outputs(cut)))
            (slope,) = torch.autograd.grad(loss, cut, create_graph=True)
            # u ↦ Jᵀu is linear, so its derivative does not depend on the u at which its graph is built.
            weights = torch.zeros_like(outputs, requires_grad=True)
            pulled = _pull(outputs, self._parameters, weights)
            require_dependence(reached=reaches(pulled))
            gradients = _pull(outputs, self._parameters, slope.detach())
        self.loss = loss.detach()
        self.gradient = flatten(gradients, self._parameters)
        self._graph: _Graph | None = _Graph(outputs, cut, slope, weights, pulled)

    def __call__(self, vector: Tensor) -> Tensor:
        """Return G·vector. Cost: under 2 F.

        Args:
            vector: Shape (n,).

        Raises:
            RuntimeError: If the operator was closed.
        """
        if self._graph is None:
            raise RuntimeError("the graph was freed by close(); build a new operator")
        self.products += 1
        self.passes += PRODUCT_PASSES
        graph, parts = self._graph, split(vector, self._parameters)
        # A linear output loss has no curvature, and its slope no graph.
        if not graph.slope.requires_grad:
            return torch.zeros_like(vector)
        used = [(pull, part) for pull, part in zip(graph.pulled, parts, strict=True) if pull is not None]
        with twice_differentiable():
            (tangent,) = torch.autograd.grad(
                [pull for pull, _ in used],
                graph.weights,
                [part.to(pull.dtype) for pull, part in used],
                retain_graph=True,
            )
            (curved,) = torch.autograd.grad(graph.slope, graph.cut, tangent, retain_graph=True)
            product = _pull(graph.outputs, self._parameters, curved)
        return flatten(product, self._parameters)

    def close(self) -> None:
        """Free the graph."""
        self._graph = None


@dataclass(frozen=True)
class _Graph:
    """z (`outputs`), its leaf (`cut`), ∂ℓ/∂z there (`slope`), u (`weights`) and Jᵀu (`pulled`)."""

    outputs: Tensor
    cut: Tensor
    slope: Tensor
    weights: Tensor
    pulled: tuple[Tensor | None, ...]


def _pull(outputs: Tensor, parameters: Sequence[Tensor], weights: Tensor) -> tuple[Tensor | None, ...]:
    """Return Jᵀ·weights, differentiable with respect to `weights` if they require a gradient."""
    return torch.autograd.grad(
        outputs,
        parameters,
        weights,
        retain_graph=True,
        create_graph=weights.requires_grad,
        allow_unused=True,
    )
