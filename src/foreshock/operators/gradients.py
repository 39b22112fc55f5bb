"""The gradient of a loss as training computes it, and displaced parameters that come back bit by bit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foreshock.isolation import Replay
from foreshock.operators.graph import leaves
from foreshock.operators.loss import LossTerm, evaluate, require_dependence
from foreshock.vectors import accumulate, flatten, local, split


@dataclass(frozen=True)
class Evaluation:
    """A loss and its gradient at one point.

    Attributes:
        loss: A scalar tensor without graph.
        gradient: Shape (n,).
    """

    loss: Tensor
    gradient: Tensor


class GradientFunction:
    """Evaluate a loss and its gradient at the present parameters, from the same random numbers each time.

    ``backward()`` works where `torch.autograd.grad` does not: reentrant checkpointing, sharded parameters.
    ``.grad`` of whatever the loss depends on is put back, by identity. Where a parameter has a hook that runs
    after accumulation (an optimizer that steps inside ``backward()``), `torch.autograd.grad` is used instead:
    it runs no such hook.

    Args:
        terms: The loss, weights adding up to one.
        parameters: The tensors to differentiate by.
        model: The model behind the loss; None if `parameters` is all that the loss depends on.
    """

    def __init__(
        self, terms: Sequence[LossTerm], parameters: Sequence[Tensor], model: nn.Module | None
    ) -> None:
        self._terms = tuple(terms)
        self._parameters = tuple(parameters)
        others = () if model is None else tuple(model.parameters())
        self._leaves = tuple(dict.fromkeys((*self._parameters, *others)))
        self._replay = Replay(model, self._parameters)

    def __call__(self) -> Evaluation:
        """Return the loss and its gradient. Cost: 1 F.

        Raises:
            TypeError: If the loss is not a tensor.
            ValueError: If the loss is not a scalar, or does not depend on the parameters.
        """
        saved = {leaf: leaf.grad for leaf in self._leaves}
        losses, gradient = [], flatten([None] * len(self._parameters), self._parameters)
        reached: list[Tensor | None] = []
        try:
            with torch.enable_grad(), self._replay():
                for term in self._terms:
                    loss = evaluate(term)
                    # A head or a second network that is no part of the model.
                    saved.update({leaf: leaf.grad for leaf in leaves(loss) if leaf not in saved})
                    parts = self._differentiate(loss, saved)
                    reached += parts
                    losses.append(loss.detach() * term.weight)
                    accumulate(gradient, parts, self._parameters, weight=term.weight)
        finally:
            for leaf, grad in saved.items():
                leaf.grad = grad
            # Casts of displaced weights must not outlive the displacement.
            torch.clear_autocast_cache()
        require_dependence(reached)
        return Evaluation(torch.stack(losses).sum(), gradient)

    def _differentiate(self, loss: Tensor, affected: Iterable[Tensor]) -> list[Tensor | None]:
        if any(getattr(leaf, "_post_accumulate_grad_hooks", None) for leaf in affected):
            return list(torch.autograd.grad(loss, self._parameters, allow_unused=True))
        for leaf in affected:
            leaf.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        return [parameter.grad for parameter in self._parameters]


@contextmanager
def displaced(parameters: Sequence[Tensor], vector: Tensor, *, by: float) -> Iterator[None]:
    """Move parameters by a multiple of a vector; afterwards they are as before, bit by bit.

    Version counters do not move either: a graph that the user keeps stays valid, and right.

    Args:
        parameters: The tensors to move, in place.
        vector: Direction, shape (n,).
        by: Multiple of it.

    Yields:
        Nothing; the parameters are displaced inside of the ``with`` block.
    """
    saved = [local(parameter).detach().clone() for parameter in parameters]
    try:
        for parameter, old, part in zip(parameters, saved, split(vector, parameters), strict=True):
            local(parameter).data.copy_(old.to(part.dtype).add(part, alpha=by))
        yield
    finally:
        for parameter, old in zip(parameters, saved, strict=True):
            local(parameter).data.copy_(old)
