"""Hessians that are known on paper, and another library's."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

import foreshock
from cases import DETERMINISTIC
from foreshock.operators import DifferenceOperator, GaussNewtonOperator, HessianOperator

TIGHT = foreshock.StoppingRule(1e-12, 200)


def design(rows: int = 40, columns: int = 6) -> torch.Tensor:
    return torch.randn(rows, columns, dtype=torch.float64)


def matrix_of(operator, size: int) -> torch.Tensor:
    return torch.stack([operator(unit) for unit in torch.eye(size, dtype=torch.float64)])


def test_linear_regression_has_the_hessian_of_its_design():
    """L = ‖Xw − y‖²/n has H = 2XᵀX/n, whatever w and y."""
    x, y = design(), torch.randn(40, 1, dtype=torch.float64)
    model = nn.Linear(6, 1, bias=False).double()
    expected = 2 * x.T @ x / 40
    loss = lambda: functional.mse_loss(model(x), y)  # noqa: E731
    with HessianOperator(loss, list(model.parameters())) as hessian:
        assert torch.allclose(matrix_of(hessian, 6), expected, rtol=1e-12)
    found = foreshock.sharpness(
        model, lambda model, batch: functional.mse_loss(model(batch[0]), batch[1]), (x, y), stop=TIGHT
    )
    assert found.value == pytest.approx(float(torch.linalg.eigvalsh(expected)[-1]), rel=1e-10)


def test_logistic_regression_has_its_weighted_design():
    """H = Xᵀ diag(p(1 − p)) X/n; the loss is convex in the logits, so Gauss–Newton is the same matrix."""
    x, y = design(), torch.randint(2, (40, 1)).double()
    model = nn.Linear(6, 1, bias=False).double()
    parameters = list(model.parameters())
    probability = torch.sigmoid(model(x)).detach()
    expected = x.T @ (probability * (1 - probability) * x) / 40
    loss_of = lambda logits: functional.binary_cross_entropy_with_logits(logits, y)  # noqa: E731
    with HessianOperator(lambda: loss_of(model(x)), parameters) as hessian:
        assert torch.allclose(matrix_of(hessian, 6), expected, rtol=1e-10, atol=1e-14)
    with GaussNewtonOperator(lambda: model(x), loss_of, parameters) as gauss_newton:
        assert torch.allclose(matrix_of(gauss_newton, 6), expected, rtol=1e-10, atol=1e-14)
    with DifferenceOperator(lambda: loss_of(model(x)), parameters) as differences:
        # Central differences in float64 at ρ = 2ε^{1/3}: truncation ρ², rounding ε/ρ, both about 1e-10.
        assert torch.allclose(matrix_of(differences, 6), expected, rtol=1e-7, atol=1e-9)


def test_softmax_regression_has_its_kronecker_form():
    """For one example, H = (diag p − ppᵀ) ⊗ xxᵀ in the row-major order of the weight."""
    x = torch.randn(1, 4, dtype=torch.float64)
    model = nn.Linear(4, 3, bias=False).double()
    p = torch.softmax(model(x), dim=1).detach().squeeze()
    expected = torch.kron(torch.diag(p) - torch.outer(p, p), torch.outer(x[0], x[0]))
    loss = lambda: functional.cross_entropy(model(x), torch.tensor([1]))  # noqa: E731
    with HessianOperator(loss, list(model.parameters())) as hessian:
        assert torch.allclose(matrix_of(hessian, 12), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("case", [case for case in DETERMINISTIC if case.name != "transformer"])
def test_curvlinops_computes_the_same_products(case):
    curvlinops = pytest.importorskip("curvlinops")
    model, (inputs, targets) = case.build()
    loss_of = nn.MSELoss() if case.name == "mlp" else nn.CrossEntropyLoss()
    parameters = dict(model.named_parameters())
    theirs = curvlinops.HessianLinearOperator(model, loss_of, list(parameters.values()), [(inputs, targets)])
    with HessianOperator(lambda: loss_of(model(inputs), targets), list(parameters.values())) as hessian:
        vector = torch.randn(sum(p.numel() for p in parameters.values()), dtype=torch.float64)
        assert torch.allclose(hessian(vector), theirs @ vector, rtol=1e-9, atol=1e-12)
