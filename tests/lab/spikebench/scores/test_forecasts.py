"""Forecast scores on a ratio whose crossings are known exactly."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from foreshock.lab.spikebench.scores import Replay, score_forecasts
from foreshock.lab.spikebench.scores.forecasts import (
    Ahead,
    coverage,
    crossing_errors,
    crossings,
    forecasts_ahead,
    reliability,
)
from foreshock.lab.spikebench.trace import Column
from lab.spikebench.traces import column, spiky_loss, trace

CROSSING = 452.5


def rising():
    """Return a trace whose ratio rises by 1 % a step and reaches one at step 452.5."""
    steps = np.arange(0, 500, 5)
    values = np.exp(0.01 * (steps - CROSSING))
    return trace(spiky_loss(500, onsets=(470,)), {"stability_ratio": Column(steps, values)})


def replayed(factor=1.0, every=5, n=500, **changes):
    """Return forecasts that are wrong by a factor, with an interval of ±20 % about them."""
    steps = np.arange(0, n, every)
    expected = factor * np.maximum(CROSSING - steps, 0)
    columns = {
        "steps": steps,
        "watch": steps >= 400,
        "alarm": steps >= 450,
        "score": steps / n,
        "expected": expected,
        "low": 0.8 * expected,
        "high": 1.2 * expected,
        "height": np.full(steps.size, 5.0),
        "passes": np.full(steps.size, 0.5),
        "until_spike": np.maximum(470.0 - steps, 0.0),
    }
    return Replay(**{**columns, **changes})


def test_crossings_are_interpolated_in_the_logarithm():
    [crossing] = crossings(rising().column("stability_ratio"))
    assert crossing.step == pytest.approx(CROSSING, abs=1e-9)
    assert crossing.below_since == 0


def test_a_crossing_starts_anew_after_the_last_step_above():
    found = crossings(column([0.5, 2.0, 2.0, 0.5, np.nan, 2.0, 1.0], every=10))
    assert [(crossing.step, crossing.below_since) for crossing in found] == [(5.0, 0), (40.0, 20)]
    [uneven] = crossings(column([0.5, 4.0], every=9))
    assert uneven.step == pytest.approx(3.0)


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.25])
def test_error_is_relative_to_what_remained(factor):
    errors = crossing_errors(forecasts_ahead(rising(), replayed(factor)))
    for lead in ("20", "50", "100", "200"):
        assert errors[lead]["median"] == pytest.approx(abs(factor - 1), abs=1e-9)
        assert (errors[lead]["count"], errors[lead]["without"]) == (1, 0)


def test_the_forecast_made_at_least_so_early_is_taken():
    ahead = forecasts_ahead(rising(), replayed())
    actual = dict(
        zip(ahead.lead[ahead.lead > 0].tolist(), ahead.actual[ahead.lead > 0].tolist(), strict=True)
    )
    assert actual == pytest.approx({20: 22.5, 50: 52.5, 100: 102.5, 200: 202.5})
    assert (ahead.lead == 0).sum() == 60  # every fifth step of the last 300


def test_a_lead_longer_than_the_rise_is_not_asked():
    twice = rising()
    twice.columns["stability_ratio"].values[72] = 2.0  # step 360: a crossing before, and a short rise after
    ahead = forecasts_ahead(twice, replayed())
    assert [int((ahead.lead == lead).sum()) for lead in (20, 50, 100, 200)] == [2, 2, 1, 1]


def test_a_forecast_of_no_crossing_is_counted_apart():
    never = np.full(100, np.inf)
    errors = crossing_errors(forecasts_ahead(rising(), replayed(expected=never, high=never)))
    assert errors["50"] == {"median": None, "count": 0, "without": 1}


@pytest.mark.parametrize(("factor", "share"), [(1.0, 1.0), (0.9, 1.0), (1.5, 0.0), (0.5, 0.0)])
def test_coverage_of_the_interval(factor, share):
    found = coverage(forecasts_ahead(rising(), replayed(factor)))
    assert found == {
        "at_leads": {"share": share, "count": 4},
        "within_300": {"share": share, "count": 60},
    }


def test_reliability_of_normal_errors_is_the_diagonal():
    random = np.random.default_rng(0)
    actual = 100 + 10 * random.normal(size=20_000)
    expected = np.full(actual.size, 100.0)
    half = 12.815515655446004
    ahead = Ahead(np.zeros(actual.size, dtype=int), actual, expected, expected - half, expected + half)
    for level in reliability(ahead):
        # Four standard errors of a share of 20,000.
        assert level["observed"] == pytest.approx(level["nominal"], abs=0.015)
    [eighty] = [level for level in reliability(ahead) if level["nominal"] == 0.8]
    assert eighty["observed"] == pytest.approx(coverage(ahead)["within_300"]["share"], abs=1e-12)


def heights(forecast, hit=(True, True, True, True)):
    """Score spikes of 4×, 8×, 16× and 32× with these forecasts of their height."""
    loss = np.ones(900)
    onsets = (200, 400, 600, 800)
    for onset, height in zip(onsets, (4.0, 8.0, 16.0, 32.0), strict=True):
        loss[onset : onset + 3] = height
    steps = np.arange(0, 900, 5)
    on = np.isin(steps, [onset - 20 for onset, alarm in zip(onsets, hit, strict=True) if alarm])
    known = np.full(steps.size, np.nan)
    for onset, value in zip(onsets, forecast, strict=True):
        known[steps == onset - 5] = value
    blank = np.full(steps.size, np.nan)
    made = Replay(steps, on, on, blank, blank, blank, blank, known, blank, blank)
    return score_forecasts([trace(loss)], lambda _: made)["development"]["all"]


def test_the_time_to_a_spike_is_scored_where_none_is_going_on():
    loss = spiky_loss(500, onsets=(200, 235), width=3)
    until = np.full(100, np.inf)
    until[[30, 36, 38, 43, 45]] = 60.0, 24.0, 10.0, 20.0, 5.0  # at steps 150, 180, 190, 215 and 225
    found = score_forecasts([trace(loss)], lambda _: replayed(until_spike=until))["development"]["all"]
    assert found["spike"]["50"] == {"median": pytest.approx(0.2), "count": 1, "without": 0}
    assert found["spike"]["20"] == {"median": pytest.approx(0.1), "count": 2, "without": 0}
    assert found["spike"]["10"] == {"median": pytest.approx(0.25), "count": 2, "without": 0}


def test_the_cost_is_the_mean_over_steps():
    made = replayed(passes=np.arange(100) % 2 * 3.0)
    assert score_forecasts([rising()], lambda _: made)["development"]["all"]["cost"] == 1.5


def test_heights_are_ranked_over_the_spikes_that_were_hit():
    assert heights([1.0, 2.0, 3.0, 9.0])["height"] == {"spearman": 1.0, "count": 4}
    assert heights([9.0, np.nan, 3.0, 1.0])["height"] == {"spearman": pytest.approx(-1.0), "count": 3}
    assert heights([9.0, 2.0, 3.0, 4.0], (False, True, True, True))["height"]["count"] == 3
    assert heights([1.0, np.nan, np.nan, 1.0])["height"] == {"spearman": None, "count": 2}


def test_watch_and_alarm_are_scored_like_rules():
    found = score_forecasts([rising()], lambda _: replayed())
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    entry = found["development"]["full"]
    assert entry["watch"]["3x"]["leads"] == [70]
    assert entry["alarm"]["3x"]["leads"] == [20]
    assert entry["auroc"] == 1.0


def test_without_crossings_nothing_is_known():
    flat = trace(np.ones(500), {"stability_ratio": column(np.full(100, 0.5), every=5)})
    entry = score_forecasts([flat], lambda _: replayed())["development"]["all"]
    assert entry["crossing"]["50"] == {"median": None, "count": 0, "without": 0}
    assert entry["coverage"]["within_300"] == {"share": None, "count": 0}
    assert entry["reliability"][0]["observed"] is None
    assert entry["auroc"] is None


def test_a_replay_whose_columns_differ_is_refused():
    with pytest.raises(ValueError, match="one shape"):
        replayed(low=np.ones(3))
    with pytest.raises(ValueError, match=r"expected is -1\.0"):
        replayed(expected=np.where(np.arange(100) < 5, np.nan, -1.0))


def test_an_infinite_upper_end_covers_what_came_later():
    ahead = Ahead(*(np.array([value]) for value in (0, 90.0, 60.0, 50.0, math.inf)))
    assert coverage(ahead)["within_300"]["share"] == 1.0
    assert all(level["observed"] == 1.0 for level in reliability(ahead))
