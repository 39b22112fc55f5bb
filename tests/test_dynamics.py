"""Closed forms of the second moment against simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foreshock.dynamics import (
    SecondMomentSums,
    second_moment_lag,
    simulate_adam_on_quadratic,
    time_to_threshold,
)


@given(st.floats(0.01, 1), st.floats(0.9, 0.9999), st.floats(-1e-5, 0.01))
def test_time_to_threshold_is_where_the_decayed_ratio_reaches_one(ratio, beta2, growth):
    steps = time_to_threshold(ratio, beta2=beta2, growth=growth)
    assert ratio * beta2 ** (-steps / 2) * math.exp(growth * steps) == pytest.approx(1.0)


def test_growth_that_undoes_the_decay_never_reaches_the_threshold():
    assert time_to_threshold(0.5, beta2=0.999, growth=-0.01) == math.inf


@pytest.mark.parametrize(("rate", "beta2"), [(0.15, 0.99), (0.15, 0.999), (0.5, 0.999)])
def test_first_crossing_of_the_quadratic_comes_when_the_closed_form_says(rate, beta2):
    """With β₁ = 0, θ falls at once and v̂ ≈ (1 − β₂)β₂ᵗ/(1 − β₂ᵗ)·Σg²: pure decay from there on."""
    run = simulate_adam_on_quadratic(4000, learning_rate=rate, betas=(0.0, beta2))
    start = 20
    ratio = float(run.stability_ratio[start])
    crossing = int(np.flatnonzero(run.stability_ratio[start:] >= 1)[0])
    # The bias correction 1 − β₂ᵗ grows meanwhile, which slows the rise by its known factor.
    corrections = [(1 - beta2 ** (start + 1 + k)) / (1 - beta2 ** (start + 1)) for k in range(4000)]
    predicted = next(k for k in range(4000) if ratio * beta2 ** (-k / 2) * math.sqrt(corrections[k]) >= 1)
    assert crossing == pytest.approx(predicted, abs=1 + 0.01 * predicted)


def test_quadratic_run_is_torchs_adam_while_double_precision_lasts():
    theta = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
    optimizer = torch.optim.Adam([theta], lr=0.1, betas=(0.9, 0.99), eps=1e-8)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = 3 * theta**2 / 2
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
    run = simulate_adam_on_quadratic(60, learning_rate=0.1, betas=(0.9, 0.99), curvature=3.0, epsilon=1e-8)
    assert np.asarray(run.loss, dtype=float) == pytest.approx(losses, rel=1e-9, abs=1e-13)


def test_adam_spikes_where_the_stability_ratio_passes_one():
    run = simulate_adam_on_quadratic(12_000, learning_rate=0.15, betas=(0.9, 0.999))
    above = run.stability_ratio > 1
    crossings = np.flatnonzero(above[1:] & ~above[:-1])
    assert len(crossings) >= 3
    for crossing in crossings:
        before, after = run.loss[crossing - 50 : crossing], run.loss[crossing : crossing + 300]
        assert after.max() > 100 * before.max()
    assert float(run.stability_ratio.max()) < 1.5


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(1e-3, 100)), min_size=1, max_size=5),
    st.floats(0.9, 0.9999),
    st.integers(2, 5000),
)
def test_groups_with_one_beta2_are_as_one_group(groups, beta2, step):
    parts = [SecondMomentSums(g, v, beta2, step) for g, v in groups]
    whole = SecondMomentSums(sum(g for g, _ in groups), sum(v for _, v in groups), beta2, step)
    split, joint = second_moment_lag(parts), second_moment_lag([whole])
    assert split.lag_ratio == pytest.approx(joint.lag_ratio)
    assert split.decay_exponent == pytest.approx(joint.decay_exponent, rel=1e-6, abs=1e-6)


def test_decay_exponent_is_zero_where_v_stands_still_and_one_where_it_is_blind():
    still = second_moment_lag([SecondMomentSums(2.0, 2.0, 0.99, 500)])
    assert still.decay_exponent == pytest.approx(0.0, abs=1e-12)
    blind = second_moment_lag([SecondMomentSums(0.0, 2.0, 0.99, 500), SecondMomentSums(0.0, 1.0, 0.9, 500)])
    assert blind.decay_exponent == pytest.approx(1.0)


def test_first_step_has_a_lag_ratio_of_one_and_no_exponent():
    lag = second_moment_lag([SecondMomentSums(3.0, 0.0, 0.999, 1)])
    assert lag.lag_ratio == pytest.approx(1.0)
    assert math.isnan(lag.decay_exponent)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: time_to_threshold(1.5, beta2=0.9), r"ratio is 1.5; it must lie in \(0, 1\]"),
        (lambda: time_to_threshold(math.nan, beta2=0.9), "ratio is nan"),
        (lambda: time_to_threshold(0.5, beta2=1.0), "beta2 is 1.0"),
        (lambda: SecondMomentSums(1.0, 1.0, 0.9, 0), "step is 0"),
        (
            lambda: simulate_adam_on_quadratic(0, learning_rate=0.1, betas=(0.9, 0.99)),
            "steps is 0",
        ),
        (
            lambda: simulate_adam_on_quadratic(5, learning_rate=0.1, betas=(1.0, 0.99)),
            "beta1 is 1.0",
        ),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
