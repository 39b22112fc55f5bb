"""Hessian products against dense Hessians and finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from cases import CASES, DETERMINISTIC, Case
from foreshock.operators import HessianOperator, PreconditionedOperator
from oracles import dense_hessian, difference_hessian_product


def closure_of(case: Case, model: nn.Module, batch):
    return lambda: case.loss_fn(model, batch)


@pytest.mark.parametrize("case", DETERMINISTIC, ids=lambda case: case.name)
def test_product_is_that_of_the_dense_hessian(case):
    model, batch = case.build()
    parameters = list(model.parameters())
    closure = closure_of(case, model, batch)
    dense = dense_hessian(closure, parameters)
    with HessianOperator(closure, parameters) as hessian:
        for _ in range(3):
            vector = torch.randn(dense.shape[0], dtype=torch.float64)
            assert torch.allclose(hessian(vector), dense @ vector, rtol=1e-9, atol=1e-11)
        assert hessian.products == 3
        assert float(hessian.loss) == pytest.approx(closure().item())


@pytest.mark.parametrize("case", [c for c in CASES if c.smooth], ids=lambda case: case.name)
def test_product_is_the_derivative_of_the_gradient(case):
    model, batch = case.build()
    parameters = list(model.parameters())
    closure = closure_of(case, model, batch)
    vector = torch.randn(sum(p.numel() for p in parameters), dtype=torch.float64)
    expected = difference_hessian_product(closure, parameters, vector)
    with HessianOperator(closure, parameters) as hessian:
        # Truncation h²‖v‖³·D⁴L/6 and rounding 1e-16/h, with h = 1e-5 and ‖v‖ of about 20.
        error = torch.linalg.vector_norm(hessian(vector) - expected)
        assert float(error / torch.linalg.vector_norm(expected)) < 1e-6


def test_every_product_sees_the_same_dropout_mask():
    case = next(case for case in CASES if case.name == "cnn-batch-norm")
    model, batch = case.build()
    parameters = list(model.parameters())
    vector = torch.randn(sum(p.numel() for p in parameters), dtype=torch.float64)
    with HessianOperator(closure_of(case, model, batch), parameters) as hessian:
        first = hessian(vector)
        torch.rand(10)
        assert torch.equal(hessian(vector), first)


def test_unused_and_linear_parameters_have_zero_rows():
    curved, linear, unused = (nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(3))
    parameters = [linear, curved, unused]
    with HessianOperator(lambda: (curved**4).sum() + linear.sum(), parameters) as hessian:
        product = hessian(torch.ones(6, dtype=torch.float64))
        assert product.tolist() == [0, 0, 12, 12, 0, 0]
        assert hessian.gradient.tolist() == [1, 1, 4, 4, 0, 0]
    with HessianOperator(linear.sum, [linear]) as hessian:
        assert hessian(torch.ones(2, dtype=torch.float64)).tolist() == [0, 0]


def test_fused_attention_and_multihead_attention_are_differentiated_twice():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    x = torch.randn(2, 4, 8)
    parameters = list(layer.parameters())
    with HessianOperator(lambda: layer(x).square().mean(), parameters) as hessian:
        vector = torch.ones(sum(p.numel() for p in parameters))
        assert torch.isfinite(hessian(vector)).all()


def test_half_precision_parameters_get_float32_vectors():
    weight = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    with HessianOperator(lambda: (weight.float() ** 2).sum(), [weight]) as hessian:
        assert hessian(torch.ones(3)).dtype == torch.float32


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_preconditioned_operator_is_the_symmetric_form(sign):
    case = CASES[0]
    model, batch = case.build()
    parameters = list(model.parameters())
    closure = closure_of(case, model, batch)
    dense = sign * dense_hessian(closure, parameters)
    n = dense.shape[0]
    root, shift = torch.rand(n, dtype=torch.float64), torch.rand(n, dtype=torch.float64)
    expected = root[:, None] * (dense + torch.diag(shift)) * root[None, :]
    with HessianOperator(closure, parameters) as hessian:
        operator = PreconditionedOperator(hessian, root, shift=shift, sign=sign)
        vector = torch.randn(n, dtype=torch.float64)
        assert torch.allclose(operator(vector), expected @ vector, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("closure", "error", "message"),
    [
        (lambda p: 1.0, TypeError, "returned float; it must return the mean loss"),
        (lambda p: p * 2, ValueError, r"shape \(2,\); it must return the mean loss"),
        (lambda p: (p.detach() * 2).sum(), ValueError, "does not require a gradient"),
        (
            lambda p: functional.relu(torch.ones(1, requires_grad=True)).sum(),
            ValueError,
            "does not depend on any parameter",
        ),
    ],
)
def test_a_wrong_loss_is_refused_with_the_fix(closure, error, message):
    parameter = nn.Parameter(torch.ones(2))
    with pytest.raises(error, match=message):
        HessianOperator(lambda: closure(parameter), [parameter])


def test_a_closed_operator_says_so():
    parameter = nn.Parameter(torch.ones(2))
    hessian = HessianOperator(lambda: (parameter**2).sum(), [parameter])
    hessian.close()
    with pytest.raises(RuntimeError, match="freed by close"):
        hessian(torch.ones(2))
