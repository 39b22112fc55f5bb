"""What a log knows of the cause of an event, and how old that may be."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foreshock.report.evidence import (
    BATCH,
    CURVATURE,
    DATA,
    DECAY,
    GRADIENT,
    NOISE,
    RATE,
    UNKNOWN,
    age_limit,
    sudden_step,
)
from foreshock.report.summary import summarise
from summaries import losses, reading, state

SPIKE = [1.0] * 300 + [2.0, 4.0, 8.0, 9.0, 4.0, 2.0] + [1.0] * 60  # onset at step 300
SUDDEN = [1.0] * 300 + [9.0] + [1.0] * 65
DECAYING = "no faster than v decays: the preconditioner may explain the rise"
SHARPENING = "2.5 × as fast as v can decay: landscape or schedule drive the rise"


def evidence(run):
    [found] = summarise(run).evidence
    return found


def labels(run):
    return [cause.label for cause in evidence(run).causes]


def norms(size, at=None, height=1.0):
    values = np.exp(np.random.default_rng(0).normal(0, 0.3, size))
    if at is not None:
        values[at] = height * values[max(at - 50, 0) : at].max()
    return values.tolist()


def test_a_reading_carries_the_step_at_which_it_was_measured(log):
    found = evidence(log(*losses(SPIKE), reading(200, 0.8), reading(275, 0.97), reading(310, 1.4)))
    assert (found.ratio, found.measured, found.noisy, found.probed) == (0.97, 275, False, True)


def test_an_old_reading_is_no_evidence(log):
    blocks = [{"name": "0", "share": 0.9}]
    early = reading(50, 4.0, 2.0, blocks=blocks), state(50, "armed", cause_hint=DECAYING)
    summary = summarise(log(*losses(SPIKE), *early))
    [found], [outcome] = summary.evidence, summary.outcomes
    assert (found.measured, found.module, found.causes, found.probed) == (None, "", (), False)
    assert (outcome.curvature_crossed, outcome.gradient_crossed) == (None, None)
    assert found.cause == UNKNOWN


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
    assert labels(log(*losses(SPIKE), fresh)) == [NOISE]
    stale = state(290, "unknown", typical_mean_square_ratio=0.7, measured=40)
    assert evidence(log(*losses(SPIKE), stale)).measured is None


def test_the_module_of_the_unstable_direction_has_its_type(log):
    blocks = [{"name": "2", "share": 0.8}, {"name": "0", "share": 0.2}]
    run = log(*losses(SPIKE), reading(290, 1.1, blocks=blocks), layers={"2": "Conv2d"})
    assert (evidence(run).module, evidence(run).share) == ("layer 2 (Conv2d)", 0.8)


@pytest.mark.parametrize(("hint", "label"), [(DECAYING, DECAY), (SHARPENING, CURVATURE)])
def test_the_hint_of_a_forecast_that_announced_is_a_cause(log, hint, label):
    run = log(*losses(SPIKE), state(280, "rising", cause_hint=hint), state(290, "armed", cause_hint=hint))
    assert labels(run) == [label]
    assert "(step 290)" in evidence(run).causes[0].words
    # A ratio that was far from the edge, or not forecast to reach it, explains nothing.
    assert labels(log(*losses(SPIKE), state(290, "rising", cause_hint=hint))) == []


def test_a_learning_rate_that_rose_is_named_with_its_numbers(log):
    warm = [1e-3 * min(1, (i + 1) / 280) for i in range(len(SPIKE))]
    run = log(*losses(SPIKE, learning_rate=warm))
    assert labels(run) == [RATE]
    assert "from 0.000361 to 0.001 in the 200 steps before" in evidence(run).causes[0].words
    assert labels(log(*losses(SPIKE, learning_rate=[1e-3] * len(SPIKE)))) == []
    assert labels(log(*losses(SPIKE, learning_rate=warm[::-1]))) == []


def test_a_batch_of_another_size_just_before_is_named(log):
    sizes = [64] * len(SPIKE)
    assert labels(log(*losses(SPIKE, batch_size=sizes))) == []
    sizes[298] = 7
    run = log(*losses(SPIKE, batch_size=sizes))
    assert labels(run) == [BATCH]
    assert evidence(run).causes[0].words == "the batch of step 298 had 7 examples instead of 64"
    sizes[298], sizes[250] = 64, 7
    assert labels(log(*losses(SPIKE, batch_size=sizes))) == []


def test_an_event_that_says_that_the_batch_changed_is_a_cause(log):
    def changed(step):
        return ("event", {"step": step, "name": "batch changed", "message": "1 of 32 examples is new"})

    run = log(*losses(SPIKE), changed(295))
    assert labels(run) == [BATCH]
    assert evidence(run).causes[0].words.endswith("at step 295: 1 of 32 examples is new")
    assert labels(log(*losses(SPIKE), changed(100), changed(305))) == []


def test_a_jump_of_loss_and_gradient_in_one_step_points_at_its_data(log):
    differ = ("noise", {"step": 100})
    run = log(*losses(SUDDEN, gradient_norm=norms(len(SUDDEN), 300, 20.0)), differ)
    assert labels(run) == [DATA]
    assert "within step 300, the gradient to 20 × the highest" in evidence(run).causes[0].words
    # Nothing to blame the data for: the gradient is as ever; the loss built up; the data never change.
    assert labels(log(*losses(SUDDEN, gradient_norm=norms(len(SUDDEN))), differ)) == []
    assert labels(log(*losses(SPIKE, gradient_norm=norms(len(SPIKE), 300, 20.0)), differ)) == []
    assert labels(log(*losses(SUDDEN, gradient_norm=norms(len(SUDDEN), 300, 20.0)))) == []


def test_a_gradient_that_grew_before_is_no_jump():
    values, growing = np.array(SUDDEN), np.ones(len(SUDDEN))
    growing[296:301] = (1.5, 4.0, 10.0, 25.0, 60.0)
    assert sudden_step(values, growing, onset=300, peak=300, level=1.0) is None
    growing[296:300] = 1.0
    assert sudden_step(values, growing, onset=300, peak=300, level=1.0) == (300, 60.0)


@pytest.mark.parametrize("norm", [math.inf, math.nan])
def test_a_gradient_that_was_not_finite_before_the_loss_is_the_cause(log, norm):
    values, gradients = [1.0] * 300 + [math.nan] * 50, [1.0] * 300 + [math.nan] * 50
    gradients[299] = norm
    run = log(*losses(values, gradient_norm=gradients))
    assert labels(run) == [GRADIENT]
    assert "at step 299" in evidence(run).causes[0].words


def test_a_gradient_that_was_not_measured_is_not_blamed(log):
    values = [1.0] * 300 + [math.nan] * 50
    assert labels(log(*losses(values, gradient_norm=[None] * 350))) == []
    assert labels(log(*losses(values))) == []


def test_what_overflows_at_once_was_not_made_by_an_instability_near(log):
    values = [1.0] * 300 + [math.nan] * 50
    near = state(290, "armed", cause_hint=SHARPENING)
    assert labels(log(*losses(values), near)) == []
    # A loss that grew until it overflowed was.
    grown = [1.0] * 300 + [4.0, 20.0, 300.0] + [math.nan] * 50
    assert labels(log(*losses(grown), near)) == [CURVATURE]


def test_the_first_cause_is_the_one_in_the_table(log):
    sizes, warm = [64] * len(SPIKE), [1e-3 * min(1, (i + 1) / 280) for i in range(len(SPIKE))]
    sizes[299] = 200
    run = log(*losses(SPIKE, batch_size=sizes, learning_rate=warm), state(290, "armed", cause_hint=DECAYING))
    assert labels(run) == [BATCH, RATE, DECAY]
    assert evidence(run).cause == BATCH


def test_a_hint_from_before_the_edge_counts_more_than_one_from_past_it(log):
    rows = [
        state(270, "edge", 0.95, cause_hint=DECAYING),
        state(285, "edge", 0.99, cause_hint=DECAYING),
        state(298, "armed", 3.0, cause_hint=SHARPENING),
    ]
    run = log(*losses(SPIKE), *rows)
    assert labels(run) == [DECAY]
    assert "(step 285)" in evidence(run).causes[0].words
