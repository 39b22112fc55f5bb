"""The gradient of a loss as training computes it, and a displacement of parameters that is undone exactly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foreshock.isolation import RandomState, Replay
from foreshock.operators.graph import leaves
from foreshock.operators.loss import LossTerm, evaluate, reaches, require_dependence
from foreshock.vectors import accumulate, aligned, flatten, local, split


@dataclass(frozen=True)
class Evaluation:
    """A loss and its gradient at one point.

    Attributes:
        loss: A scalar tensor without a graph.
        gradient: Shape (n,).
    """

    loss: Tensor
    gradient: Tensor


class GradientFunction:
    """Evaluate a loss and its gradient at the present parameters, from the same random numbers each time.

    The gradient is computed by ``backward()``, which works where `torch.autograd.grad` does not: with
    reentrant checkpointing and with sharded parameters. Every ``.grad`` that it writes to is restored. If a
    parameter has a hook that runs after accumulation (an optimizer that steps inside ``backward()``),
    `torch.autograd.grad` is used instead, because it does not run such hooks.

    Args:
        terms: The loss; the weights add up to one.
        parameters: The tensors to differentiate with respect to.
        model: The model that the loss evaluates; None if the loss depends on nothing but `parameters`.

    Example:
        >>> x = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> gradient_at = GradientFunction([LossTerm(lambda: (x**2).sum())], [x], None)
        >>> gradient_at().gradient
        tensor([2., 4.])
    """

    def __init__(
        self, terms: Sequence[LossTerm], parameters: Sequence[Tensor], model: nn.Module | None
    ) -> None:
        self._terms = tuple(terms)
        self._parameters = tuple(parameters)
        self._replay = Replay(model, self._parameters)
        # By identity: a tensor's own hash takes ten times as long.
        self._leaves = {id(one): one for one in (*self._parameters, *self._replay.parameters)}

    @property
    def start(self) -> RandomState:
        """The random numbers that each evaluation starts from."""
        return self._replay.start

    def __call__(self) -> Evaluation:
        """Return the loss and its gradient. Cost: 1 F.

        Raises:
            TypeError: If the loss is not a tensor.
            ValueError: If the loss is not a scalar, or does not depend on the parameters.
        """
        # By identity, not content: .grad is set to None below, so that backward() makes a new tensor.
        affected = self._leaves.copy()
        saved = [(leaf, leaf.grad) for leaf in affected.values()]
        losses: list[Tensor] = []
        gradient: Tensor | None = None
        reached = False  # and no list of the gradients, or they would take a vector for each term
        try:
            with torch.enable_grad(), self._replay():
                for term in self._terms:
                    loss = evaluate(term)
                    # backward() also writes to leaves outside of the model, such as a head or a second
                    # network.
                    for leaf in leaves(loss):
                        if id(leaf) not in affected:
                            affected[id(leaf)] = leaf
                            saved.append((leaf, leaf.grad))
                    parts = self._differentiate(loss, affected.values())
                    reached |= reaches(parts)
                    losses.append(loss.detach() * term.weight)
                    if gradient is None:
                        gradient = flatten(parts, self._parameters)
                        if term.weight != 1:
                            gradient.mul_(term.weight)
                    else:
                        accumulate(gradient, parts, self._parameters, weight=term.weight)
                    del parts, loss
        finally:
            for leaf, grad in saved:
                leaf.grad = grad
            # autocast caches casts of the weights; those of displaced weights must not reach training.
            torch.clear_autocast_cache()
        require_dependence(reached=reached)
        if gradient is None:  # of no term at all
            gradient = flatten([None] * len(self._parameters), self._parameters)
        return Evaluation(torch.stack(losses).sum(), gradient)

    def _differentiate(self, loss: Tensor, affected: Iterable[Tensor]) -> list[Tensor | None]:
        if any(getattr(leaf, "_post_accumulate_grad_hooks", None) for leaf in affected):
            found: Sequence[Tensor | None] = torch.autograd.grad(loss, self._parameters, allow_unused=True)
        else:
            for leaf in affected:
                leaf.grad = None
            loss.backward()  # type: ignore[no-untyped-call]
            found = [parameter.grad for parameter in self._parameters]
        return list(aligned(found, self._parameters))


@contextmanager
def displaced(parameters: Sequence[Tensor], vector: Tensor, *, by: float) -> Iterator[None]:
    """Displace parameters by a multiple of a vector for the time of a block, then restore them bit by bit.

    Version counters do not change: a graph that the user keeps stays valid, and correct afterwards.

    Args:
        parameters: The tensors to displace, in place.
        vector: Direction, shape (n,).
        by: Multiple of it.

    Yields:
        Nothing; the parameters are displaced inside of the ``with`` block.

    Example:
        >>> x = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> with displaced([x], torch.tensor([1.0, 0.0]), by=0.5):
        ...     x.tolist()
        [1.5, 2.0]
        >>> x.tolist()
        [1.0, 2.0]
    """
    # Subtracting what was added would not restore the bits. `.data` keeps the version counters as they are.
    saved = [local(parameter).detach().clone() for parameter in parameters]
    try:
        for parameter, old, part in zip(parameters, saved, split(vector, parameters), strict=True):
            local(parameter).data.copy_(old.to(part.dtype).add(part, alpha=by))
        yield
    finally:
        for parameter, old in zip(parameters, saved, strict=True):
            local(parameter).data.copy_(old)
