"""Finite differences of gradients against exact products, and the choice of their step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cases import CASES, DETERMINISTIC
from foreshock.operators import DifferenceOperator, DifferenceScheme
from foreshock.operators.gradients import Evaluation
from oracles import dense_hessian, reverse_hessian_product


def built(case, dtype=torch.float64):
    model, batch = case.build(dtype)
    return model, list(model.parameters()), lambda: case.loss_fn(model, batch)


def relative_error(found, expected):
    return float(torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected))


@pytest.mark.parametrize("case", DETERMINISTIC, ids=lambda case: case.name)
@pytest.mark.parametrize(
    ("dtype", "central", "tolerance"),
    [
        # ρ² + ε/ρ at the chosen ρ, times 1e3 for the third and fourth derivatives.
        (torch.float64, True, 1e-7),
        (torch.float64, False, 1e-5),
        (torch.float32, True, 1e-3),
        (torch.float32, False, 1e-2),
    ],
)
def test_product_is_that_of_double_backward(case, dtype, central, tolerance):
    model, parameters, closure = built(case, dtype)
    start = [p.detach().clone() for p in parameters]
    scheme = DifferenceScheme(central=central)
    with DifferenceOperator(closure, parameters, model=model, scheme=scheme) as hessian:
        for _ in range(2):
            vector = torch.randn_like(hessian.gradient)
            expected = reverse_hessian_product(closure, parameters, vector)
            assert relative_error(hessian(vector), expected) < tolerance
        assert hessian.products == 2
    assert all(torch.equal(p, old) for p, old in zip(parameters, start, strict=True))


def test_loss_and_gradient_are_those_of_the_present_parameters():
    model, parameters, closure = built(CASES[0])
    with DifferenceOperator(closure, parameters, model=model) as hessian:
        hessian(torch.ones_like(hessian.gradient))
        expected = torch.autograd.grad(closure(), parameters)
        assert torch.equal(hessian.gradient, torch.cat([g.flatten() for g in expected]))
        assert float(hessian.loss) == closure().item()
    assert hessian.backend == "central differences"


def test_one_sided_takes_a_gradient_that_is_there_already():
    _, parameters, closure = built(CASES[0])
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(closure(), parameters)])
    warm = DifferenceOperator(closure, parameters, scheme=DifferenceScheme(central=False))
    warm(gradient)
    scheme = DifferenceScheme(central=False, gain=warm.gain)
    start = Evaluation(closure().detach(), gradient)
    with DifferenceOperator(closure, parameters, scheme=scheme, start=start) as hessian:
        product = hessian(gradient)
        assert hessian.evaluations == 1
        assert hessian.backend == "one-sided differences"
    assert relative_error(product, dense_hessian(closure, parameters) @ gradient) < 1e-5


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_the_step_changes_the_gradient_by_what_is_wanted(scale):
    weight = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    closure = lambda: scale * (weight**4).sum()  # noqa: E731
    scheme = DifferenceScheme(change=1e-4)
    with DifferenceOperator(closure, [weight], scheme=scheme) as hessian:
        for size in (1e-6, 1.0, 1e6):
            vector = size * torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
            product = hessian(vector)
            assert relative_error(product, scale * 12 * weight.detach() ** 2 * vector) < 1e-6
            assert 0.1e-4 <= hessian.change <= 3e-4
        assert hessian.evaluations <= 1 + 2 * (3 + 1 + 1)


def test_a_warm_step_costs_two_gradients_a_product():
    _, parameters, closure = built(CASES[0], torch.float32)
    first = DifferenceOperator(closure, parameters)
    direction = first.gradient
    first(direction)
    warm = DifferenceOperator(closure, parameters, scheme=DifferenceScheme(gain=first.gain))
    warm(direction)
    assert warm.evaluations == 3


@pytest.mark.parametrize("case", ["zero gradient", "linear", "zero vector"])
def test_degenerate_losses_give_what_is_true(case):
    weight = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    linear = torch.tensor([1.0, 2.0], dtype=torch.float64)
    closure = (lambda: weight @ linear) if case == "linear" else (lambda: (weight**2).sum())
    vector = torch.ones(2, dtype=torch.float64) * (case != "zero vector")
    with DifferenceOperator(closure, [weight]) as hessian:
        expected = [2.0, 2.0] if case == "zero gradient" else [0.0, 0.0]
        assert hessian(vector).tolist() == pytest.approx(expected, abs=1e-12)


def test_dropout_masks_are_the_same_on_both_sides():
    layer = nn.Linear(6, 6).double()
    x = torch.randn(8, 6, dtype=torch.float64)
    closure = lambda: nn.functional.dropout(layer(x).tanh(), 0.5).square().mean()  # noqa: E731
    state = torch.get_rng_state()
    parameters = list(layer.parameters())
    with DifferenceOperator(closure, parameters, model=layer) as hessian:
        vector = torch.randn(42, dtype=torch.float64)
        product = hessian(vector)
    torch.set_rng_state(state)
    assert relative_error(product, dense_hessian(closure, parameters) @ vector) < 1e-7


def test_a_failure_half_way_leaves_the_parameters():
    weight = nn.Parameter(torch.randn(3))
    start = weight.detach().clone()
    calls = []

    def closure():
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return (weight**2).sum()

    hessian = DifferenceOperator(closure, [weight])
    with pytest.raises(RuntimeError, match="out of memory"):
        hessian(torch.ones(3))
    assert torch.equal(weight, start)
    assert weight.grad is None


def test_an_overflow_is_tried_again_nearer():
    weight = nn.Parameter(torch.full((2,), 700.0, dtype=torch.float64))
    closure = lambda: weight.exp().sum()  # noqa: E731
    scheme = DifferenceScheme(gain=1e-3)
    with DifferenceOperator(closure, [weight], scheme=scheme) as hessian:
        product = hessian(torch.ones(2, dtype=torch.float64))
    assert product.tolist() == pytest.approx([float(weight.detach()[0].exp())] * 2, rel=1e-6)


def test_a_closed_operator_says_so():
    weight = nn.Parameter(torch.ones(2))
    with DifferenceOperator(lambda: (weight**2).sum(), [weight]) as hessian:
        pass
    with pytest.raises(RuntimeError, match="was closed"):
        hessian(torch.ones(2))
