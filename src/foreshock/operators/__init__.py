"""Symmetric linear operators on flat vectors: Hessians of a loss, and their preconditioned form.

An operator maps a vector of shape (n,) to one of shape (n,) and counts its products. The unit of cost is
F, one forward and backward pass of the model on the same batch. `HessianOperator` is exact,
`DifferenceOperator` also works for models that cannot be differentiated twice, and `choose_backend` decides
between the two and gives its reason.
"""

from __future__ import annotations

from foreshock.operators.backend import BackendChoice, choose_backend, hessian_operator
from foreshock.operators.base import LinearOperator, LossOperator
from foreshock.operators.differences import DifferenceOperator, DifferenceScheme
from foreshock.operators.gauss_newton import GaussNewtonOperator
from foreshock.operators.gradients import Evaluation, GradientFunction, displaced
from foreshock.operators.hessian import HessianOperator
from foreshock.operators.loss import Loss, LossTerm, normalised_terms
from foreshock.operators.preconditioned import PreconditionedOperator
from foreshock.operators.reduced import ReducedOperator

__all__ = [
    "BackendChoice",
    "DifferenceOperator",
    "DifferenceScheme",
    "Evaluation",
    "GaussNewtonOperator",
    "GradientFunction",
    "HessianOperator",
    "LinearOperator",
    "Loss",
    "LossOperator",
    "LossTerm",
    "PreconditionedOperator",
    "ReducedOperator",
    "choose_backend",
    "displaced",
    "hessian_operator",
    "normalised_terms",
]
