"""Time to threshold against the decayed ratio itself, and against simulated Adam."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshock.dynamics import Drift, simulate_adam_on_quadratic, time_to_threshold


@given(st.floats(0.01, 1), st.floats(0.9, 0.9999), st.floats(-1e-5, 0.01))
def test_time_to_threshold_is_where_the_decayed_ratio_reaches_one(ratio, beta2, growth):
    steps = time_to_threshold(ratio, beta2=beta2, growth=growth)
    assert ratio * beta2 ** (-steps / 2) * math.exp(growth * steps) == pytest.approx(1.0)


def test_growth_that_undoes_the_decay_never_reaches_the_threshold():
    assert time_to_threshold(0.5, beta2=0.999, growth=-0.01) == math.inf


@given(st.floats(0.05, 1), st.floats(0.9, 0.999))
def test_a_constant_schedule_changes_nothing(ratio, beta2):
    plain = time_to_threshold(ratio, beta2=beta2)
    assert time_to_threshold(ratio, beta2=beta2, learning_rates=[1.0] * 7) == pytest.approx(plain)
    assert time_to_threshold(ratio, beta2=beta2, learning_rates=lambda k: 1.0) == pytest.approx(plain)


@given(st.floats(0.05, 0.999), st.floats(0.9, 0.999), st.lists(st.just(0.0) | st.floats(0.1, 3), min_size=1))
def test_a_sequence_is_a_function_that_keeps_its_last_value(ratio, beta2, factors):
    by_function = time_to_threshold(
        ratio, beta2=beta2, learning_rates=lambda k: factors[min(k, len(factors)) - 1]
    )
    assert time_to_threshold(ratio, beta2=beta2, learning_rates=factors) == pytest.approx(by_function)


@given(st.floats(0.05, 0.999), st.floats(0.9, 0.999), st.floats(-0.01, 0.01))
def test_an_exponential_schedule_is_a_growth(ratio, beta2, rate):
    scheduled = time_to_threshold(ratio, beta2=beta2, learning_rates=lambda k: math.exp(rate * k))
    grown = time_to_threshold(ratio, beta2=beta2, growth=rate)
    assert scheduled == (pytest.approx(grown) if grown <= 20_000 else math.inf)


def test_landscape_and_schedule_add_up():
    both = time_to_threshold(0.5, beta2=0.99, growth=0.004, learning_rates=lambda k: math.exp(-0.002 * k))
    assert both == pytest.approx(time_to_threshold(0.5, beta2=0.99, growth=0.002))


def test_the_step_before_the_crossing_is_below_and_the_one_after_above():
    factors = [0.5 + 0.5 * math.cos(k / 300) for k in range(1, 900)]
    steps = time_to_threshold(0.8, beta2=0.995, learning_rates=factors, step=30)
    drift = Drift(0.995, learning_rates=factors, step=30)
    assert 0.8 * math.exp(drift.under_decay(math.floor(steps))) < 1
    assert 0.8 * math.exp(drift.under_decay(math.ceil(steps))) >= 1


def test_a_learning_rate_of_zero_postpones_the_crossing_to_its_end():
    rates = [0.0] * 500 + [1.0]
    assert time_to_threshold(0.5, beta2=0.99, learning_rates=rates) == 501
    assert time_to_threshold(0.5, beta2=0.99, learning_rates=[1.0, 0.0]) == math.inf


@pytest.mark.parametrize(("rate", "beta2"), [(0.15, 0.99), (0.15, 0.999), (0.05, 0.999)])
def test_first_crossing_of_the_quadratic_comes_when_the_closed_form_says(rate, beta2):
    """With β₁ = 0, θ falls at once: pure decay from there on, while the bias correction 1 − β₂ᵗ still
    grows and hastens the crossing. What g² adds to v meanwhile is below 1e-8 of it."""
    run = simulate_adam_on_quadratic(4000, learning_rate=rate, betas=(0.0, beta2))
    start = 60
    crossing = int(np.flatnonzero(run.stability_ratio[start:] >= 1)[0])
    steps = time_to_threshold(float(run.stability_ratio[start]), beta2=beta2, step=start + 1)
    assert steps > 100
    assert crossing == math.ceil(steps)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: time_to_threshold(1.5, beta2=0.9), r"ratio is 1.5; it must lie in \(0, 1\]"),
        (lambda: time_to_threshold(math.nan, beta2=0.9), "ratio is nan"),
        (lambda: time_to_threshold(0.5, beta2=1.0), "beta2 is 1.0"),
        (lambda: time_to_threshold(0.5, beta2=0.9, step=0), "step is 0"),
        (lambda: time_to_threshold(0.5, beta2=0.9, growth=math.nan), "growth is nan"),
        (
            lambda: time_to_threshold(0.5, beta2=0.9, learning_rates=[1.0, -1.0]),
            "learning rate 2 steps ahead is -1.0 times",
        ),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
