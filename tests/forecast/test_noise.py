"""The mean-square ratio from single measurements."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshock.dynamics import adam_recursion, mean_square_ratio
from foreshock.forecast import NoiseTracker


def track(measurements) -> NoiseTracker:
    tracker = NoiseTracker()
    for mean, variance in measurements:
        tracker.update(mean=mean, variance=variance, noise_factor=19.0)
    return tracker


@given(st.floats(0.01, 2), st.floats(0, 1))
def test_one_value_all_along_is_the_ratio_of_the_recursion(mean, variance):
    """With η = 2(1 + β₁)/(1 − β₁) curvatures are in multiples of the edge."""
    known = track([(mean, variance)] * 5).known()
    expected = mean_square_ratio(adam_recursion(0.9), learning_rate=38.0, mean=mean, variance=variance)
    assert known.ratio == pytest.approx(expected, rel=1e-9)
    assert known.mean == pytest.approx(mean, rel=1e-9)


def test_one_rare_batch_does_not_decide():
    usual, rare = (0.1, 0.001), (0.1, 10.0)
    known = track([usual, usual, rare, usual, usual]).known()
    single = 0.1 + 19 * 0.001 / 0.1
    assert known.ratio == pytest.approx(single ** (4 / 5) * (0.1 + 1900) ** (1 / 5), rel=1e-9)


def test_a_spike_is_forgotten_after_five_measurements():
    known = track([(5.0, 100.0)] * 9 + [(0.1, 0.0)] * 5).known()
    assert known.ratio == pytest.approx(0.1, rel=1e-9)


def test_too_few_usable_measurements_tell_nothing():
    tracker = track([(0.1, 0.0), (-0.2, 1.0), (0.0, 1.0), (0.1, 0.0)])
    assert math.isnan(tracker.known().ratio)
    assert tracker.known().count == 2
    assert tracker.update(mean=0.1, variance=0.0, noise_factor=1.0).count == 3


def test_a_resumed_tracker_goes_on():
    tracker, resumed = track([(0.1, 0.01), (0.2, 0.02), (-0.1, 0.0)]), NoiseTracker()
    resumed.load_state_dict(json.loads(json.dumps(tracker.state_dict())))
    assert resumed.known().count == tracker.known().count == 2
    more = {"mean": 0.3, "variance": 0.0, "noise_factor": 19.0}
    assert resumed.update(**more) == tracker.update(**more)
