"""The product's own forecaster on traces with known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foreshock.forecast import RunForecaster
from foreshock.lab.spikebench.played import alarms_of
from foreshock.lab.spikebench.replay import Feed, replay
from foreshock.lab.spikebench.trace import Column, Trace
from lab.spikebench.traces import meta

STEPS = np.arange(400)
GROWTH = 1e-3


def every(value) -> Column:
    return Column(STEPS, np.broadcast_to(np.asarray(value, dtype=float), STEPS.shape).copy())


def sparse(value, stride: int) -> Column:
    steps = STEPS[::stride]
    return Column(steps, np.broadcast_to(np.asarray(value, dtype=float), steps.shape).copy())


def free() -> dict[str, Column]:
    return {
        "loss": every(1.0),
        "gradient_norm": every(0.1),
        "second_moment": every(1.0),
        "learning_rate": every(1e-3),
        "lag_ratio": every(0.01),
    }


def full() -> Trace:
    """Return a run whose ratio crosses one at step 300 on a straight line, in the logarithm."""
    ratio = np.exp(GROWTH * (STEPS[::4] - 300.0))
    columns = free() | {
        "stability_ratio": sparse(ratio, 4),
        "stability_error": sparse(1e-4, 4),
        "gradient_ratio": sparse(0.5, 4),
        "predicted_change": sparse(-1.0, 4),
        "alignment": sparse(0.5, 4),
        "excess_loss": sparse(1e-4, 4),
    }
    return Trace(meta(batch_size=None), columns)


def mini(square: float, **changes) -> Trace:
    columns = free() | {
        "pair_mean": sparse(0.2, 10),
        "pair_square": sparse(square, 10),
        "pair_along": sparse(square / 2, 10),
        "noise_factor": sparse(19.0, 10),
    }
    return Trace(meta(kind="mini", batch_size=10, **changes), columns)


def test_the_crossing_of_a_straight_line_is_dated():
    made = replay(full())
    assert made.steps.tolist() == STEPS.tolist()
    assert made.expected[200] == pytest.approx(100, abs=1)
    assert made.low[200] <= 100 <= made.high[200]
    assert made.score[290] > made.score[100]
    assert made.height[250] > 1


def test_alarms_are_made_of_the_probability():
    made = replay(full())
    assert made.alarm.tolist() == (alarms_of(made.score) == 1).tolist()
    assert made.watch[made.alarm].all()


def test_mini_batches_are_judged_by_their_noise():
    armed, calm = replay(mini(0.02)), replay(mini(0.001))
    assert np.isfinite([armed.score[60], calm.score[60]]).all()
    assert armed.score[60] != calm.score[60]
    assert math.isnan(armed.expected[50])


def test_the_size_of_the_training_set_counts():
    """Ten of eleven: the noise is a tenth of what independent batches would have."""
    few, many = replay(mini(0.02, examples=11)), replay(mini(0.02, examples=100_000))
    assert few.score[60] != many.score[60]


def test_all_pairs_are_handed_over_if_asked():
    following = mini(0.02)
    following = Trace(following.meta, following.columns | {"second_moment": every(0.01)})
    for every_pair, stride in ((True, 10), (False, 50)):
        feed, run = Feed(following, every_pair=every_pair), RunForecaster(beta2=0.999)
        spent = [feed.give(run, step, step) for step in STEPS.tolist()]
        assert np.flatnonzero(spent).tolist() == list(range(0, 400, stride))


def test_noise_is_measured_often_only_while_v_lags():
    lagging, following = mini(0.02), mini(0.02)
    following = Trace(following.meta, following.columns | {"second_moment": every(0.01)})
    often, seldom = replay(lagging).passes, replay(following).passes
    # A pair costs 2 F here, and so does the probe that accompanies the first.
    assert (often[0], often[10], often[11]) == (4.0, 2.0, 0.0)
    assert np.flatnonzero(often).tolist() == list(range(0, 400, 10))
    assert np.flatnonzero(seldom).tolist() == list(range(0, 400, 50))


def test_probes_of_full_batches_are_paid_for():
    assert np.flatnonzero(replay(full()).passes).tolist() == list(range(0, 400, 4))


def test_a_forecast_uses_nothing_later():
    trace = full()
    whole, cut = replay(trace), replay(trace.until(249))
    assert cut.expected == pytest.approx(whole.expected[:250], nan_ok=True)
    assert cut.watch.tolist() == whole.watch[:250].tolist()
