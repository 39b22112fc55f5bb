"""The generalised Gauss–Newton matrix against JᵀHJ, against the Hessian of linear models, and its sign."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from cases import CASES, DETERMINISTIC
from foreshock.operators import GaussNewtonOperator
from oracles import dense_hessian, dense_jacobian


def parts_of(case, model, batch):
    """Return outputs_fn and loss_of_outputs of a case."""
    if case.loss_fn.__name__ == "mean_squared_error":
        return (lambda: model(batch[0])), (lambda z: functional.mse_loss(z, batch[1]))
    return (
        lambda: model(batch[0]),
        lambda z: functional.cross_entropy(z.flatten(0, -2), batch[1].flatten()),
    )


def dense_gauss_newton(outputs_fn, loss_of_outputs, parameters):
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        jacobian = dense_jacobian(outputs_fn, parameters)
        cut = outputs_fn().detach().requires_grad_()
    return jacobian.T @ dense_hessian(lambda: loss_of_outputs(cut), [cut]) @ jacobian


@pytest.mark.parametrize("case", DETERMINISTIC, ids=lambda case: case.name)
def test_product_is_that_of_the_dense_matrix(case):
    model, batch = case.build()
    parameters = list(model.parameters())
    outputs_fn, loss_of_outputs = parts_of(case, model, batch)
    dense = dense_gauss_newton(outputs_fn, loss_of_outputs, parameters)
    with GaussNewtonOperator(outputs_fn, loss_of_outputs, parameters) as matrix:
        for _ in range(2):
            vector = torch.randn(dense.shape[0], dtype=torch.float64)
            assert torch.allclose(matrix(vector), dense @ vector, rtol=1e-8, atol=1e-11)
        assert matrix.products == 2
        loss = case.loss_fn(model, batch)
        gradient = torch.autograd.grad(loss, parameters)
        assert float(matrix.loss) == pytest.approx(loss.item(), rel=1e-12)
        assert torch.allclose(matrix.gradient, torch.cat([g.flatten() for g in gradient]), rtol=1e-10)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_quadratic_form_is_never_negative(case):
    model, batch = case.build()
    parameters = list(model.parameters())
    n = sum(p.numel() for p in parameters)
    with GaussNewtonOperator(*parts_of(case, model, batch), parameters) as matrix:
        assert all(float(vector @ matrix(vector)) >= 0 for vector in torch.randn(20, n, dtype=torch.float64))


def test_a_linear_model_has_its_hessian():
    model = nn.Linear(4, 3).double()
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.randint(3, (6,))
    parameters = list(model.parameters())
    dense = dense_hessian(lambda: functional.cross_entropy(model(x), y), parameters)
    with GaussNewtonOperator(
        lambda: model(x), lambda z: functional.cross_entropy(z, y), parameters
    ) as matrix:
        vector = torch.randn(15, dtype=torch.float64)
        assert torch.allclose(matrix(vector), dense @ vector, rtol=1e-10, atol=1e-12)


def test_a_linear_loss_and_unused_parameters_give_zeros():
    used, unused = (nn.Parameter(torch.ones(2)) for _ in range(2))
    with GaussNewtonOperator(lambda: used**2, torch.sum, [used, unused]) as matrix:
        assert matrix(torch.ones(4)).tolist() == [0, 0, 0, 0]
    with GaussNewtonOperator(lambda: used**2, lambda z: (z**2).sum(), [used, unused]) as matrix:
        assert matrix(torch.ones(4)).tolist() == [8, 8, 0, 0]


def test_what_is_wrong_is_said():
    weight = nn.Parameter(torch.ones(2))
    with pytest.raises(TypeError, match=r"outputs_fn returned dict.*logits"):
        GaussNewtonOperator(lambda: {"logits": weight}, torch.sum, [weight])
    with pytest.raises(ValueError, match="does not depend on any parameter"):
        GaussNewtonOperator(lambda: torch.ones(2, requires_grad=True) * 2, lambda z: (z**2).sum(), [weight])
    with GaussNewtonOperator(lambda: weight * 1, torch.sum, [weight]) as matrix:
        pass
    with pytest.raises(RuntimeError, match="freed by close"):
        matrix(torch.ones(2))
