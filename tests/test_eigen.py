"""Lanczos against dense eigendecompositions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import LinearOperator as SciPyOperator
from scipy.sparse.linalg import eigsh

from cases import DETERMINISTIC
from foreshock.eigen import StoppingRule, largest_eigenvalue
from foreshock.operators import HessianOperator, PreconditionedOperator
from oracles import dense_hessian


class Matrix:
    """A dense matrix as an operator."""

    def __init__(self, matrix: torch.Tensor) -> None:
        self.matrix = matrix
        self.products = 0

    def __call__(self, vector: torch.Tensor) -> torch.Tensor:
        self.products += 1
        return self.matrix @ vector


def symmetric(eigenvalues: torch.Tensor, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    square = torch.randn(len(eigenvalues), len(eigenvalues), generator=generator).double()
    rotation, _ = torch.linalg.qr(square)
    return rotation @ torch.diag(eigenvalues) @ rotation.T


@pytest.mark.parametrize("case", DETERMINISTIC, ids=lambda case: case.name)
def test_preconditioned_sharpness_is_that_of_the_dense_matrix(case):
    model, batch = case.build()
    parameters = list(model.parameters())
    dense = dense_hessian(lambda: case.loss_fn(model, batch), parameters)
    n = dense.shape[0]
    root = torch.rand(n, dtype=torch.float64) * 10 + 0.1
    expected = torch.linalg.eigvalsh(root[:, None] * dense * root[None, :])[-1]
    with HessianOperator(lambda: case.loss_fn(model, batch), parameters) as hessian:
        result = largest_eigenvalue(
            PreconditionedOperator(hessian, root),
            torch.randn(n, dtype=torch.float64),
            StoppingRule(1e-10, n),
        )
    assert result.converged
    assert result.value == pytest.approx(float(expected), rel=1e-8)
    scipys = eigsh(
        SciPyOperator(
            (n, n),
            matvec=lambda x: (root * (dense @ (root * torch.from_numpy(x).flatten()))).numpy(),
            dtype="float64",
        ),
        k=1,
        which="LA",
        return_eigenvectors=False,
    )
    assert result.value == pytest.approx(float(scipys[0]), rel=1e-8)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-10, 10), min_size=2, max_size=30),
    st.integers(0, 1000),
    st.sampled_from([1e-1, 5e-3, 1e-6]),
)
def test_true_error_stays_below_the_residual(eigenvalues, seed, tolerance):
    """‖Sx − θx‖ bounds the distance to an eigenvalue, whatever the matrix."""
    values = torch.tensor(eigenvalues, dtype=torch.float64)
    matrix = symmetric(values, seed)
    start = torch.randn(len(values), generator=torch.Generator().manual_seed(seed)).double()
    result = largest_eigenvalue(Matrix(matrix), start, StoppingRule(tolerance))
    nearest = (torch.linalg.eigvalsh(matrix) - result.value).abs().min()
    assert float(nearest) <= result.residual + 1e-9
    assert result.value <= float(values.max()) + 1e-9
    actual = torch.linalg.vector_norm(matrix @ result.vector - result.value * result.vector)
    assert float(actual) == pytest.approx(result.residual, rel=1e-3, abs=1e-8)
    assert float(torch.linalg.vector_norm(result.vector)) == pytest.approx(1.0)


def test_residual_is_that_of_the_returned_vector():
    matrix = symmetric(torch.linspace(-1, 4, 40).double())
    result = largest_eigenvalue(Matrix(matrix), torch.ones(40).double(), StoppingRule(max_products=5))
    residual = matrix @ result.vector - result.value * result.vector
    assert result.residual == pytest.approx(float(torch.linalg.vector_norm(residual)), rel=1e-9)
    assert not result.converged
    assert result.products == 5


def test_finds_the_largest_and_not_the_largest_in_modulus():
    matrix = symmetric(torch.tensor([-50.0, -3.0, 0.5, 1.0, 2.0]).double())
    result = largest_eigenvalue(Matrix(matrix), torch.ones(5).double(), StoppingRule(1e-9))
    assert result.value == pytest.approx(2.0, rel=1e-9)


def test_warm_start_spends_fewer_products_than_a_cold_one():
    matrix = symmetric(torch.linspace(0, 1, 200).double() ** 4)
    noise = torch.randn(200).double()
    cold = largest_eigenvalue(Matrix(matrix), noise, StoppingRule(1e-4, 100))
    moved = matrix + 1e-4 * symmetric(torch.randn(200).double(), seed=3)
    warm = largest_eigenvalue(Matrix(moved), cold.vector, StoppingRule(1e-4, 100))
    assert warm.converged
    assert warm.products < cold.products / 2


def test_stops_at_an_invariant_subspace():
    start = torch.zeros(6).double()
    start[2] = 1.0
    operator = Matrix(torch.diag(torch.arange(6.0).double()))
    result = largest_eigenvalue(operator, start)
    assert (result.value, result.converged, operator.products) == (2.0, True, 1)


@pytest.mark.parametrize("entry", [0.0, torch.nan])
def test_a_start_without_direction_is_refused(entry):
    with pytest.raises(ValueError, match="start has norm"):
        largest_eigenvalue(Matrix(torch.eye(3)), torch.full((3,), entry))


@pytest.mark.parametrize(("tolerance", "products"), [(0.0, 20), (torch.nan, 20), (1e-3, 0)])
def test_an_impossible_stopping_rule_is_refused(tolerance, products):
    with pytest.raises(ValueError, match="must be positive and max_products"):
        StoppingRule(tolerance, products)


def test_a_product_that_is_not_finite_is_an_error_not_a_value():
    with pytest.raises(FloatingPointError, match="not finite"):
        largest_eigenvalue(Matrix(torch.full((3, 3), torch.inf)), torch.ones(3))
