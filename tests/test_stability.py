"""Thresholds against the recursions they are about."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from foreshock.stability import (
    adam_threshold,
    blended_momentum_factor,
    gradient_descent_threshold,
    growing_ratio,
    growth_factor,
    heavy_ball_factor,
    heavy_ball_threshold,
    momentum_factor,
    nadam_threshold,
    stability_ratio,
    steps_to_visible,
    with_decoupled_decay,
)

betas = st.floats(0, 0.99)
rates = st.floats(1e-4, 10)


def amplitude(advance, steps: int = 20_000) -> float:
    """Return the size of a linear recursion's state after many steps from a unit deviation."""
    state = np.array([1.0, 0.3])
    for _ in range(steps):
        state = advance(state)
        if abs(state[0]) > 1e9:
            return math.inf
    return float(np.abs(state).max())


def ema_momentum(rate: float, beta: float, curvature: float, decay: float = 0.0):
    """Return one step of Adam with D = 1 on ½λθ², as torch orders it: decay, average, step."""

    def advance(state):
        theta, m = state
        m = beta * m + (1 - beta) * curvature * theta
        return np.array([(1 - rate * decay) * theta - rate * m, m])

    return advance


def heavy_ball(rate: float, curvature: float, *, momentum=0.0, dampening=0.0, nesterov=False, decay=0.0):
    """Return one step of torch's SGD on ½λθ², with decoupled decay as an addition."""

    def advance(state):
        theta, buffer = state
        gradient = curvature * theta
        buffer = momentum * buffer + (1 - dampening) * gradient
        step = gradient + momentum * buffer if nesterov else buffer
        return np.array([(1 - rate * decay) * theta - rate * step, buffer])

    return advance


def nadam(rate: float, beta: float, curvature: float, decay: float = 0.0):
    """Return one step of NAdam on ½λθ² with D = 1, once μ_t = β₁ and the products are zero."""

    def advance(state):
        theta, m = state
        gradient = curvature * theta
        m = beta * m + (1 - beta) * gradient
        return np.array([(1 - rate * decay) * theta - rate * ((1 - beta) * gradient + beta * m), m])

    return advance


def blended(rate: float, curvature: float, beta: float, weights: tuple[float, float, float]):
    """Return the matrix of one step a·g + b·m with m ← βm + γg on ½λθ²."""
    gain, direct, averaged = weights
    return np.array(
        [
            [1 - rate * curvature * (direct + averaged * gain), -rate * averaged * beta],
            [gain * curvature, beta],
        ]
    )


@pytest.mark.parametrize("beta1", [0.0, 0.5, 0.9, 0.95])
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_adam_threshold_divides_decay_from_growth(beta1, decay):
    edge = adam_threshold(0.1, beta1=beta1, decoupled_decay=decay)
    assert amplitude(ema_momentum(0.1, beta1, 0.995 * edge, decay)) < 1e-3
    assert amplitude(ema_momentum(0.1, beta1, 1.005 * edge, decay)) == math.inf


@pytest.mark.parametrize("decay", [0.0, 0.5, 12.0])
@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.0},
        {"momentum": 0.5},
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.9},
        {"momentum": 0.5, "dampening": 0.2},
        {"momentum": 0.5, "nesterov": True},
        {"momentum": 0.95, "nesterov": True},
    ],
)
def test_heavy_ball_threshold_divides_decay_from_growth(options, decay):
    edge = heavy_ball_threshold(0.1, decoupled_decay=decay, **options)
    assert amplitude(heavy_ball(0.1, 0.995 * edge, decay=decay, **options)) < 1e-3
    assert amplitude(heavy_ball(0.1, 1.005 * edge, decay=decay, **options)) == math.inf


@pytest.mark.parametrize("beta1", [0.0, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_nadam_threshold_divides_decay_from_growth(beta1, decay):
    edge = nadam_threshold(0.1, beta1=beta1, decoupled_decay=decay)
    assert amplitude(nadam(0.1, beta1, 0.995 * edge, decay)) < 1e-3
    assert amplitude(nadam(0.1, beta1, 1.005 * edge, decay)) == math.inf


weights = st.tuples(st.floats(0.01, 2), st.floats(0, 2), st.floats(0.01, 2))


@given(rates, betas, weights)
def test_blended_factor_puts_a_root_on_the_circle_and_none_outside(rate, beta, weights):
    gain, direct, averaged = weights
    factor = blended_momentum_factor(beta, gain=gain, direct=direct, averaged=averaged)
    roots = np.linalg.eigvals(blended(rate, 2 / rate / factor, beta, weights))
    assert np.abs(roots).max() == pytest.approx(1.0, abs=1e-9)
    assert np.abs(roots + 1).min() == pytest.approx(0.0, abs=1e-9)
    outside = np.linalg.eigvals(blended(rate, 2.02 / rate / factor, beta, weights))
    inside = np.linalg.eigvals(blended(rate, 1.98 / rate / factor, beta, weights))
    assert np.abs(inside).max() < 1 < np.abs(outside).max()


@given(st.floats(1.0, 3.0), betas, weights)
def test_growth_with_a_direct_share_is_the_largest_root(ratio, beta, weights):
    gain, direct, averaged = weights
    factor = blended_momentum_factor(beta, gain=gain, direct=direct, averaged=averaged)
    roots = np.linalg.eigvals(blended(1.0, 2 * ratio / factor, beta, weights))
    growth = growth_factor(ratio, beta1=beta, direct_share=direct / factor)
    # A double root, or nearly one, keeps half of the digits.
    assert growth == pytest.approx(np.abs(roots).max(), rel=1e-6)


@pytest.mark.parametrize("beta", [0.5, 0.9])
def test_direct_share_of_nesterov_and_nadam(beta):
    share = (1 + beta) / (1 + 2 * beta)
    assert 1 / heavy_ball_factor(beta, nesterov=True) == pytest.approx(share)
    nadam_factor = 2 / nadam_threshold(1.0, beta1=beta)
    assert (1 - beta) / nadam_factor == pytest.approx(share)


@given(st.floats(0, 1.99))
def test_decoupled_decay_scales_every_factor_alike(shrinkage):
    assert with_decoupled_decay(3.0, shrinkage) == pytest.approx(3 / (1 - shrinkage / 2))


def test_borders():
    assert with_decoupled_decay(1.0, 2.0) == math.inf
    assert heavy_ball_threshold(0.1, momentum=0.0, decoupled_decay=20.0) == 0
    assert heavy_ball_threshold(0.1, momentum=0.9, dampening=1.0) == math.inf
    assert heavy_ball_factor(0.0, dampening=0.5) == 1.0


@given(rates, betas)
def test_momentum_factor_folds_adam_into_two_over_eta(rate, beta1):
    folded = momentum_factor(beta1) * adam_threshold(rate, beta1=beta1)
    assert folded == pytest.approx(gradient_descent_threshold(rate), rel=1e-12)
    assert stability_ratio(folded, rate) == pytest.approx(1.0, rel=1e-12)


@given(betas, st.integers(1, 10_000))
def test_momentum_factor_falls_to_its_limit(beta1, step):
    assert momentum_factor(beta1, step) >= momentum_factor(beta1, step + 1)
    assert momentum_factor(beta1, step) >= momentum_factor(beta1)


@pytest.mark.parametrize("beta1", [0.0, 0.9])
@pytest.mark.parametrize("ratio", [1.01, 1.05, 1.3])
def test_growth_factor_is_that_of_the_recursion(beta1, ratio):
    advance = ema_momentum(1.0, beta1, ratio * adam_threshold(1.0, beta1=beta1))
    # After many steps the larger root alone is left.
    state = np.array([1.0, 0.3])
    for _ in range(400):
        state = advance(state)
        state /= np.abs(state).max()
    grown = abs(advance(state)[0] / state[0])
    assert growth_factor(ratio, beta1=beta1) == pytest.approx(grown, rel=1e-9)


@given(st.floats(1, 50), betas, st.floats(0, 1))
def test_the_ratio_of_a_growth_inverts_the_growth_of_a_ratio(ratio, beta1, share):
    factor = growth_factor(ratio, beta1=beta1, direct_share=share)
    assume(factor > 1 + 1e-6)
    assert growing_ratio(factor, beta1=beta1, direct_share=share) == pytest.approx(ratio, rel=1e-6)


@given(st.floats(0, 0.999), betas)
def test_nothing_grows_below_the_edge(ratio, beta1):
    assert growth_factor(ratio, beta1=beta1) <= 1
    assert steps_to_visible(ratio, beta1=beta1, magnification=10.0) == math.inf


def test_steps_to_visible_counts_the_steps_of_the_growth():
    factor = growth_factor(1.02, beta1=0.9)
    steps = steps_to_visible(1.02, beta1=0.9, magnification=50.0)
    assert factor**steps == pytest.approx(50.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: momentum_factor(1.0), r"beta1 is 1.0; it must lie in \[0, 1\)"),
        (lambda: momentum_factor(math.nan), "beta1 is nan"),
        (lambda: momentum_factor(0.9, 0), "at least 1, the first update of Adam"),
        (lambda: adam_threshold(0.0, beta1=0.9), "must be positive, since at rate 0"),
        (lambda: heavy_ball_threshold(math.nan, momentum=0.0), "learning_rate is nan"),
        (lambda: blended_momentum_factor(1.0, gain=1.0, direct=0.0, averaged=1.0), "beta is 1.0"),
        (
            lambda: blended_momentum_factor(0.5, gain=1.0, direct=-1.0, averaged=1.0),
            "none of these weights may be negative",
        ),
        (lambda: heavy_ball_factor(0.9, dampening=1.5), "none of these weights may be negative"),
        (lambda: with_decoupled_decay(1.0, math.nan), "shrinkage is nan"),
        (lambda: growth_factor(1.1, beta1=0.9, direct_share=1.5), "direct_share is 1.5"),
        (lambda: growth_factor(math.nan, beta1=0.9), "ratio is NaN"),
        (lambda: growing_ratio(0.9, beta1=0.9), "factor is 0.9"),
        (lambda: growing_ratio(math.nan, beta1=0.9), "factor is nan"),
        (lambda: growing_ratio(1.1, beta1=0.9, direct_share=1.5), "direct_share is 1.5"),
        (lambda: steps_to_visible(1.1, beta1=0.9, magnification=0.5), "at least 1"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
