"""Extreme eigenvalues against dense eigendecompositions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import LinearOperator as SciPyOperator
from scipy.sparse.linalg import eigsh

from cases import DETERMINISTIC
from foreshock.eigen import (
    StoppingRule,
    choose_solver,
    largest_eigenvalue,
    largest_eigenvalues,
    smallest_eigenvalue,
)
from foreshock.operators import HessianOperator, PreconditionedOperator
from matrices import Matrix, symmetric
from oracles import dense_hessian

SOLVERS = pytest.mark.parametrize("solver", ["lanczos", "light"])


@SOLVERS
@pytest.mark.parametrize("case", DETERMINISTIC, ids=lambda case: case.name)
def test_preconditioned_sharpness_is_that_of_the_dense_matrix(case, solver):
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
            solver=solver,
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


@settings(max_examples=60)
@given(
    st.lists(st.floats(-10, 10), min_size=2, max_size=30),
    st.integers(0, 1000),
    st.sampled_from([1e-1, 5e-3, 1e-6]),
    st.sampled_from(["lanczos", "light"]),
)
def test_true_error_stays_below_the_residual(eigenvalues, seed, tolerance, solver):
    """‖Sx − θx‖ bounds the distance to an eigenvalue, whatever the matrix."""
    values = torch.tensor(eigenvalues, dtype=torch.float64)
    matrix = symmetric(values, seed)
    start = torch.randn(len(values), generator=torch.Generator().manual_seed(seed)).double()
    result = largest_eigenvalue(Matrix(matrix), start, StoppingRule(tolerance), solver=solver)
    nearest = (torch.linalg.eigvalsh(matrix) - result.value).abs().min()
    assert float(nearest) <= result.residual + 1e-9
    assert result.value <= float(values.max()) + 1e-9
    actual = torch.linalg.vector_norm(matrix @ result.vector - result.value * result.vector)
    assert float(actual) == pytest.approx(result.residual, rel=1e-3, abs=1e-8)
    assert float(torch.linalg.vector_norm(result.vector)) == pytest.approx(1.0)


@SOLVERS
def test_residual_is_that_of_the_returned_vector(solver):
    matrix = symmetric(torch.linspace(-1, 4, 40).double())
    result = largest_eigenvalue(
        Matrix(matrix), torch.ones(40).double(), StoppingRule(max_products=5), solver=solver
    )
    residual = matrix @ result.vector - result.value * result.vector
    assert result.residual == pytest.approx(float(torch.linalg.vector_norm(residual)), rel=1e-9)
    assert not result.converged
    assert result.products == 5


@SOLVERS
def test_finds_the_largest_and_not_the_largest_in_modulus(solver):
    matrix = symmetric(torch.tensor([-50.0, -3.0, 0.5, 1.0, 2.0]).double())
    result = largest_eigenvalue(Matrix(matrix), torch.ones(5).double(), StoppingRule(1e-9, 60), solver=solver)
    assert result.value == pytest.approx(2.0, rel=1e-9)


@SOLVERS
def test_warm_start_spends_fewer_products_than_a_cold_one(solver):
    matrix = symmetric(torch.linspace(0, 1, 200).double() ** 4)
    noise = torch.randn(200).double()
    cold = largest_eigenvalue(Matrix(matrix), noise, StoppingRule(1e-4, 100), solver=solver)
    moved = matrix + 1e-4 * symmetric(torch.randn(200).double(), seed=3)
    warm = largest_eigenvalue(Matrix(moved), cold.vector, StoppingRule(1e-4, 100), solver=solver)
    assert warm.converged
    assert warm.products < cold.products / 2


@SOLVERS
def test_stops_at_an_invariant_subspace(solver):
    start = torch.zeros(6).double()
    start[2] = 1.0
    operator = Matrix(torch.diag(torch.arange(6.0).double()))
    result = largest_eigenvalue(operator, start, solver=solver)
    assert (result.value, result.converged, operator.products) == (2.0, True, 1)


@SOLVERS
@pytest.mark.parametrize("entry", [0.0, torch.nan])
def test_a_start_without_direction_is_refused(entry, solver):
    with pytest.raises(ValueError, match="start has norm"):
        largest_eigenvalue(Matrix(torch.eye(3)), torch.full((3,), entry), solver=solver)


@SOLVERS
def test_a_product_that_is_not_finite_is_an_error_not_a_value(solver):
    with pytest.raises(FloatingPointError, match="not finite"):
        largest_eigenvalue(Matrix(torch.full((3, 3), torch.inf)), torch.ones(3), solver=solver)


def test_an_unknown_solver_is_refused():
    with pytest.raises(ValueError, match="solver is 'power'"):
        largest_eigenvalue(Matrix(torch.eye(3)), torch.ones(3), solver="power")


def with_products(matrix, *vectors):
    return [(vector, matrix @ vector) for vector in vectors]


@SOLVERS
def test_a_known_eigenvector_among_the_extras_is_found_without_a_product_for_it(solver):
    values = torch.linspace(0, 1, 50).double()
    matrix = symmetric(values)
    vectors = torch.linalg.eigh(matrix).eigenvectors
    operator = Matrix(matrix)
    start = vectors[:, -2] + 0.3 * vectors[:, 0]
    extra = with_products(matrix, 7.0 * vectors[:, -1] + vectors[:, 3])
    without = largest_eigenvalue(operator, start, StoppingRule(1e-6, 2), solver=solver)
    found = largest_eigenvalue(operator, start, StoppingRule(1e-6, 2), extra=extra, solver=solver)
    # Two products from the start alone don't reach the top one: the start has no part of it.
    assert without.value <= float(values[-2]) + 1e-12
    assert found.value > 0.995
    assert found.products == 2


@SOLVERS
def test_an_extra_pair_frees_a_start_that_is_an_overtaken_eigenvector(solver):
    matrix = torch.diag(torch.tensor([1.0, 0.5, 1.2, 0.1], dtype=torch.float64))
    start = torch.tensor([1.0, 0.0, 0.0, 0.0]).double()
    stuck = largest_eigenvalue(Matrix(matrix), start, StoppingRule(1e-9), solver=solver)
    assert stuck.value == 1.0
    extra = with_products(matrix, torch.tensor([1.0, 0.1, 1.0, 0.1]).double())
    found = largest_eigenvalue(Matrix(matrix), start, StoppingRule(1e-9), extra=extra, solver=solver)
    assert found.value == pytest.approx(1.2, rel=1e-9)


@SOLVERS
@settings(max_examples=40)
@given(seed=st.integers(0, 1000), count=st.integers(0, 4), products=st.integers(1, 4))
def test_residual_and_value_are_those_of_the_vector_with_extras_too(solver, seed, count, products):
    generator = torch.Generator().manual_seed(seed)
    matrix = symmetric(torch.randn(12, generator=generator).double(), seed)
    vectors = [torch.randn(12, generator=generator).double() for _ in range(count + 1)]
    if count > 2:
        vectors[-1] = vectors[0] - 2 * vectors[1]  # adds nothing to the subspace
    extra = with_products(matrix, *vectors[1:])
    rule = StoppingRule(1e-12, products)
    found = largest_eigenvalue(Matrix(matrix), vectors[0], rule, extra=extra, solver=solver)
    image = matrix @ found.vector
    assert float(found.vector @ found.vector) == pytest.approx(1, abs=1e-10)
    assert float(found.vector @ image) == pytest.approx(found.value, abs=1e-9)
    residual = float(torch.linalg.vector_norm(image - found.value * found.vector))
    assert residual == pytest.approx(found.residual, abs=1e-8)
    # No vector of the span does better: the Ritz value is the best of all that is known.
    left, sizes, _ = torch.linalg.svd(torch.stack(vectors, 1), full_matrices=False)
    basis = left[:, sizes > 1e-8]
    best = float(torch.linalg.eigvalsh(basis.T @ matrix @ basis)[-1])
    if solver == "lanczos" or count <= 1:
        assert found.value >= best - 1e-9


def test_the_largest_eigenvalues_are_those_of_the_dense_matrix():
    values = torch.linspace(-2, 3, 60).double() ** 3
    matrix = symmetric(values)
    start = torch.randn(60).double()
    found = largest_eigenvalues(Matrix(matrix), start, 5, StoppingRule(1e-10, 60))
    assert found.converged
    assert all(pair.converged for pair in found)
    assert len(found) == 5
    torch.testing.assert_close(
        torch.tensor(found.values, dtype=torch.float64),
        values.sort(descending=True).values[:5],
        rtol=1e-8,
        atol=0,
    )
    stacked = torch.stack(found.vectors)
    torch.testing.assert_close(stacked @ stacked.T, torch.eye(5).double(), rtol=0, atol=1e-8)
    for pair in found:
        residual = torch.linalg.vector_norm(matrix @ pair.vector - pair.value * pair.vector)
        assert float(residual) == pytest.approx(pair.residual, abs=1e-8)
    assert found[0].products == found.products


def test_the_largest_of_several_is_the_largest():
    matrix = symmetric(torch.linspace(-1, 1, 30).double() ** 3)
    start = torch.randn(30).double()
    one = largest_eigenvalue(Matrix(matrix), start, StoppingRule(1e-6, 30))
    several = largest_eigenvalues(Matrix(matrix), start, 1, StoppingRule(1e-6, 30))
    assert several.products == one.products
    assert several[0].value == one.value


def test_a_repeated_eigenvalue_takes_an_extra_vector():
    matrix = symmetric(torch.tensor([3.0, 3.0, 1.0, 0.5, 0.0, -1.0]).double())
    vectors = [torch.randn(6).double() for _ in range(2)]
    once = largest_eigenvalues(Matrix(matrix), vectors[0], 2, StoppingRule(1e-10))
    twice = largest_eigenvalues(
        Matrix(matrix), vectors[0], 2, StoppingRule(1e-10), extra=with_products(matrix, vectors[1])
    )
    assert once.values == pytest.approx((3, 1), rel=1e-8)
    assert twice.values == pytest.approx((3, 3), rel=1e-8)


def test_more_eigenvalues_than_there_are_come_back_short():
    found = largest_eigenvalues(Matrix(torch.diag(torch.arange(3.0))), torch.ones(3), 5)
    assert found.converged
    assert found.values == pytest.approx((2, 1, 0), abs=1e-6)


def test_too_few_products_for_the_eigenvalues_asked_for_is_no_convergence():
    matrix = symmetric(torch.linspace(0, 1, 20).double())
    found = largest_eigenvalues(Matrix(matrix), torch.randn(20).double(), 3, StoppingRule(max_products=2))
    assert (len(found), found.products, found.converged) == (2, 2, False)


def test_no_eigenvalue_at_all_is_refused():
    with pytest.raises(ValueError, match="count is 0"):
        largest_eigenvalues(Matrix(torch.eye(3)), torch.ones(3), 0)


@SOLVERS
def test_the_smallest_eigenvalue_is_the_most_negative_one(solver):
    matrix = symmetric(torch.tensor([-4.0, -1.0, 0.5, 1.0, 50.0]).double())
    operator = Matrix(matrix)
    extra = with_products(matrix, torch.randn(5).double())
    found = smallest_eigenvalue(
        operator, torch.ones(5).double(), StoppingRule(1e-10, 60), extra=extra, solver=solver
    )
    assert found.value == pytest.approx(-4.0, rel=1e-8)
    assert operator.products == found.products
    image = matrix @ found.vector
    residual = float(torch.linalg.vector_norm(image - found.value * found.vector))
    assert residual == pytest.approx(found.residual, abs=1e-8)


def test_the_solver_is_chosen_by_memory():
    assert choose_solver(22) == "lanczos"
    assert choose_solver(21) == "light"
    assert choose_solver(12, StoppingRule(max_products=8), extra=1) == "lanczos"
    assert choose_solver(11, StoppingRule(max_products=8), extra=1) == "light"
    assert choose_solver(22, starts=2) == "light"
    with pytest.raises(ValueError, match="at least 6 vectors"):
        choose_solver(5)


@SOLVERS
def test_two_starts_follow_two_eigenvectors_through_their_crossing(solver):
    """The first sinks from 1 to .9, the second rises from .9 to 1; no residual tells."""
    vectors = torch.linalg.qr(torch.randn(40, 40).double()).Q
    starts = (vectors[:, 0], vectors[:, 1])
    for time in torch.linspace(0, 1, 11).tolist():
        values = torch.linspace(0, 0.5, 40).double()
        values[:2] = torch.tensor([1 - 0.1 * time, 0.9 + 0.1 * time])
        matrix = vectors @ torch.diag(values) @ vectors.T
        alone = largest_eigenvalue(Matrix(matrix), vectors[:, 0], solver=solver)
        found = largest_eigenvalue(Matrix(matrix), starts, solver=solver)
        starts = found.starts
        assert alone.value == pytest.approx(float(values[0]), rel=1e-6)
        assert found.value == pytest.approx(float(values[:2].max()), rel=1e-6)
        assert found.products == 2
        assert abs(float(starts[0] @ starts[1])) < 1e-8


@SOLVERS
def test_no_start_at_all_is_refused(solver):
    with pytest.raises(ValueError, match="start is an empty sequence"):
        largest_eigenvalue(Matrix(torch.eye(3)), [], solver=solver)


@SOLVERS
@pytest.mark.parametrize("caution", [1.0, 7.0])
def test_the_error_is_the_residual_with_caution(solver, caution):
    matrix = symmetric(torch.linspace(-1, 4, 40).double())
    starts = [torch.randn(40, dtype=torch.float64) for _ in range(2)]
    rule = StoppingRule(1e-3, 100, caution=caution)
    result = largest_eigenvalue(Matrix(matrix), starts, rule, solver=solver)
    assert result.error == pytest.approx(caution * result.residual, rel=1e-6)
    assert result.converged
    assert result.error <= 1e-3 * result.value
