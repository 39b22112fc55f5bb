"""The mean-square ratio from single measurements."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshock.dynamics import adam_recursion, mean_square_ratio
from foreshock.forecast import NoiseAverage, noise_interval


def average_of(measurements) -> NoiseAverage:
    average = NoiseAverage()
    for mean, variance in measurements:
        average.update(mean=mean, variance=variance, noise_factor=19.0)
    return average


@given(st.floats(0.01, 2), st.floats(0, 1))
def test_one_value_all_along_is_the_ratio_of_the_recursion(mean, variance):
    """With η = 2(1 + β₁)/(1 − β₁) curvatures are in multiples of the edge."""
    average = average_of([(mean, variance)] * 5)
    expected = mean_square_ratio(adam_recursion(0.9), learning_rate=38.0, mean=mean, variance=variance)
    assert average.ratio == pytest.approx(expected, rel=1e-9)
    assert average.typical_ratio == pytest.approx(expected, rel=1e-9)
    assert average.curvature_share == pytest.approx(mean / expected, rel=1e-9)


def test_mean_and_variance_are_averaged_each_on_its_own():
    average = NoiseAverage()
    for mean in (0.1, 0.2, 0.1, 0.2):
        average.update(mean=mean, variance=0.01, noise_factor=19.0)
        assert math.isnan(average.ratio)
    average.update(mean=math.nan, variance=0.01, noise_factor=19.0)
    assert average.count == 4
    average.update(mean=0.1, variance=0.03, noise_factor=19.0)
    mean = 0.1
    for value in (0.2, 0.1, 0.2, 0.1):
        mean += (value - mean) / 8
    assert average.ratio == pytest.approx(mean + 19 * (0.01 + 0.02 / 8) / mean)


def test_without_positive_mean_curvature_there_is_no_edge():
    average = average_of([(0.1, 0.01)] * 5 + [(-1.0, 0.01)] * 99)
    assert math.isnan(average.ratio)
    assert math.isnan(average.typical_ratio)
    assert math.isnan(average.curvature_share)


def test_one_rare_batch_does_not_decide_what_is_typical():
    usual, rare = (0.1, 0.001), (0.1, 10.0)
    average = average_of([usual, usual, rare, usual, usual])
    single = 0.1 + 19 * 0.001 / 0.1
    assert average.typical_ratio == pytest.approx(single ** (4 / 5) * (0.1 + 1900) ** (1 / 5), rel=1e-9)
    assert average.ratio > 100


def test_a_spike_is_no_longer_typical_after_five_measurements():
    average = average_of([(5.0, 100.0)] * 9 + [(0.1, 0.0)] * 5)
    assert average.typical_ratio == pytest.approx(0.1, rel=1e-9)
    assert average.curvature_share == pytest.approx(1.0)


def test_too_few_usable_measurements_tell_nothing():
    average = average_of([(0.1, 0.0), (-0.2, 1.0), (0.0, 1.0), (0.1, 0.0)])
    assert math.isnan(average.typical_ratio)
    assert average.usable == 2
    average.update(mean=0.1, variance=0.0, noise_factor=1.0)
    assert average.typical_ratio == pytest.approx(0.1)


def test_a_raise_of_v_lowers_the_ratio_as_new_measurements_would():
    average = average_of([(0.1, 0.01)] * 9)
    average.lower(1.3)
    fresh = average_of([(0.1 / 1.3, 0.01 / 1.3**2)] * 9)
    assert average.ratio == pytest.approx(fresh.ratio)
    assert average.typical_ratio == pytest.approx(fresh.typical_ratio)
    assert average.curvature_share == pytest.approx(fresh.curvature_share)


def test_a_resumed_average_goes_on():
    average, resumed = average_of([(0.1, 0.01), (0.2, 0.02), (-0.1, 0.0), (0.3, 0.0)]), NoiseAverage()
    resumed.load_state_dict(json.loads(json.dumps(average.state_dict())))
    for one in (average, resumed):
        one.update(mean=0.3, variance=0.0, noise_factor=19.0)
    assert resumed.count == average.count == 5
    assert resumed.ratio == average.ratio
    assert resumed.typical_ratio == average.typical_ratio


def test_noise_is_measured_five_times_as_often_while_v_lags():
    assert [noise_interval(lag) for lag in (0.5, 1.5, 1.6, math.nan)] == [50, 50, 10, 50]
    assert [noise_interval(lag, every=4) for lag in (1.0, 2.0)] == [20, 4]


def test_noise_far_below_its_edge_is_measured_less_often():
    ratios = (0.0, 0.29, 0.3, 0.49, 0.5, 7.0, math.nan)
    assert [noise_interval(9.0, ratio=ratio) for ratio in ratios] == [50, 50, 20, 20, 10, 10, 10]
    assert {noise_interval(1.0, every=4, ratio=ratio) for ratio in ratios} == {20}


def test_the_typical_ratio_is_that_of_the_present_measurements():
    """It is computed once for many steps: whatever changes them must change it."""
    average = NoiseAverage()
    for mean in (0.1, 0.2, 0.4):
        average.update(mean=mean, variance=0.0, noise_factor=19.0)
    assert average.typical_ratio == pytest.approx(0.2)
    saved = average.state_dict()
    average.lower(2.0)
    assert average.typical_ratio == pytest.approx(0.1)
    average.update(mean=1.6, variance=0.0, noise_factor=19.0)
    assert average.typical_ratio == pytest.approx((0.05 * 0.1 * 0.2 * 1.6) ** 0.25)
    average.load_state_dict(saved)
    assert average.typical_ratio == pytest.approx(0.2)
    assert average.curvature_share == pytest.approx(1)
