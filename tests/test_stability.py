"""Thresholds against the recursions they are about."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshock.stability import (
    adam_threshold,
    gradient_descent_threshold,
    growth_factor,
    heavy_ball_threshold,
    momentum_factor,
    stability_ratio,
    steps_to_visible,
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


def heavy_ball(rate: float, momentum: float, curvature: float):
    """Return one step of torch's SGD with momentum on ½λθ²."""

    def advance(state):
        theta, buffer = state
        buffer = momentum * buffer + curvature * theta
        return np.array([theta - rate * buffer, buffer])

    return advance


@pytest.mark.parametrize("beta1", [0.0, 0.5, 0.9, 0.95])
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_adam_threshold_divides_decay_from_growth(beta1, decay):
    edge = adam_threshold(0.1, beta1=beta1, decoupled_decay=decay)
    assert amplitude(ema_momentum(0.1, beta1, 0.995 * edge, decay)) < 1e-3
    assert amplitude(ema_momentum(0.1, beta1, 1.005 * edge, decay)) == math.inf


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_heavy_ball_threshold_divides_decay_from_growth(momentum):
    edge = heavy_ball_threshold(0.1, momentum=momentum)
    assert amplitude(heavy_ball(0.1, momentum, 0.995 * edge)) < 1e-3
    assert amplitude(heavy_ball(0.1, momentum, 1.005 * edge)) == math.inf


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
        (lambda: momentum_factor(0.9, 0), "first update of Adam is step 1"),
        (lambda: adam_threshold(0.0, beta1=0.9), "positive learning rate"),
        (lambda: heavy_ball_threshold(math.nan, momentum=0.0), "learning_rate is nan"),
        (lambda: growth_factor(math.nan, beta1=0.9), "ratio is NaN"),
        (lambda: steps_to_visible(1.1, beta1=0.9, magnification=0.5), "at least 1"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
