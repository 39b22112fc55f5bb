"""The curvature that a mini-batch shows along its own gradient, and the level of v and g² in each block."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from foreshock.curvature import LossFunction, loss_terms
from foreshock.isolation import isolated
from foreshock.operators import BackendChoice, PreconditionedOperator, choose_backend, hessian_operator
from foreshock.preconditioner import Preconditioner
from foreshock.vectors import rayleigh_quotient

BLOCKS = 4
"""How many blocks are followed: the largest tensors."""


class BatchDirection:
    """Measure gᵀĤg/‖g‖²·η/2 on the batch of each step. Cost: 5 F.

    Args:
        model: The model.
        loss_fn: ``loss_fn(model, batch)`` → mean loss, a scalar tensor.
    """

    def __init__(self, model: nn.Module, loss_fn: LossFunction) -> None:
        self._model, self._loss_fn = model, loss_fn
        self._backend: BackendChoice | None = None

    def measure(self, batch: Any, preconditioner: Preconditioner) -> float:
        """Return the ratio for the step about to be taken; one is the edge of the full batch.

        Args:
            batch: The batch of this step.
            preconditioner: The step.
        """
        loss = loss_terms(self._model, self._loss_fn, batch)
        parameters = preconditioner.parameters
        gradient, root = preconditioner.gradient(), preconditioner.scale_root()
        with isolated(self._model):
            if self._backend is None:
                self._backend = choose_backend(loss, parameters, model=self._model)
            with hessian_operator(self._backend, loss, parameters, model=self._model) as hessian:
                operator = PreconditionedOperator(
                    hessian, root, shift=preconditioner.coupled_decay(), sign=preconditioner.sign
                )
                return rayleigh_quotient(gradient, operator.curvature(gradient) * root**2)


def block_levels(model: nn.Module, optimizer: Optimizer) -> dict[str, float]:
    """Return the means of v and of g² over the largest tensors, between ``backward()`` and ``step()``.

    v is that before the step, without bias correction.

    Args:
        model: The model.
        optimizer: Adam or AdamW over its parameters.

    Returns:
        ``v:NAME`` and ``g:NAME`` for each tensor; nothing before the first step.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.grad is not None]
    largest = sorted(named, key=lambda pair: -pair[1].numel())[:BLOCKS]
    levels = {}
    with torch.no_grad():
        for name, parameter in largest:
            state = optimizer.state.get(parameter, {})
            if "exp_avg_sq" in state and parameter.grad is not None:
                levels[f"v:{name}"] = float(state["exp_avg_sq"].mean())
                levels[f"g:{name}"] = float(parameter.grad.square().mean())
    return levels
