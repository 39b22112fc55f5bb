"""Negation and deflation against dense matrices."""

from __future__ import annotations

import pytest
import torch

from foreshock.eigen import DeflatedOperator, NegatedOperator, StoppingRule, largest_eigenvalue
from matrices import Matrix, symmetric


def test_a_negated_operator_is_minus_the_matrix_and_counts_its_products():
    matrix = symmetric(torch.linspace(-1, 2, 6).double())
    operator = Matrix(matrix)
    negated = NegatedOperator(operator)
    vector = torch.randn(6).double()
    torch.testing.assert_close(negated(vector), -(matrix @ vector))
    assert (negated.products, operator.products) == (1, 1)


def test_a_deflated_operator_is_the_projected_matrix():
    matrix = symmetric(torch.linspace(-1, 2, 6).double())
    known, _ = torch.linalg.qr(torch.randn(6, 2).double())
    projection = torch.eye(6).double() - known @ known.T
    operator = DeflatedOperator(Matrix(matrix), list(known.T))
    vector = torch.randn(6).double()
    before = vector.clone()
    torch.testing.assert_close(operator(vector), projection @ matrix @ projection @ vector)
    assert torch.equal(vector, before)
    assert operator.products == 1


def test_known_eigenvectors_give_way_to_the_next():
    values = torch.linspace(-1, 2, 30).double()
    matrix = symmetric(values)
    vectors = torch.linalg.eigh(matrix).eigenvectors
    operator = DeflatedOperator(Matrix(matrix), [vectors[:, -1], vectors[:, -2]])
    y = torch.randn(30).double()
    pair = operator.pair(y, matrix @ y)
    torch.testing.assert_close(pair[1], operator(y))
    found = largest_eigenvalue(operator, torch.ones(30).double(), StoppingRule(1e-10, 30), extra=[pair])
    assert found.value == pytest.approx(float(values[-3]), rel=1e-8)
    assert abs(float(found.vector @ vectors[:, -3])) == pytest.approx(1, abs=1e-6)


def test_a_ritz_vector_moves_the_next_eigenvalue_by_the_square_of_its_error_only():
    matrix = torch.diag(torch.tensor([2.0, 1.0, 0.0]).double())
    tilt = 1e-3
    known = torch.tensor([1.0, tilt, 0.0]).double()
    known /= torch.linalg.vector_norm(known)
    found = largest_eigenvalue(
        DeflatedOperator(Matrix(matrix), [known]), torch.ones(3).double(), StoppingRule(1e-12)
    )
    assert found.value == pytest.approx(1 + tilt**2, rel=1e-9)


@pytest.mark.parametrize("factor", [2.0, torch.nan])
def test_known_vectors_that_are_not_orthonormal_are_refused(factor):
    with pytest.raises(ValueError, match="known vectors 0 and 0"):
        DeflatedOperator(Matrix(torch.eye(3)), [factor * torch.eye(3)[0]])
    slanted = torch.tensor([0.6, 0.8, 0.0])
    with pytest.raises(ValueError, match="known vectors 0 and 1"):
        DeflatedOperator(Matrix(torch.eye(3)), [torch.eye(3)[0], slanted])
