"""The mean-square edge against the spectral radius of the second-moment map and against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from foreshock.dynamics import (
    LinearRecursion,
    adam_recursion,
    gradient_descent_recursion,
    heavy_ball_recursion,
    mean_square_map,
    mean_square_ratio,
    mean_square_spectral_radius,
    nadam_recursion,
    noise_gain,
    population_factor,
)

RECURSIONS = {
    "gradient descent": gradient_descent_recursion(),
    "adam": adam_recursion(0.9),
    "adam, early": adam_recursion(0.9, step=3),
    "adam, beta1 0.5": adam_recursion(0.5),
    "rmsprop, momentum": heavy_ball_recursion(0.9),
    "heavy ball, dampened": heavy_ball_recursion(0.7, dampening=0.4),
    "nesterov": heavy_ball_recursion(0.9, nesterov=True),
    "nadam": nadam_recursion(0.9),
    "adamw": adam_recursion(0.9).with_decoupled_decay(0.02),
    "adamw, strong": adam_recursion(0.8).with_decoupled_decay(1.3),
    "nadam, decay": nadam_recursion(0.9).with_decoupled_decay(0.05),
    "nesterov, decay": heavy_ball_recursion(0.9, nesterov=True).with_decoupled_decay(0.3),
}
every_recursion = pytest.mark.parametrize("recursion", RECURSIONS.values(), ids=RECURSIONS.keys())


def kronecker_radius(recursion, rate, mean, variance):
    """Spectral radius of E[A ⊗ A], written down independently of the library's three-by-three map."""

    def step_matrix(h):
        momentum = np.array([recursion.gain * h, recursion.decay])
        theta = np.array([1 - recursion.shrinkage, 0.0])
        theta = theta - rate * (recursion.direct * np.array([h, 0.0]) + recursion.averaged * momentum)
        return np.array([theta, momentum])

    # Two points at one standard deviation have the right first two moments, which is all A ⊗ A needs.
    matrices = [step_matrix(mean + sign * math.sqrt(variance)) for sign in (-1, 1)]
    return np.abs(np.linalg.eigvals(sum(np.kron(m, m) for m in matrices) / 2)).max()


def edge(recursion, mean, variance):
    """The learning rate at which MSS is one, by bisection."""
    low, high = 1e-9, 1e3
    for _ in range(200):
        middle = math.sqrt(low * high)
        stable = mean_square_ratio(recursion, learning_rate=middle, mean=mean, variance=variance) < 1
        low, high = (middle, high) if stable else (low, middle)
    return low


@every_recursion
@pytest.mark.parametrize(("mean", "variance"), [(1.0, 0.05), (3.0, 9.0), (0.2, 5.0)])
def test_spectral_radius_is_one_where_the_ratio_is(recursion, mean, variance):
    rate = edge(recursion, mean, variance)
    assert mean_square_ratio(recursion, learning_rate=rate, mean=mean, variance=variance) == pytest.approx(
        1.0, abs=1e-10
    )
    radius = mean_square_spectral_radius(recursion, learning_rate=rate, mean=mean, variance=variance)
    assert radius == pytest.approx(1.0, abs=1e-8)
    assert radius == pytest.approx(kronecker_radius(recursion, rate, mean, variance), abs=1e-12)


@given(
    st.sampled_from(list(RECURSIONS.values())),
    st.floats(0.001, 20),
    st.floats(-0.3, 3),
    st.floats(0, 10),
)
@example(adam_recursion(0.9), 6.0, 5e-324, 1.0)
def test_ratio_is_below_one_exactly_where_the_radius_is(recursion, rate, mean, variance):
    ratio = mean_square_ratio(recursion, learning_rate=rate, mean=mean, variance=variance)
    radius = kronecker_radius(recursion, rate, mean, variance)
    assume(abs(radius - 1) > 1e-9)  # closer, rounding decides
    assert (ratio < 1) == (radius < 1)
    assert mean_square_spectral_radius(
        recursion, learning_rate=rate, mean=mean, variance=variance
    ) == pytest.approx(radius, rel=1e-6)


@given(st.floats(0, 0.999), st.integers(1, 500), st.floats(0.001, 10), st.floats(0.01, 3), st.floats(0, 9))
def test_adam_has_the_closed_form_with_the_bias_correction_on_both_terms(beta1, step, rate, mean, variance):
    correction = 1 - beta1**step
    factor = (1 - beta1) / (1 + beta1) / correction
    expected = rate / 2 * (factor * mean + variance / mean / correction)
    ratio = mean_square_ratio(adam_recursion(beta1, step), learning_rate=rate, mean=mean, variance=variance)
    assert ratio == pytest.approx(expected, rel=1e-9)


def test_early_adam_is_unstable_below_the_edge_without_bias_correction_of_the_noise():
    """At t = 1 the correction is tenfold: σ²/μ without it would call this stable."""
    adam, rate, mean, variance = adam_recursion(0.9, step=1), 0.5, 0.1, 0.1
    factor = 0.1 / 1.9 / 0.1
    assert rate / 2 * (factor * mean + variance / mean) < 0.3
    assert kronecker_radius(adam, rate, mean, variance) > 1


@pytest.mark.parametrize(
    ("name", "factor"),
    [
        ("gradient descent", 1.0),
        ("adam", 0.1 / 1.9),
        ("rmsprop, momentum", 1 / 1.9),
        ("nesterov", 2.8 / 1.9),
        ("nadam", 0.1 * 2.8 / 1.9),
        ("adamw", 0.1 / 1.9 / 0.99),
    ],
)
def test_without_noise_the_ratio_is_the_ordinary_one(name, factor):
    ratio = mean_square_ratio(RECURSIONS[name], learning_rate=0.3, mean=2.0, variance=0.0)
    assert ratio == pytest.approx(0.3 * factor)


@every_recursion
def test_noise_gain_is_the_energy_of_the_impulse_response(recursion):
    rate, mean = 0.4, 0.9
    delta, m, energy = -rate * recursion.total, recursion.gain, 0.0
    for _ in range(4000):
        energy += delta * delta
        gradient = mean * delta
        m = recursion.decay * m + recursion.gain * gradient
        delta = (1 - recursion.shrinkage) * delta - rate * (
            recursion.direct * gradient + recursion.averaged * m
        )
    assert noise_gain(recursion, learning_rate=rate, mean=mean) == pytest.approx(energy, rel=1e-9)


@every_recursion
@pytest.mark.parametrize("scale", [0.7, 1.3])
def test_simulated_second_moment_grows_by_the_map(recursion, scale):
    """Monte Carlo, 100,000 runs with normal curvature; the standard error of E[δ²] is its own sample's."""
    rng = np.random.default_rng(0)
    mean, variance, runs, steps = 1.0, 0.3, 100_000, 12
    rate = scale * edge(recursion, mean, variance)
    delta, m = np.ones(runs), np.zeros(runs)
    moments = np.array([1.0, 0.0, 0.0])
    transition = mean_square_map(recursion, learning_rate=rate, mean=mean, variance=variance)
    for _ in range(steps):
        gradient = (mean + math.sqrt(variance) * rng.standard_normal(runs)) * delta
        m = recursion.decay * m + recursion.gain * gradient
        step = recursion.direct * gradient + recursion.averaged * m
        delta = (1 - recursion.shrinkage) * delta - rate * step
        moments = transition @ moments
    # Four standard errors; the tails of δ² are those of a product of twelve normals, hence the short run.
    for sample, exact in zip((delta**2, delta * m, m**2), moments, strict=True):
        assert abs(sample.mean() - exact) < 4 * sample.std() / math.sqrt(runs) + 1e-12


@pytest.mark.parametrize(
    ("recursion", "make"),
    [
        (heavy_ball_recursion(0.9), lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9)),
        (
            heavy_ball_recursion(0.9, nesterov=True),
            lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9, nesterov=True),
        ),
        (
            heavy_ball_recursion(0.9, dampening=0.5),
            lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9, dampening=0.5),
        ),
        (gradient_descent_recursion(), lambda p: torch.optim.SGD(p, lr=0.3)),
    ],
)
def test_recursions_are_torchs_optimizers(recursion, make):
    theta = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
    optimizer = make([theta])
    # torch's first momentum buffer is the gradient, undampened: the recursion starts behind it.
    curvatures = [0.4, 0.9, 0.2, 1.1, 0.5]
    delta, m = 1.0, 0.0
    for index, h in enumerate(curvatures):
        optimizer.zero_grad()
        (h * theta**2 / 2).backward()
        optimizer.step()
        gain = 1.0 if index == 0 and recursion.decay else recursion.gain
        m = recursion.decay * m + gain * h * delta
        delta -= 0.3 * (recursion.direct * h * delta + recursion.averaged * m)
        assert theta.item() == pytest.approx(delta, rel=1e-12)


def test_negative_mean_curvature_needs_weight_decay():
    plain, held = adam_recursion(0.9), adam_recursion(0.9).with_decoupled_decay(0.1)
    assert mean_square_ratio(plain, learning_rate=0.1, mean=-0.5, variance=0.0) == math.inf
    assert mean_square_ratio(held, learning_rate=0.1, mean=-0.5, variance=0.0) < 1
    assert kronecker_radius(held, 0.1, -0.5, 0.0) < 1
    assert mean_square_ratio(plain, learning_rate=0.1, mean=0.0, variance=1.0) == math.inf
    assert mean_square_ratio(plain, learning_rate=0.0, mean=-1.0, variance=1.0) == 0.0


ADAM = adam_recursion(0.9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: adam_recursion(1.0), "decay is 1.0|beta1 is 1.0"),
        (lambda: adam_recursion(0.9, step=0), "step is 0"),
        (lambda: ADAM.with_decoupled_decay(2.0), "weight decay alone makes"),
        (lambda: LinearRecursion(0.5, -1.0, 0.0, 1.0), "none of them may be negative"),
        (lambda: mean_square_ratio(ADAM, learning_rate=0.1, mean=math.nan, variance=1.0), "mean is nan"),
        (lambda: mean_square_ratio(ADAM, learning_rate=0.1, mean=1.0, variance=-1.0), "clip it"),
        (lambda: mean_square_map(ADAM, learning_rate=-0.1, mean=1.0, variance=1.0), "learning_rate is -0.1"),
        (lambda: noise_gain(ADAM, learning_rate=math.inf, mean=1.0), "learning_rate is inf"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(("batch", "examples"), [(20, 10), (0, 10), (5, math.nan)])
def test_a_batch_can_not_be_larger_than_the_set(batch, examples):
    with pytest.raises(ValueError, match="pass the size of the training set"):
        population_factor(batch, examples)
