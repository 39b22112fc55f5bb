"""Stochastic Lanczos quadrature against known spectra."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cases import DETERMINISTIC
from foreshock.curvature import spectral_density
from foreshock.operators import HessianOperator
from matrices import Diagonal, Matrix, VectorAccount, symmetric
from oracles import dense_hessian


def vector(size: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.zeros(size, dtype=dtype)


@pytest.mark.parametrize("case", DETERMINISTIC, ids=lambda case: case.name)
def test_traces_lie_within_their_errors_of_the_dense_ones(case):
    model, batch = case.build()
    parameters = list(model.parameters())
    dense = dense_hessian(lambda: case.loss_fn(model, batch), parameters)
    with HessianOperator(lambda: case.loss_fn(model, batch), parameters) as hessian:
        spectrum = spectral_density(hessian, vector(len(dense)), probes=6, steps=10)
        assert spectrum.products == hessian.products == 6 * 10
    # Student's t with five degrees of freedom passes 6.9 once in a thousand.
    assert abs(spectrum.trace - float(dense.trace())) <= 6.9 * spectrum.trace_error
    square = float((dense**2).sum())
    assert abs(spectrum.trace_of_square - square) <= 6.9 * spectrum.trace_of_square_error
    values = torch.linalg.eigvalsh(dense)
    assert float(values[0]) - 1e-9 <= spectrum.lower
    assert spectrum.upper <= float(values[-1]) + 1e-9
    assert spectrum.upper == pytest.approx(float(values[-1]), rel=1e-2)


def test_moments_of_each_probe_are_exact_quadratic_forms():
    """Gauss quadrature with m nodes is exact up to degree 2m − 1."""
    matrix = symmetric(torch.linspace(-1, 2, 20).double())
    spectrum = spectral_density(Matrix(matrix), vector(20), probes=1, steps=4, seed=3)
    generator = torch.Generator().manual_seed(3)
    signs = torch.randint(2, (20,), generator=generator).double() * 2 - 1
    power = signs.clone()
    for degree in range(1, 8):
        power = matrix @ power
        moment = float((spectrum.weights * spectrum.nodes**degree).sum())
        assert moment == pytest.approx(float(signs @ power) / 20, rel=1e-10)


def test_density_of_a_sample_covariance_is_that_of_marchenko_and_pastur():
    size, samples = 200, 800
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(samples, size, generator=generator).double()
    spectrum = spectral_density(Matrix(gram(data)), vector(size), probes=16, steps=30)
    ratio = size / samples
    low, high = (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2
    x = np.linspace(low + 0.3, high - 0.3, 60)
    expected = np.sqrt((high - x) * (x - low)) / (2 * math.pi * ratio * x)
    # Smoothing over .1, twice the spacing of the Ritz values, bends the curve by .1² of half its second
    # derivative, .02; one sample of the matrix strays by its own 1/n; the probes by what they say.
    difference = np.abs(spectrum.density(x, 0.1) - expected)
    assert (difference <= 4 * spectrum.density_error(x, 0.1) + 0.02 + 1 / size).all()
    assert difference.mean() < 0.05
    # Edges fluctuate by n^(−2/3), .03 here.
    assert spectrum.lower == pytest.approx(low, abs=0.06)
    assert spectrum.upper == pytest.approx(high, abs=0.12)
    assert spectrum.trace / size == pytest.approx(1, abs=5 * spectrum.trace_error / size)
    middle = spectrum.quantiles([0.5])[0]
    exact = np.median(torch.linalg.eigvalsh(gram(data)).numpy())
    assert middle == pytest.approx(float(exact), abs=0.05)


def gram(data: torch.Tensor) -> torch.Tensor:
    return data.T @ data / len(data)


def test_density_and_quantiles_are_those_of_the_dense_eigenvalues():
    values = torch.tensor([-1.0] * 5 + [0.0] * 80 + [1.0] * 14 + [9.0]).double()
    matrix = symmetric(values)
    spectrum = spectral_density(Matrix(matrix), vector(100), probes=200, steps=10)
    assert spectrum.nodes.shape[0] == 200
    grid = spectrum.grid(0.2)
    smooth = np.exp(-(((grid[:, None] - values.numpy()) / 0.2) ** 2) / 2).mean(1) / (
        0.2 * math.sqrt(2 * math.pi)
    )
    error = spectrum.density_error(grid, 0.2)
    assert (np.abs(spectrum.density(grid, 0.2) - smooth) <= 5 * error + 1e-9).all()
    assert spectrum.density(grid, 0.2).sum() * (grid[1] - grid[0]) == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(spectrum.quantiles([0, 0.2, 0.5, 0.9, 1]), [-1, 0, 0, 1, 9], atol=1e-8)


def test_a_diagonal_matrix_has_no_scatter_in_its_trace():
    """Signs see a diagonal exactly: qᵀSq is the trace over n whatever the signs."""
    diagonal = torch.arange(1.0, 9.0).double()
    spectrum = spectral_density(Diagonal(diagonal), vector(8), probes=3, steps=3)
    assert spectrum.trace == pytest.approx(36, rel=1e-12)
    assert spectrum.trace_error == pytest.approx(0, abs=1e-12)
    assert spectrum.trace_of_square == pytest.approx(204, rel=1e-12)


def test_standard_error_is_that_of_repeated_runs():
    matrix = symmetric(torch.linspace(-1, 3, 40).double())
    runs = [spectral_density(Matrix(matrix), vector(40), probes=6, steps=3, seed=s) for s in range(200)]
    traces = [run.trace for run in runs]
    claimed = math.sqrt(np.mean([run.trace_error**2 for run in runs]))
    # The standard deviation of 200 runs is known to 1/√400, 5 %; four of these.
    assert np.std(traces) == pytest.approx(claimed, rel=0.2)


def test_an_invariant_subspace_ends_a_probe_early():
    operator = Diagonal(torch.full((10,), 2.0).double())
    spectrum = spectral_density(operator, vector(10), probes=2, steps=5)
    assert (spectrum.products, operator.products) == (2, 2)
    assert (spectrum.lower, spectrum.upper) == pytest.approx((2, 2))
    np.testing.assert_allclose(spectrum.weights.sum(1), 1)


def test_probes_of_different_length_are_padded():
    """A block of size one is invariant for some signs only if it is hit alone; here by construction."""
    matrix = torch.zeros(2, 2).double()
    matrix[0, 1] = matrix[1, 0] = 1  # (1, 1) and (1, −1) are eigenvectors: each probe ends after one product
    matrix = torch.block_diag(matrix, torch.tensor([[1.0]]).double())
    spectrum = spectral_density(Matrix(matrix), vector(3), probes=12, steps=3)
    assert set((spectrum.weights > 0).sum(1)) == {1, 2}
    assert (spectrum.lower, spectrum.upper) == pytest.approx((-1, 1))
    assert spectrum.quantiles([1.0]) == pytest.approx(1)
    assert spectrum.trace == pytest.approx(3 * np.mean((spectrum.nodes * spectrum.weights).sum(1)))


def test_a_single_probe_claims_no_error():
    spectrum = spectral_density(Diagonal(torch.arange(4.0).double()), vector(4), probes=1, steps=3)
    assert math.isnan(spectrum.trace_error)
    assert np.isnan(spectrum.density_error([0.0, 1.0], 0.1)).all()


def test_it_repeats_and_leaves_the_global_random_state_alone():
    matrix = Matrix(symmetric(torch.linspace(-1, 3, 30).double()))
    before = torch.get_rng_state()
    first = spectral_density(matrix, vector(30), probes=2, steps=5)
    again = spectral_density(matrix, vector(30), probes=2, steps=5)
    other = spectral_density(matrix, vector(30), probes=2, steps=5, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(first.nodes, again.nodes)
    assert not np.allclose(first.nodes, other.nodes)


def test_memory_is_two_vectors_more_than_the_steps():
    operator, like = Diagonal(torch.linspace(0, 1, 1000).double()), vector(1000)
    with VectorAccount(1000) as account:
        spectral_density(operator, like, probes=3, steps=7)
    assert account.peak <= 7 + 2


def test_float32_gives_the_same_spectrum():
    matrix = symmetric(torch.linspace(-1, 3, 50).double())
    exact = spectral_density(Matrix(matrix), vector(50), probes=2, steps=8)
    single = spectral_density(Matrix(matrix.float()), vector(50, torch.float32), probes=2, steps=8)
    # Eight products of entries with the relative error 6e-8 each; nodes of a short run are well-conditioned.
    np.testing.assert_allclose(single.nodes, exact.nodes, atol=1e-4)


@pytest.mark.parametrize(("probes", "steps"), [(0, 5), (1, 1)])
def test_too_few_probes_or_steps_are_refused(probes, steps):
    with pytest.raises(ValueError, match="at least 1 and steps"):
        spectral_density(Matrix(torch.eye(3)), torch.zeros(3), probes=probes, steps=steps)


@pytest.mark.parametrize("shape", [(0,), (2, 2), ()])
def test_what_is_no_vector_is_refused(shape):
    with pytest.raises(ValueError, match="must be a vector"):
        spectral_density(Matrix(torch.eye(3)), torch.zeros(shape))


def test_impossible_questions_are_refused():
    spectrum = spectral_density(Diagonal(torch.arange(4.0).double()), vector(4), probes=1, steps=3)
    for width in (0.0, math.nan):
        with pytest.raises(ValueError, match="width is"):
            spectrum.density([0.0], width)
        with pytest.raises(ValueError, match="width is"):
            spectrum.grid(width)
    for share in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="shares are"):
            spectrum.quantiles([share])
