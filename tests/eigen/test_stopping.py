"""The stopping rule: what it demands, and that its derivation holds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshock.eigen import StoppingRule


@given(st.floats(1e-6, 1e6), st.floats(1e-3, 1e3))
def test_with_a_threshold_the_demand_stays_between_its_two_ends(value, threshold):
    rule = StoppingRule(threshold=threshold)
    assert 0.005 <= rule.tolerance(value) <= 0.02
    assert rule.tolerance(value) == pytest.approx(rule.tolerance(threshold**2 / value))
    assert StoppingRule().tolerance(value) == 0.005


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(
    ("distance", "expected"),
    [(0, 0.005), (0.049, 0.005), (0.1, 0.01), (0.15, 0.015), (0.21, 0.02), (3, 0.02)],
)
def test_the_demand_grows_with_the_distance(sign, distance, expected):
    rule = StoppingRule(threshold=2.0)
    assert rule.tolerance(2 * math.exp(sign * distance)) == pytest.approx(expected)


def test_an_allowed_error_moves_the_crossing_by_a_tenth_at_most():
    """The derivation: k = d/s, so that an error e in ln λ moves k by e/s."""
    slope = 5e-4
    rule = StoppingRule(threshold=1.0)
    for value in (0.6, 0.8, 0.9, 0.94):
        error = rule.tolerance(value)
        steps = -math.log(value) / slope
        late = -math.log(value * (1 - error)) / slope
        assert (late - steps) / steps <= 0.1 * 1.01  # second order of the logarithm


def test_the_far_tolerance_leaves_the_slope_of_pure_decay_visible():
    """√12·e/(W√m) is the standard error of a slope; checked by fitting lines to noise."""
    rng = np.random.default_rng(0)
    steps = np.linspace(0, 100, 10)
    noise = StoppingRule().far_tolerance * rng.standard_normal((4000, len(steps)))
    slopes = np.polyfit(steps, noise.T, 1)[0]
    assert slopes.std() < 5e-4 / 2


def test_a_tolerance_above_the_far_one_is_kept():
    assert StoppingRule(0.1, threshold=1.0).tolerance(0.01) == 0.1


@pytest.mark.parametrize(
    ("value", "error", "allowed"),
    [
        (1.0, 0.005, True),
        (1.0, 0.0051, False),
        (0.5, 0.01, True),
        (0.5, 0.0101, False),
        (-3.0, 0.06, True),
        (-3.0, 0.061, False),
        (0.0, 0.02, True),
        (0.0, 0.021, False),
        (math.nan, 0.0, False),
        (1.0, math.nan, False),
    ],
)
def test_what_is_good_enough(value, error, allowed):
    assert StoppingRule(threshold=1.0).allows(value, error) is allowed


def test_without_a_threshold_zero_takes_an_exact_answer():
    assert StoppingRule().allows(0.0, 0.0)
    assert not StoppingRule().allows(0.0, 1e-12)


@pytest.mark.parametrize(("tolerance", "products"), [(0.0, 20), (math.nan, 20), (1e-3, 0)])
def test_an_impossible_stopping_rule_is_refused(tolerance, products):
    with pytest.raises(ValueError, match="the first must be positive"):
        StoppingRule(tolerance, products)


@pytest.mark.parametrize("threshold", [0.0, -1.0, math.nan, math.inf])
def test_an_impossible_threshold_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold is"):
        StoppingRule(threshold=threshold)


@pytest.mark.parametrize("far", [0.0, math.nan])
def test_an_impossible_far_tolerance_is_refused(far):
    with pytest.raises(ValueError, match="far_tolerance is"):
        StoppingRule(far_tolerance=far)


@pytest.mark.parametrize("caution", [0.0, 0.99, math.nan, math.inf])
def test_a_caution_below_the_residual_is_refused(caution):
    with pytest.raises(ValueError, match=r"caution is .*; it must be at least 1"):
        StoppingRule(caution=caution)
