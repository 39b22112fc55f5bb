"""The reduced model of a spike against simulated spikes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from foreshock.dynamics import (
    AdamSettings,
    Drift,
    Quadratic,
    find_excursions,
    severity,
    simulate,
    simulate_adam_on_quadratic,
    steps_to_visible_spike,
)
from foreshock.stability import growth_factor

_RANDOM = np.random.default_rng(3)
_BASIS = np.linalg.qr(_RANDOM.standard_normal((4, 4)))[0]
_DENSE = (_BASIS * np.geomspace(1, 0.03, 4)) @ _BASIS.T


def predict(columns, at, beta1, beta2):
    ratio, second, squared = columns
    lag = float(second[at] / squared[at] / (1 - beta2 ** (at + 1)))
    return severity(
        float(ratio[at]),
        instant_lag=lag,
        drift=Drift(beta2, step=at + 1),
        growth_factor=lambda r: growth_factor(r, beta1=beta1),
    )


def simulated(problem, rate, beta1, beta2, steps):
    runs = simulate(problem, AdamSettings(rate, beta1, beta2), steps=steps, dtype=np.longdouble)
    return [column[:, 0] for column in (runs.stability_ratio, runs.second_moment, runs.squared_gradient)]


def predictions(columns, beta1, beta2, ahead):
    """(prediction, excursion, at) for every visible spike with a quiet stretch of `ahead` steps before it."""
    found, end = [], 0
    for excursion in find_excursions(*columns):
        at = excursion.start - ahead
        if excursion.log_magnification > math.log(4) and at > end + ahead and columns[2][at] > 1e-300:
            found.append((predict(columns, at, beta1, beta2), excursion, at))
        end = excursion.peak
    return found


@pytest.mark.parametrize("ahead", [0, 20, 60])
def test_without_momentum_in_one_dimension_the_model_is_exact(ahead):
    """There the amplitude is the only mode: the model is Adam itself, up to rounding."""
    columns = simulated(Quadratic(1.0), 0.15, 0.0, 0.997, 3500)
    found = predictions(columns, 0.0, 0.997, ahead)
    assert len(found) >= 2
    for expected, excursion, at in found:
        assert expected.steps_to_threshold == ahead
        assert at + expected.steps_to_peak == excursion.end
        assert expected.peak_ratio == pytest.approx(excursion.peak_ratio, rel=1e-6)
        actual = float(np.log(columns[2][excursion.end]) - np.log(columns[2][at]))
        assert expected.log_magnification == pytest.approx(actual, abs=1e-3)


@pytest.mark.parametrize(
    ("problem", "cases"),
    [
        (Quadratic(1.0), [(0.01, 0.9, 0.99), (0.05, 0.9, 0.995), (0.1, 0.5, 0.99)]),
        (Quadratic((_DENSE + _DENSE.T) / 2), [(0.02, 0.9, 0.99), (0.05, 0.5, 0.99)]),
    ],
    ids=["one dimension", "four, dense"],
)
@pytest.mark.parametrize("ahead", [0, 20])
def test_with_momentum_the_ranks_are_right_and_the_bias_is_known(problem, cases, ahead):
    expected, actual, steps, overshoot = [], [], [], []
    for rate, beta1, beta2 in cases:
        columns = simulated(problem, rate, beta1, beta2, 4000)
        for prediction, excursion, at in predictions(columns, beta1, beta2, ahead):
            expected.append(prediction.log_magnification)
            actual.append(float(np.log(columns[2][excursion.peak]) - np.log(columns[2][at])))
            steps.append(prediction.steps_to_peak - excursion.peak + at)
            overshoot.append(prediction.peak_ratio - excursion.peak_ratio)
    assert len(actual) >= 20
    assert spearmanr(expected, actual).statistic > 0.95
    bias = np.median(np.array(expected) - np.array(actual)) / math.log(10)
    assert -0.35 < bias < 0  # decades; the gradient goes on rising for a moment while the ratio falls
    assert abs(np.median(steps)) <= 2
    assert abs(np.median(overshoot)) < 0.01


@given(st.floats(0.5, 1.0), st.floats(12, 200), st.floats(0.95, 0.999), st.sampled_from([0.0, 0.9]))
def test_a_longer_lag_makes_a_higher_spike(ratio, log_lag, beta2, beta1):
    def expected(lag):
        return severity(
            ratio,
            instant_lag=lag,
            drift=Drift(beta2),
            growth_factor=lambda r: max(1.0, growth_factor(r, beta1=beta1)),
        )

    far, near = expected(math.exp(log_lag)), expected(math.exp(log_lag) / 10)
    assert far.log_magnification > near.log_magnification
    assert far.peak_ratio >= near.peak_ratio


def test_closed_form_of_the_peak_near_the_edge():
    """x_peak ≈ (r² − 1)(1 − G⁻²)/(1 − β₂), to a factor of two."""
    expected = severity(
        1.0, instant_lag=1e12, drift=Drift(0.999), growth_factor=lambda r: growth_factor(r, beta1=0.9)
    )
    growth = growth_factor(expected.peak_ratio, beta1=0.9)
    closed = (expected.peak_ratio**2 - 1) * (1 - growth**-2) / 0.001
    assert 0.5 < 1e-12 * math.exp(expected.log_magnification) / closed < 2


def test_a_gradient_that_rests_holds_v_and_postpones_the_crossing():
    def crossing(ratio):
        def held(_ratio):
            return 1.0

        found = severity(ratio, instant_lag=2.0, drift=Drift(0.99), growth_factor=held, share=1e-6)
        return found.steps_to_threshold

    # V_k = 0.99ᵏ + 0.5(1 − 0.99ᵏ) falls to 0.8² when 0.99ᵏ = 0.28, and never to 0.5².
    assert crossing(0.8) == math.ceil(math.log(0.28) / math.log(0.99))
    assert crossing(0.5) == math.inf


def test_a_falling_learning_rate_prevents_the_spike():
    drift = Drift(0.99, learning_rates=lambda k: 0.9**k)
    expected = severity(0.9, instant_lag=10.0, drift=drift, growth_factor=lambda r: 0.9)
    assert expected.steps_to_threshold == math.inf
    assert math.isnan(expected.log_magnification)
    assert math.isnan(expected.peak_ratio)


def test_visible_spike_integrates_the_growth_of_the_decaying_system():
    """Against the recursion itself, β₁ = 0.9, its ratio rising by pure decay of v from 1.0005."""
    beta1, beta2, wanted = 0.9, 0.999, 1e6
    steps = steps_to_visible_spike(
        1.0005,
        drift=Drift(beta2),
        growth_factor=lambda r: growth_factor(r, beta1=beta1),
        magnification=wanted,
    )
    delta, previous, trail = 1.0, -1.0, [1.0]
    for k in range(200):
        ratio = 1.0005 * beta2 ** (-k / 2)
        delta, previous = (1 + beta1) * (1 - 2 * ratio) * delta - beta1 * previous, delta
        trail.append(abs(delta))
    seen = next(k for k, size in enumerate(trail) if size >= wanted)
    # The start is not along the growing mode alone, and the mode turns as the ratio rises.
    assert steps == pytest.approx(seen, abs=4)
    fixed = math.log(wanted) / math.log(growth_factor(1.0005, beta1=beta1))
    assert steps < fixed / 2


def test_visible_spike_is_interpolated_within_its_last_step():
    steps = steps_to_visible_spike(
        1.5, drift=Drift(0.99), growth_factor=lambda r: 2.0, magnification=2.0**2.25
    )
    assert steps == pytest.approx(2.25)


def test_visible_spike_waits_for_the_crossing():
    drift, growth = Drift(0.999), lambda r: growth_factor(r, beta1=0.0)
    at_edge = steps_to_visible_spike(1.0, drift=drift, growth_factor=growth, magnification=50.0)
    earlier = steps_to_visible_spike(0.999**0.5, drift=drift, growth_factor=growth, magnification=50.0)
    assert earlier == pytest.approx(at_edge + 1, abs=1e-6)
    assert steps_to_visible_spike(2.0, drift=drift, growth_factor=growth, magnification=1.0) == 0
    falling = Drift(0.999, growth=-0.01)
    assert steps_to_visible_spike(1.0, drift=falling, growth_factor=growth, magnification=9.0) == math.inf


@pytest.mark.parametrize(
    ("ratio", "instant_lag", "share"),
    [(0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (1.0, math.nan, 1.0), (1.0, 1.0, 0.0), (1.0, 1.0, 1.1)],
)
def test_impossible_states_are_refused(ratio, instant_lag, share):
    with pytest.raises(ValueError, match="all must be positive and finite"):
        severity(ratio, instant_lag=instant_lag, drift=Drift(0.99), growth_factor=lambda r: 1.0, share=share)


@pytest.mark.parametrize(
    ("ratio", "magnification"), [(0.0, 2.0), (math.nan, 2.0), (1.0, 0.5), (1.0, math.inf)]
)
def test_impossible_waits_are_refused(ratio, magnification):
    with pytest.raises(ValueError, match=r"ratio is|magnification is"):
        steps_to_visible_spike(
            ratio, drift=Drift(0.99), growth_factor=lambda r: 2.0, magnification=magnification
        )


def test_drift_starts_at_zero():
    assert Drift(0.9, growth=0.5, learning_rates=[3.0], step=4).under_decay(0) == 0.0
    run = simulate_adam_on_quadratic(50, learning_rate=0.1, betas=(0.9, 0.99))
    assert run.loss.shape == (50,)
