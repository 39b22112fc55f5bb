"""What the measurements share: the step under study, the symmetric form of a matrix, a start vector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from foreshock.operators import (
    GradientFunction,
    LinearOperator,
    Loss,
    PreconditionedOperator,
    normalised_terms,
)
from foreshock.preconditioner import Preconditioner, as_optimizers, live_groups, read_preconditioner
from foreshock.vectors import split, vector_dtype


def symmetric_form(
    hessian: LinearOperator, preconditioner: Preconditioner, scale_root: Tensor | None = None
) -> PreconditionedOperator:
    """Return A^{1/2}HA^{1/2}, coupled weight decay and the sign of a maximizing optimizer included.

    Args:
        hessian: H, or another matrix in its place.
        preconditioner: The step about to be taken.
        scale_root: Diagonal of A^{1/2}, shape (n,), if the caller has computed it already.

    Raises:
        ValueError: If no step is linear in its gradient, or some groups maximize and others minimize.
    """
    return PreconditionedOperator(
        hessian,
        preconditioner.scale_root() if scale_root is None else scale_root,
        shift=preconditioner.coupled_decay(),
        sign=preconditioner.sign,
    )


def next_step(model: nn.Module, optimizer: Optimizer | Sequence[Optimizer], loss: Loss) -> Preconditioner:
    """Return the step that the optimizer would take on the gradient of this loss. Cost: 1 F.

    The gradient is left in ``.grad``: call this function inside `isolated`, which restores the user's.

    Args:
        model: The model.
        optimizer: Its live optimizer, or several.
        loss: The loss whose gradient the step uses.

    Raises:
        TypeError: If the loss is not a tensor, or an optimizer is not registered.
        ValueError: If the loss is not a scalar or does not depend on the parameters.
    """
    groups = [group for one in as_optimizers(optimizer) for group in live_groups(one)]
    parameters = [p for group in groups for p in group["params"] if p.requires_grad]
    gradient = GradientFunction(normalised_terms(loss), parameters, model)().gradient
    # Readers take the gradient from .grad, because D of step t contains g_t: torch adds it to v in step().
    for parameter, part in zip(parameters, split(gradient, parameters), strict=True):
        parameter.grad = part.to(parameter.dtype)
    return read_preconditioner(optimizer)


def trained_parameters(model: nn.Module) -> list[Tensor]:
    """Return the parameters of a model that require a gradient.

    Args:
        model: The model.

    Raises:
        ValueError: If there is none.
    """
    parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(
            "the model has no parameter that requires a gradient, so it has no Hessian: call "
            "requires_grad_() on the parameters to measure"
        )
    return parameters


def random_start(parameters: Sequence[Tensor]) -> Tensor:
    """Return a random vector to start an eigenvalue solver from, the same at each call, shape (n,).

    Args:
        parameters: The tensors that define its size, dtype and device.
    """
    # A generator of its own: the user's random numbers are not drawn from.
    generator = torch.Generator(parameters[0].device).manual_seed(0)
    size = sum(parameter.numel() for parameter in parameters)
    return torch.randn(size, generator=generator, dtype=vector_dtype(parameters), device=parameters[0].device)
