"""The free signals of a step: the lag of the second moment, bursts of the gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshock.dynamics import LagWindow, SecondMomentSums, SignalTracker, instant_lag, second_moment_lag
from foreshock.dynamics.signals import RunningMedian


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(1e-3, 100)), min_size=1, max_size=5),
    st.floats(0.9, 0.9999),
    st.integers(2, 5000),
)
def test_groups_with_one_beta2_are_as_one_group(groups, beta2, step):
    parts = [SecondMomentSums(g, v, beta2, step) for g, v in groups]
    whole = SecondMomentSums(sum(g for g, _ in groups), sum(v for _, v in groups), beta2, step)
    split, joint = second_moment_lag(parts), second_moment_lag([whole])
    assert split.instant_lag == pytest.approx(joint.instant_lag)
    assert split.decay_exponent == pytest.approx(joint.decay_exponent, rel=1e-6, abs=1e-6)


def test_decay_exponent_is_zero_where_v_stands_still_and_one_where_it_is_blind():
    still = second_moment_lag([SecondMomentSums(2.0, 2.0, 0.99, 500)])
    assert still.decay_exponent == pytest.approx(0.0, abs=1e-12)
    blind = second_moment_lag([SecondMomentSums(0.0, 2.0, 0.99, 500), SecondMomentSums(0.0, 1.0, 0.9, 500)])
    assert blind.decay_exponent == pytest.approx(1.0)


def test_the_first_step_has_a_lag_of_one_and_no_exponent():
    lag = second_moment_lag([SecondMomentSums(3.0, 0.0, 0.999, 1)])
    assert lag.instant_lag == pytest.approx(1.0)
    assert math.isnan(lag.decay_exponent)


def test_gradients_that_were_zero_hide_no_lag_that_is_known():
    window = LagWindow()
    lags = []
    for step in range(120):
        window.update(second_moment=1.0, squared_gradient=0.0 if step < 3 else 0.5)
        lags.append(window.lag)
    assert all(math.isnan(lag) for lag in lags[:3])
    # The mean still has the three zeros in it at first: it is 1/8 of four.
    assert lags[3:53] == pytest.approx([8.0] * 50)
    assert lags[-1] == pytest.approx(2.0)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(1e-6, 1e6)), min_size=1, max_size=90))
def test_where_each_step_has_a_lag_it_is_the_largest_of_fifty(steps):
    window = LagWindow()
    for second_moment, squared_gradient in steps:
        window.update(second_moment=second_moment, squared_gradient=squared_gradient)
    means = [
        math.fsum(g for _, g in steps[max(0, i - 29) : i + 1]) / min(30, i + 1) for i in range(len(steps))
    ]
    assert window.lag == max([v / mean for (v, _), mean in zip(steps, means, strict=True)][-50:])


def test_the_lag_is_the_largest_of_fifty_steps():
    tracker = SignalTracker()
    squares = np.full(200, 0.1)
    squares[100] = 10.0
    lags = [tracker.update(loss=1.0, squared_gradient=g, second_moment=1.0).lag for g in squares]
    assert lags[99] == pytest.approx(10)
    assert lags[149] == pytest.approx(10)
    short = [tracker.update(loss=1.0, squared_gradient=10.0, second_moment=1.0).lag for _ in range(80)]
    # Fifty steps after the burst the old lag is out of sight.
    assert short[48] == pytest.approx(10)
    assert short[79] == pytest.approx(0.1)


def test_a_spike_that_v_has_forgotten_hides_no_lag():
    """With β₂ = .95, v forgets a spike of 10⁴ × within 180 steps; what it then lags behind is the present."""
    tracker = SignalTracker()
    v = 1.0
    for step in range(300):
        square = 1e4 if step == 100 else 1.0 if step < 200 else 0.01
        v = 0.95 * v + 0.05 * square
        lag = tracker.update(loss=1.0, squared_gradient=square, second_moment=v).lag
        if step == 225:
            assert lag > 2.5


def test_without_a_second_moment_there_is_no_lag():
    signals = SignalTracker().update(loss=1.0, squared_gradient=1.0, second_moment=math.nan)
    assert math.isnan(signals.lag)
    assert math.isnan(instant_lag(math.nan, 1.0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SecondMomentSums(1.0, 1.0, 0.9, 0), "step is 0"),
        (lambda: SecondMomentSums(1.0, 1.0, 1.0, 1), r"beta2 is 1.0; it must lie in \(0, 1\)"),
        (lambda: SecondMomentSums(1.0, 1.0, math.nan, 1), "beta2 is nan"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("previous", [5e-324, 1e-321, 1e-300, 1e300])
def test_a_lag_is_known_or_nan_whatever_the_size_of_v(previous):
    for square in (0.0, 1e-320, 1.0, 1e308):
        lag = second_moment_lag([SecondMomentSums(square, previous, beta2=0.999, step=5)])
        assert not math.isinf(lag.decay_exponent)


def test_squares_whose_sum_no_float_holds_end_no_training():
    tracker = SignalTracker()
    for _ in range(60):
        tracker.update(loss=1.0, squared_gradient=1e308, second_moment=1e308)


@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=40))
def test_the_largest_of_a_window_are_those_of_its_last_values(values):
    running = RunningMedian(7)
    for value in values:
        running.append(value)
    last = sorted(values[-7:], reverse=True)
    assert [running.largest(rank) for rank in range(1, len(last) + 1)] == last
    with pytest.raises(IndexError, match="out of range"):
        running.largest(len(last) + 1)
