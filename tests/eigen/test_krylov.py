"""The relation SV = VT + EC that the solver's residuals rest on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import eigh_tridiagonal

from foreshock.eigen import KrylovSpace
from matrices import Matrix, symmetric


def space_of(matrix: torch.Tensor, count: int, steps: int, seed: int = 0) -> KrylovSpace:
    generator = torch.Generator().manual_seed(seed)
    vectors = [torch.randn(len(matrix), generator=generator).double() for _ in range(count)]
    space = KrylovSpace(list(vectors), [matrix @ vector for vector in vectors])
    for step in range(steps):
        space.extend(Matrix(matrix), index=step % 2)
    return space


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("steps", [0, 1, 6])
def test_ritz_pairs_are_those_of_the_dense_projection(count, steps):
    matrix = symmetric(torch.linspace(-1, 2, 30).double())
    space = space_of(matrix, count, steps)
    basis = torch.stack(space.basis, 1)
    torch.testing.assert_close(basis.T @ basis, torch.eye(count + steps).double(), rtol=0, atol=1e-12)
    expected = torch.linalg.eigvalsh(basis.T @ matrix @ basis).flip(0)
    np.testing.assert_allclose(space.values, expected, atol=1e-12)
    for index in range(count + steps):
        vector = space.vector(index)
        residual = torch.linalg.vector_norm(matrix @ vector - space.values[index] * vector)
        assert float(residual) == pytest.approx(float(space.residuals[index]), abs=1e-10)


def test_one_start_vector_gives_the_lanczos_method():
    """The textbook three-term recursion, in its own words."""
    matrix = symmetric(torch.linspace(-1, 2, 30).double()).numpy()
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(30, generator=generator).double().numpy()
    q, before, beta = q / np.linalg.norm(q), np.zeros(30), 0.0
    alphas, betas = [], []
    for _ in range(6):
        r = matrix @ q - beta * before
        alphas.append(q @ r)
        r -= alphas[-1] * q
        beta = np.linalg.norm(r)
        betas.append(beta)
        before, q = q, r / beta
    values, vectors = eigh_tridiagonal(alphas, betas[:-1])
    space = space_of(torch.from_numpy(matrix), 1, 5)
    np.testing.assert_allclose(space.values[::-1], values, atol=1e-9)
    np.testing.assert_allclose(space.start_weights[::-1], vectors[0] ** 2, atol=1e-9)


def test_a_dependent_start_vector_is_dropped():
    matrix = symmetric(torch.linspace(-1, 2, 9).double())
    vectors = [torch.ones(9).double(), torch.arange(9.0).double()]
    vectors.append(vectors[0] - 2 * vectors[1])
    space = KrylovSpace([v.clone() for v in vectors], [matrix @ v for v in vectors])
    assert len(space.basis) == 2


def test_the_whole_space_is_exhausted_and_exact():
    values = torch.linspace(-1, 2, 7).double()
    space = space_of(symmetric(values), 2, 5)
    assert space.exhausted
    np.testing.assert_allclose(space.values, values.flip(0), atol=1e-12)
    np.testing.assert_allclose(space.errors(10.0), 0, atol=1e-9)


def test_the_basis_stays_orthonormal_where_little_of_a_product_is_new():
    """From nearly an eigenvector: of its product a few thousandths lie outside of the subspace."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.linspace(1, 2, 500)
    scale[0] = 1000.0
    start = 1e-4 * torch.randn(500, generator=generator)
    start[0] = 1.0
    matrix = Matrix(torch.diag(scale))
    space = KrylovSpace([start.clone()], [scale * start])
    for _ in range(6):
        space.extend(matrix)
    basis = torch.stack(space.basis).double()
    torch.testing.assert_close(basis @ basis.T, torch.eye(7, dtype=torch.float64), rtol=0, atol=1e-5)
