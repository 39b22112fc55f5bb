r"""The largest eigenvalue of the Gauss–Newton part of the Hessian, plain or preconditioned.

.. math:: H = J^\top H_{out} J + \sum_i \frac{\partial ℓ}{\partial z_i}\,\nabla^2 z_i

z are the model's outputs and ℓ is their loss (Schraudolph 2002). If the first part, G, has nearly the same
λ_max as H, the sharpness comes from how strongly the outputs depend on the weights. If λ_max(H) is much
larger, it comes from the residuals and from the curvature of the model itself.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from foreshock.batches import MicroBatches
from foreshock.curvature.form import next_step, one_call_solve, symmetric_form, trained_parameters
from foreshock.curvature.measurement import Sharpness
from foreshock.curvature.one_call import names_of, one_call
from foreshock.distributed import ALONE
from foreshock.eigen import StoppingRule
from foreshock.failures import ProbeRefusedError
from foreshock.isolation import fresh, plain_module
from foreshock.operators import BackendChoice, GaussNewtonOperator, LinearOperator, ReducedOperator
from foreshock.preconditioner import as_optimizers, moving_parameters
from foreshock.vectors import is_sharded

_REASON = "the matrix is a product of Jacobians, which reverse mode has exactly"


def gauss_newton_sharpness(
    model: nn.Module,
    outputs_fn: Callable[[nn.Module, Any], Tensor],
    loss_of_outputs: Callable[[Tensor, Any], Tensor],
    batch: Any,
    *,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    count: int = 1,
    stop: StoppingRule | None = None,
) -> Sharpness:
    """Return λ_max of the generalised Gauss–Newton matrix G of a batch.

    Compare it with `sharpness` of the same loss: the difference is due to the curvature of the model itself.

    Cost: about 2 F for the graphs and under 2 F for each of about ten products; with an optimizer, 1 F more
    for the gradient.

    Args:
        model: The model; G is over all of its parameters that require a gradient, or over those of the
            optimizer.
        outputs_fn: ``outputs_fn(model, batch)`` → outputs z, one tensor of any shape.
        loss_of_outputs: ``loss_of_outputs(z, batch)`` → mean loss, a scalar tensor. It must be convex in z
            for G to be positive semidefinite.
        batch: One batch.
        optimizer: With it, the matrix is A^{1/2}GA^{1/2}, whose eigenvalues are multiples of the edge 2/η,
            for the step that the optimizer would take on this batch; None for G itself.
        count: How many of the largest eigenvalues to find, ≥ 1.
        stop: When they are accurate enough; by default at an estimated relative error of 0.5 %.

    Returns:
        The result for G; check its `converged`.

    Raises:
        TypeError: If outputs or loss are not tensors, the optimizer is not registered, or several batches
            were given.
        ValueError: If the loss is not a scalar, if the outputs do not depend on the model, or if `count` is
            below one.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> batch = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> found = gauss_newton_sharpness(
        ...     model, lambda model, batch: model(batch), lambda z, batch: (z**2).mean(), batch
        ... )
        >>> round(found.value, 4)
        4.0
    """
    if isinstance(batch, MicroBatches):
        raise TypeError(
            "gauss_newton_sharpness was given MicroBatches, but it measures one graph of outputs: pass one "
            "batch, or join the micro-batches into one"
        )
    own, model = functools.partial(fresh, batch), plain_module(model)

    def measured() -> Sequence[Tensor]:
        return trained_parameters(model) if optimizer is None else moving_parameters(as_optimizers(optimizer))

    with one_call(model, (outputs_fn, loss_of_outputs), batch, measured) as (joint, parameters):
        preconditioner = None
        if optimizer is not None:
            loss = lambda: loss_of_outputs(outputs_fn(model, own()), own())  # noqa: E731
            preconditioner = next_step(model, optimizer, loss, joint=joint)
            parameters = preconditioner.parameters
        if is_sharded(joint.whole(parameters)):
            raise ProbeRefusedError(
                "the Gauss-Newton matrix is not measured under tensor parallelism: use sharpness(), or "
                "measure a copy of the model that is in one process"
            )
        # No choice of backend: differences of gradients would give H, not G.
        outputs, loss_at = lambda: outputs_fn(model, own()), lambda z: loss_of_outputs(z, own())
        part = GaussNewtonOperator(outputs, loss_at, joint.whole(parameters))
        with part if joint is ALONE else ReducedOperator(part, joint) as matrix:
            form: LinearOperator = matrix
            if preconditioner is not None:
                form = symmetric_form(matrix, preconditioner)
            found = one_call_solve(form, parameters, count, stop, joint=joint)
        choice = BackendChoice(matrix.backend, _REASON, math.nan, verified=True)
        return Sharpness.of(found, choice, names_of(model, parameters, joint))
