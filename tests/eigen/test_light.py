"""What sets the light solver apart: it forgets, and must do as well all the same."""

from __future__ import annotations

import math

import pytest
import torch

from foreshock.eigen import StoppingRule, largest_eigenvalue
from matrices import Matrix, symmetric


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("products", [5, 10, 20])
def test_a_third_more_products_make_up_for_what_it_forgets(seed, products):
    matrix = symmetric(torch.linspace(0, 1, 200).double() ** 4, seed)
    start = torch.randn(200, generator=torch.Generator().manual_seed(seed)).double()
    lanczos = largest_eigenvalue(Matrix(matrix), start, StoppingRule(1e-14, products))
    light = largest_eigenvalue(
        Matrix(matrix), start, StoppingRule(1e-14, math.ceil(4 * products / 3)), solver="light"
    )
    assert light.value >= lanczos.value
    assert light.converged is False


def test_its_first_two_products_are_those_of_lanczos():
    """Up to three dimensions nothing is forgotten."""
    matrix = symmetric(torch.linspace(-1, 1, 30).double())
    start = torch.randn(30).double()
    for products in (1, 2, 3):
        rule = StoppingRule(1e-12, products)
        lanczos = largest_eigenvalue(Matrix(matrix), start, rule)
        light = largest_eigenvalue(Matrix(matrix), start, rule, solver="light")
        assert light.value == pytest.approx(lanczos.value, rel=1e-10)
        assert light.residual == pytest.approx(lanczos.residual, rel=1e-8)


def test_float32_reaches_the_precision_of_its_products():
    matrix = symmetric(torch.linspace(0, 1, 100).double() ** 4).float()
    found = largest_eigenvalue(Matrix(matrix), torch.ones(100), StoppingRule(1e-5, 100), solver="light")
    # n eps of float32 times the norm, 1, is the error of one product.
    assert found.value == pytest.approx(float(torch.linalg.eigvalsh(matrix.double())[-1]), abs=100 * 1.2e-7)


def test_an_eigenvalue_of_zero_ends():
    found = largest_eigenvalue(Matrix(torch.zeros(4, 4)), torch.ones(4), solver="light")
    assert (found.value, found.products, found.converged) == (0.0, 1, True)
