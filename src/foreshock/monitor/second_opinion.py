"""Loss and gradient of a batch as training computes them, and whether they are random."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreshock.curvature import loss_terms
from foreshock.isolation import RandomState, isolated
from foreshock.monitor.subject import Subject
from foreshock.operators import Evaluation, GradientFunction, LossTerm, normalised_terms

# Relative differences of two evaluations; smaller ones are the order of summation on an accelerator.
_RANDOM_LOSS, _RANDOM_GRADIENT = 1e-5, 1e-3


def evaluate_again(subject: Subject, parameters: Sequence[Tensor], batch: Any) -> tuple[Evaluation, bool]:
    """Return loss and gradient of `loss_fn` on a batch, and whether they depend on random numbers.

    The model is left as it was. Cost: 2 F.

    Args:
        subject: What is watched; it has a `loss_fn`.
        parameters: The tensors to differentiate with respect to.
        batch: The batch.

    Raises:
        ValueError: If there is no `loss_fn`.
    """
    model, loss_fn = subject.model, subject.loss_fn
    if loss_fn is None:
        raise ValueError("without a loss_fn there is nothing to evaluate")
    on = [*model.parameters(), *model.buffers()]
    watch = _DrawWatch(on)
    terms = [
        replace(term, closure=watch.watching(term))
        for term in normalised_terms(loss_terms(model, loss_fn, batch))
    ]
    with isolated(model, loss_fn):
        # Without the model: buffers stay as the first evaluation leaves them, so that a loss that depends on
        # buffers which it moves counts as random too.
        first = GradientFunction(terms, parameters, None)()
        _advance_generators(on)
        second = GradientFunction(terms, parameters, None)()
    return first, watch.drew or _differ(first, second)


class _DrawWatch:
    """Notice whether a loss draws random numbers: two equal values don't prove that it draws none."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tensors
        self.drew = False

    def watching(self, term: LossTerm) -> Callable[[], Tensor]:
        """Return the closure of a term, watched."""

        def closure() -> Tensor:
            before = RandomState.capture(self._tensors)
            loss = term.closure()
            self.drew |= _moved(before, RandomState.capture(self._tensors))
            return loss

        return closure


def _moved(one: RandomState, other: RandomState) -> bool:
    if one.python != other.python or not torch.equal(one.torch_cpu, other.torch_cpu):
        return True
    if any(not torch.equal(state, other.torch_cuda[index]) for index, state in one.torch_cuda.items()):
        return True
    return one.numpy[2:] != other.numpy[2:] or bool((one.numpy[1] != other.numpy[1]).any())


def _advance_generators(tensors: Sequence[Tensor]) -> None:
    """Draw from each generator, inside of `isolated`: what follows are other random numbers."""
    for device in {tensor.device for tensor in tensors} | {torch.device("cpu")}:
        torch.rand(7, device=device)
    random.random()  # noqa: S311 - to move the generator on
    np.random.random(7)


def _differ(one: Evaluation, other: Evaluation) -> bool:
    first, second = float(one.loss), float(other.loss)
    apart = float(torch.linalg.vector_norm(other.gradient - one.gradient))
    size = float(torch.linalg.vector_norm(one.gradient))
    return (
        abs(second - first) > _RANDOM_LOSS * max(abs(first), abs(second)) or apart > _RANDOM_GRADIENT * size
    )
