"""What the tests of the readers share: real steps to compare a prediction with."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn, optim

from foreshock.preconditioner import as_optimizers, read_preconditioner, unwrap


def parameters() -> list[nn.Parameter]:
    """Return a matrix, a vector, a scalar and a stack of matrices."""
    shapes = [(3, 4), (5,), (), (2, 3, 2)]
    return [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in shapes]


def moving(optimizers: optim.Optimizer | Sequence[optim.Optimizer]) -> list[Tensor]:
    return [
        p for one in as_optimizers(optimizers) for group in unwrap(one).param_groups for p in group["params"]
    ]


def set_gradients(parameters: Sequence[Tensor], scale: float) -> None:
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter).detach() * scale


def predicted(optimizers: Any, **options: float) -> list[Tensor]:
    """Return the displacement of every parameter in the step about to be taken."""
    active = read_preconditioner(optimizers, **options).active
    return [step.displacement(p) for step, p in zip(active, moving(optimizers), strict=True)]


def largest_error(optimizers: Any, *, steps: int) -> float:
    """Return the largest difference of predicted and real displacement over some steps.

    The gradients vary in size, so that moments, maxima and clipping all come into play.
    """
    worst = 0.0
    for step in range(steps):
        set_gradients(moving(optimizers), scale=10.0 ** (step % 3 - 1))
        before = [p.detach().clone() for p in moving(optimizers)]
        changes = predicted(optimizers)
        for one in as_optimizers(optimizers):
            one.step()
        for old, new, change in zip(before, moving(optimizers), changes, strict=True):
            worst = max(worst, float((new.detach() - old - change).abs().max()))
    return worst


def snapshot(optimizer: optim.Optimizer) -> tuple[Any, list[Tensor | None], list[int]]:
    """Return copies of state, options, parameters and gradients, and the version of every tensor."""
    tensors = [t for p in moving(optimizer) for t in (p, p.grad, *unwrap(optimizer).state[p].values())]
    tensors = [t for t in tensors if isinstance(t, Tensor)]
    options = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    return (
        copy.deepcopy(options),
        [t.detach().clone() for t in tensors],
        [t._version for t in tensors],
    )


def same(before: tuple[Any, ...], after: tuple[Any, ...]) -> bool:
    tensors = zip(before[1], after[1], strict=True)
    return (
        before[0] == after[0] and before[2] == after[2] and all(torch.equal(old, new) for old, new in tensors)
    )
