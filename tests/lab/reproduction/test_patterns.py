"""Crossings, spikes and growth, against series made by hand."""

import math

import numpy as np
import pytest

from foreshock.dynamics import simulate_adam_on_quadratic
from foreshock.lab.reproduction.patterns import (
    WINDOW,
    full_batch_pattern,
    last_before,
    log_growth,
    mean_before,
    median,
    pure_decay,
    reached_before,
    rising_crossings,
    share_followed,
    share_preceded,
)
from foreshock.lab.spikebench.trace import Column, Trace
from foreshock.spikes import SpikeEvent


def spike(onset):
    return SpikeEvent(onset, onset + 2, onset + 5, 1.0, 4.0)


def test_a_crossing_counts_anew_only_after_the_ratio_was_clearly_below():
    steps = np.arange(0, 20, 2)
    ratio = np.array([0.5, 1.0, 0.995, 1.1, 0.98, 1.0, np.nan, 1.2, 0.9, 1.3])
    assert rising_crossings(steps, ratio) == [2, 10, 18]


def test_a_sustained_crossing_starts_with_the_first_of_its_readings():
    ratio = np.array([1.1, 0.9, 1.1, 1.1, 1.1, 1.1, 0.9, 1.1, 1.1, 0.9, 1.2, 1.2, 1.2])
    assert rising_crossings(np.arange(13), ratio, sustained=3) == [2, 10]


def test_which_crossing_belongs_to_which_spike():
    assert last_before([10, 40, 90], spike(60), within=30) == 40
    assert last_before([10, 40, 90], spike(60), within=10) is None
    assert last_before([60], spike(60), within=0) == 60
    assert share_preceded([10, 40], [spike(60), spike(200)], within=30) == 0.5
    assert share_followed([10, 40, 150], [spike(60), spike(200)], within=50) == pytest.approx(1.0)
    assert share_followed([10, 40, 150], [spike(60)], within=25) == pytest.approx(1 / 3)
    assert math.isnan(share_preceded([1], [], within=5))
    assert math.isnan(share_followed([], [spike(3)], within=5))


def test_what_was_reached_before_an_onset():
    steps, ratio = np.arange(0, 100, 10), np.array([0.0, 0, 0, 1.2, 0, 0, 0.9, 0, 0, np.nan])
    assert reached_before(steps, ratio, [spike(45), spike(75)], within=20) == 0.5
    assert reached_before(steps, ratio, [spike(45)], within=10) == 0.0
    assert math.isnan(reached_before(steps, ratio, [spike(95)], within=5))


def test_growth_of_the_logarithm():
    steps = np.arange(0, 200, 5)
    values = np.exp(-0.002 * steps)
    assert log_growth(steps, values, 150, window=50) == pytest.approx(-0.1)
    assert math.isnan(log_growth(steps, -values, 150, window=50))
    assert math.isnan(log_growth(steps, values, 8, window=8))


def test_means_before_events():
    means = mean_before(np.arange(10), np.arange(10.0), [4, 0], window=3)
    assert means[0] == 2.0
    assert math.isnan(means[1])
    assert median([math.nan, 3.0, 1.0]) == 2.0
    assert math.isnan(median([]))


@pytest.mark.parametrize("step", [200, 5000])
def test_pure_decay_is_that_of_a_v_without_gradients(step):
    def corrected(t):
        return 0.999**t / (1 - 0.999**t)

    expected = 0.5 * math.log(corrected(step - WINDOW) / corrected(step))
    assert pure_decay(step, beta2=0.999) == pytest.approx(expected, rel=0.01)
    assert math.isnan(pure_decay(WINDOW - 1, beta2=0.999))


@pytest.fixture(scope="module")
def quadratic_trace():
    """Adam on ½θ², where everything is known: the landscape is flat and v decays."""
    steps = 4000
    run = simulate_adam_on_quadratic(steps, learning_rate=0.15, betas=(0.9, 0.99))
    at = np.arange(steps)

    moment = run.second_moment
    exponent = np.diff(np.log(moment), prepend=np.nan) / np.log(np.longdouble(0.99))
    ratio = run.stability_ratio.astype(float)
    loss = np.where(ratio > 1.0, 10.0, 1.0)
    columns = {
        "loss": Column(at, loss),
        "stability_ratio": Column(at, ratio),
        "gradient_ratio": Column(at, ratio),
        "decay_exponent": Column(at, exponent.astype(float)),
        "sharpness": Column(at, np.ones(steps)),
        "alignment": Column(at, np.ones(steps)),
    }
    meta = dict.fromkeys(("name", "family"), "quadratic") | {"seed": 0, "batch_size": None, "steps": steps}
    meta |= {"split": "development", "role": "spiky", "kind": "full", "language": False}
    return Trace(meta | {"beta1": 0.9, "beta2": 0.99, "strides": {}, "costs": {}}, columns)


def test_the_pattern_of_a_run_where_all_is_known(quadratic_trace):
    found = full_batch_pattern(quadratic_trace)
    assert found["spikes"] > 20
    assert found["direction_reached"] == 1.0
    assert found["crossed"] == 1.0
    assert found["lead"] == 0.0
    assert found["landscape_share"] == pytest.approx(0.0, abs=1e-9)
    assert found["alignment"] == 1.0
    assert found["pure_decay_growth"] == pytest.approx(-0.5 * WINDOW * math.log(0.99), rel=0.05)


def test_a_run_that_starts_to_decay_late_is_told_from_pure_decay(quadratic_trace):
    columns = dict(quadratic_trace.columns)
    at = columns["loss"].steps
    columns["decay_exponent"] = Column(at, np.full(at.size, 0.25))
    columns["sharpness"] = columns["stability_ratio"]
    found = full_batch_pattern(Trace(quadratic_trace.meta, columns))
    assert found["decay_exponent"] == 0.25
    assert found["landscape_share"] == pytest.approx(1.0)
