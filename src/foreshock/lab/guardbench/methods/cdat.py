r"""CDAT, a learning rate that follows the curvature along the update.

.. math:: η_t = σ\,\frac{\bar n_t}{\bar d_t}, \qquad n_t = \max(-g^\top u, 0), \quad d_t = |u^\top H u| + ε

with u the update at η = 1 and running means of weight .9. Roulet et al. 2024, *Stepping on the Edge:
Curvature Aware Learning Rate Tuners*, arXiv 2407.06183; σ = 2 steps on the edge. Cost: one product with the
Hessian a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from foreshock.lab.guardbench.methods.method import Method, Plain, Subject
from foreshock.preconditioner import read_preconditioner
from foreshock.vectors import flatten, split

SIGMA = 2.0  # on the edge
WEIGHT = 0.9
EPS = 1e-12  # only where the curvature along the update vanishes
PASSES = 5.0
"""A graph of the Hessian is 3 forward and backward passes, a product 2."""


class CurvatureRate(Plain):
    """Set the learning rate of every step.

    Args:
        subject: What is trained.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._along, self._curved = 0.0, 0.0
        self.passes = 0.0

    def before_step(self, batch: Any, loss: float) -> None:
        """Measure, and set the rate."""
        del loss
        optimizer = self._subject.optimizer
        rate = float(optimizer.param_groups[0]["lr"])
        for group in optimizer.param_groups:
            group["lr"] = 1.0
        preconditioner = read_preconditioner(optimizer)
        move = preconditioner.displacement()
        along = max(-float(preconditioner.gradient() @ move), 0.0)
        curved = abs(self._curvature(batch, preconditioner.parameters, move)) + EPS
        self._along += (1 - WEIGHT) * (along - self._along)
        self._curved += (1 - WEIGHT) * (curved - self._curved)
        found = SIGMA * self._along / self._curved
        for group in optimizer.param_groups:
            group["lr"] = found if found < float("inf") else rate
        self.passes += PASSES

    def after_step(self) -> bool:
        """Return that the rate was set."""
        return True

    def _curvature(self, batch: Any, parameters: Sequence[Tensor], move: Tensor) -> float:
        loss = self._subject.loss_fn(self._subject.model, batch)
        gradient = torch.autograd.grad(loss, parameters, create_graph=True)
        along = split(move, parameters)
        parts = [(one * part).sum() for one, part in zip(gradient, along, strict=True)]
        slope = torch.stack(parts).sum()
        product = torch.autograd.grad(slope, parameters, allow_unused=True)
        return float(flatten(product, parameters) @ move)


CDAT = Method(
    "cdat",
    "own",
    "Roulet et al. 2024",
    "σ = 2; the task's learning rate and schedule do not matter",
    intervene=CurvatureRate,
    code=(__name__,),
)
