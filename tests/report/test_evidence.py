"""What was measured before an event, and how old that may be."""

from __future__ import annotations

import math

import pytest

from foreshock.report.evidence import age_limit
from foreshock.report.summary import summarise
from summaries import losses, reading, state

SPIKE = [1.0] * 300 + [2.0, 4.0, 8.0, 9.0, 4.0, 2.0] + [1.0] * 60  # onset at step 300


def evidence(run):
    [found] = summarise(run).evidence
    return found


def test_a_reading_carries_the_step_at_which_it_was_measured(log):
    found = evidence(log(*losses(SPIKE), reading(200, 0.8), reading(275, 0.97), reading(310, 1.4)))
    assert (found.ratio, found.measured, found.noisy, found.probed) == (0.97, 275, False, True)


def test_an_old_reading_is_no_evidence(log):
    blocks = [{"name": "0", "share": 0.9}]
    early = reading(50, 4.0, 2.0, blocks=blocks), state(50, "armed")
    summary = summarise(log(*losses(SPIKE), *early))
    [found], [outcome] = summary.evidence, summary.outcomes
    assert (found.measured, found.module, found.probed) == (None, "", False)
    assert (outcome.curvature_crossed, outcome.gradient_crossed) == (None, None)


@pytest.mark.parametrize(
    ("meta", "limit"),
    [({}, 200), ({"horizon": 50}, 50), ({"horizon": "long"}, 200), ({"horizon": math.inf}, 200)],
)
def test_the_limit_is_the_horizon_of_the_log(log, meta, limit):
    run = log(*losses(SPIKE), reading(220, 0.8), **meta)
    assert age_limit(run) == limit
    assert (evidence(run).measured is None) == (limit < 80)


def test_a_forecast_is_as_old_as_the_measurement_that_it_rests_on(log):
    fresh = state(290, "armed", typical_mean_square_ratio=0.7, lag=12.0, measured=270)
    found = evidence(log(*losses(SPIKE), fresh))
    assert (found.ratio, found.measured, found.noisy) == (0.7, 270, True)
    stale = state(290, "unknown", typical_mean_square_ratio=0.7, measured=40)
    assert evidence(log(*losses(SPIKE), stale)).measured is None


def test_the_module_of_the_unstable_direction_has_its_type(log):
    blocks = [{"name": "2", "share": 0.8}, {"name": "0", "share": 0.2}]
    run = log(*losses(SPIKE), reading(290, 1.1, blocks=blocks), layers={"2": "Conv2d"})
    assert (evidence(run).module, evidence(run).share) == ("layer 2 (Conv2d)", 0.8)
