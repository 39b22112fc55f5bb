"""Exact Hessian products against dense Hessians and finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cases import CASES, DETERMINISTIC
from foreshock.operators import DifferenceOperator, HessianOperator, LossTerm
from oracles import dense_hessian, difference_hessian_product


def built(case):
    model, batch = case.build()
    return model, list(model.parameters()), lambda: case.loss_fn(model, batch)


def random_vector(parameters):
    return torch.randn(sum(p.numel() for p in parameters), dtype=parameters[0].dtype)


@pytest.mark.parametrize("keep_graph", [True, False])
@pytest.mark.parametrize("case", DETERMINISTIC, ids=lambda case: case.name)
def test_product_is_that_of_the_dense_hessian(case, keep_graph):
    model, parameters, closure = built(case)
    dense = dense_hessian(closure, parameters)
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(closure(), parameters)])
    with HessianOperator(closure, parameters, model=model, keep_graph=keep_graph) as hessian:
        for _ in range(3):
            vector = random_vector(parameters)
            assert torch.allclose(hessian(vector), dense @ vector, rtol=1e-9, atol=1e-11)
        assert hessian.products == 3
        assert float(hessian.loss) == pytest.approx(closure().item())
        assert torch.allclose(hessian.gradient, gradient, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("case", [c for c in CASES if c.smooth], ids=lambda case: case.name)
def test_product_is_the_derivative_of_the_gradient(case):
    _, parameters, closure = built(case)
    vector = random_vector(parameters)
    expected = difference_hessian_product(closure, parameters, vector)
    with HessianOperator(closure, parameters) as hessian:
        # Truncation h²‖v‖³·D⁴L/6 and rounding 1e-16/h, with h = 1e-5 and ‖v‖ of about 20.
        error = torch.linalg.vector_norm(hessian(vector) - expected)
        assert float(error / torch.linalg.vector_norm(expected)) < 1e-6


@pytest.mark.parametrize("keep_graph", [True, False])
def test_every_product_sees_the_same_dropout_mask(keep_graph):
    case = next(case for case in CASES if case.name == "cnn-batch-norm")
    model, parameters, closure = built(case)
    vector = random_vector(parameters)
    with HessianOperator(closure, parameters, model=model, keep_graph=keep_graph) as hessian:
        first = hessian(vector)
        torch.rand(10)
        assert torch.equal(hessian(vector), first)


def sizes_to_terms(case, model, batch, sizes):
    terms, begin = [], 0
    for size in sizes:
        part = [tensor[begin : begin + size] for tensor in batch]
        terms.append(LossTerm(lambda part=part: case.loss_fn(model, part), size))
        begin += size
    return terms


@pytest.mark.parametrize("sizes", [(2, 2, 2), (1, 2, 3), (5, 1)])
@pytest.mark.parametrize("case", DETERMINISTIC, ids=lambda case: case.name)
def test_micro_batches_of_any_sizes_give_the_hessian_of_the_whole(case, sizes):
    model, batch = case.build()
    batch = [tensor[:6] for tensor in batch]
    parameters = list(model.parameters())
    vector = random_vector(parameters)
    with HessianOperator(lambda: case.loss_fn(model, batch), parameters) as whole:
        expected = whole(vector)
    terms = sizes_to_terms(case, model, batch, sizes)
    for options in ({}, {"keep_graph": False, "model": model}):
        with HessianOperator(terms, parameters, **options) as hessian:
            assert torch.allclose(hessian(vector), expected, rtol=1e-10, atol=1e-12)
            assert torch.allclose(hessian.gradient, whole.gradient, rtol=1e-10, atol=1e-12)
            assert float(hessian.loss) == pytest.approx(float(whole.loss), rel=1e-12)
    with DifferenceOperator(terms, parameters, model=model) as differences:
        # ρ² of truncation, with ρ = 1.2e-5, and 1e-16/ρ of rounding.
        assert torch.allclose(differences(vector), expected, rtol=1e-7, atol=1e-8)


def test_a_block_is_a_diagonal_block_of_the_dense_hessian():
    _, parameters, closure = built(CASES[0])
    dense = dense_hessian(closure, parameters)
    begin = sum(p.numel() for p in parameters[:2])
    end = begin + sum(p.numel() for p in parameters[2:4])
    vector = random_vector(parameters[2:4])
    expected = dense[begin:end, begin:end] @ vector
    with HessianOperator(closure, parameters[2:4]) as hessian:
        assert torch.allclose(hessian(vector), expected, rtol=1e-9, atol=1e-11)
    with DifferenceOperator(closure, parameters[2:4]) as differences:
        assert torch.allclose(differences(vector), expected, rtol=1e-7, atol=1e-8)


def test_unused_and_linear_parameters_have_zero_rows():
    curved, linear, unused = (nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(3))
    parameters = [linear, curved, unused]
    with HessianOperator(lambda: (curved**4).sum() + linear.sum(), parameters) as hessian:
        product = hessian(torch.ones(6, dtype=torch.float64))
        assert product.tolist() == [0, 0, 12, 12, 0, 0]
        assert hessian.gradient.tolist() == [1, 1, 4, 4, 0, 0]
    with HessianOperator(linear.sum, [linear]) as hessian:
        assert hessian(torch.ones(2, dtype=torch.float64)).tolist() == [0, 0]


def test_half_precision_parameters_get_float32_vectors():
    weight = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    with HessianOperator(lambda: (weight.float() ** 2).sum(), [weight]) as hessian:
        assert hessian(torch.ones(3)).dtype == torch.float32


def test_a_stale_cast_of_autocast_does_not_hide_the_parameters():
    weight = nn.Parameter(torch.randn(3, 3))
    x = torch.randn(2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.no_grad():
            nn.functional.linear(x, weight)
        with HessianOperator(lambda: nn.functional.linear(x, weight).float().square().sum(), [weight]) as h:
            assert float(torch.linalg.vector_norm(h.gradient)) > 0


def test_a_closed_operator_says_so():
    parameter = nn.Parameter(torch.ones(2))
    hessian = HessianOperator(lambda: (parameter**2).sum(), [parameter])
    hessian.close()
    with pytest.raises(RuntimeError, match="freed by close"):
        hessian(torch.ones(2))
