r"""GradientStabilizer: keep the direction of a tensor's gradient, replace its norm by the norm's history.

With the norm R of a tensor's gradient and its running means
:math:`m ← γ_1 m + (1-γ_1) R` and :math:`v ← γ_2 v + (1-γ_2) R^2`,

.. math:: \tilde g = \frac{\hat m}{\sqrt{\hat v} + ε}\,\frac{g}{R}.

Huang et al. 2026, *GradientStabilizer: Fix the Norm, Not the Gradient*, arXiv 2502.17055, version 4,
algorithm 1, with the γ₁ = .6 and γ₂ = .999 of all its experiments. As in its authors' code, in the
repository TianjinYellow/GradientStabilizer, each tensor has a norm of its own, the means are corrected for
their bias, ε is 1e-12, and a gradient whose norm is zero or not finite is left as it is and not
remembered.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from foreshock.lab.guardbench.methods.method import Method, Plain, Subject

FIRST, SECOND = 0.6, 0.999  # γ₁, γ₂
TINY = 1e-12  # ε


class NormHistory:
    """The running means of one tensor's gradient norm."""

    def __init__(self) -> None:
        self._steps, self._mean, self._square = 0, 0.0, 0.0

    def __call__(self, norm: float) -> float:
        """Take a norm into account, and return the one that replaces it.

        Args:
            norm: The norm, positive and finite.
        """
        self._steps += 1
        self._mean += (1 - FIRST) * (norm - self._mean)
        self._square += (1 - SECOND) * (norm**2 - self._square)
        mean = self._mean / (1 - FIRST**self._steps)
        square = self._square / (1 - SECOND**self._steps)
        return mean / (math.sqrt(square) + TINY)


class GradientStabilizer(Plain):
    """Replace the norm of each tensor's gradient.

    Args:
        subject: What is trained.
    """

    def __init__(self, subject: Subject) -> None:
        groups = subject.optimizer.param_groups
        parameters: list[Tensor] = [parameter for group in groups for parameter in group["params"]]
        self._histories = [(parameter, NormHistory()) for parameter in parameters]
        self._replaced = False

    @torch.no_grad()
    def before_step(self, batch: Any, loss: float) -> None:
        """Scale the gradients."""
        del batch, loss
        self._replaced = False
        for parameter, history in self._histories:
            if parameter.grad is None:
                continue
            norm = float(parameter.grad.norm())
            if 0 < norm < math.inf:
                parameter.grad.mul_(history(norm) / norm)
                self._replaced = True

    def after_step(self) -> bool:
        """Return whether a norm was replaced."""
        return self._replaced


STABILIZER = Method(
    "gradient-stabilizer",
    "own",
    "Huang et al. 2026",
    "γ₁ .6 and γ₂ .999, each tensor by itself, as in its authors' code",
    intervene=GradientStabilizer,
    code=(__name__,),
)
