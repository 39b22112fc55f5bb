"""Molchan curves of scores whose worth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foreshock.lab.spikebench.scores.held import held
from foreshock.lab.spikebench.scores.molchan import curve_of, molchan_curve, shifted
from foreshock.lab.spikebench.spikes import truth_of
from lab.spikebench.traces import column, spiky_loss, trace

ONSETS = (700, 1500, 2600, 3300)
STEPS = 4000


def truth(onsets=ONSETS, steps=STEPS):
    return truth_of(trace(spiky_loss(steps, onsets)))


def before(onsets=ONSETS, steps=STEPS, ahead=50):
    """Return one in the steps before each spike and zero elsewhere."""
    score = np.zeros(steps)
    for onset in onsets:
        score[onset - ahead : onset] = 1.0
    return score


def test_a_score_that_is_high_before_spikes_alone_is_perfect():
    run = held(truth(), column(before()))
    curve = curve_of([run])
    soon = run.soon[run.counted].mean()
    assert curve.missed_at(0.0) == 1.0
    assert curve.missed_at(soon + 1e-9) == 0.0
    assert curve.share_at(1.0) == pytest.approx(soon)
    assert curve.area_skill == pytest.approx(1 - soon)  # the tie of the steps before spikes costs half twice


def test_a_score_that_is_low_before_spikes_is_worse_than_none():
    assert curve_of([held(truth(), column(1 - before()))]).area_skill < -0.9


def test_a_score_that_is_always_the_same_has_no_skill():
    curve = curve_of([held(truth(), column(np.ones(STEPS)))])
    assert curve.area_skill == pytest.approx(0)
    assert curve.missed_at(0.99) == 1.0


def test_what_knows_nothing_is_as_good_at_wrong_times():
    """It has some area skill all the same if it flickers, and none if it stays for long."""
    random = np.random.default_rng(0)
    onsets = tuple(range(150, 39_900, 130))
    flicker = held(truth(onsets, 40_000), column(random.random(40_000)))
    skill = curve_of([flicker]).area_skill
    assert skill > 0.8
    assert np.mean([curve.area_skill for curve in shifted([flicker])]) == pytest.approx(skill, abs=0.02)
    lasting = held(truth(onsets, 40_000), column(np.repeat(random.random(80), 500)))
    assert abs(curve_of([lasting]).area_skill) < 0.3


def test_shifting_takes_the_skill_away():
    run = held(truth(), column(before() + np.linspace(0, 1e-3, STEPS)))
    assert curve_of([run]).area_skill > 0.9
    assert np.mean([curve.area_skill for curve in shifted([run])]) < 0.6


def test_each_spike_counts_alike():
    """One run of one spike and a thousand steps, and one of three spikes: none is worth more than another."""
    a = held(truth((500,), 1000), column(before((500,), 1000)))
    b = held(truth((500, 1000, 1500), 3000), column(np.zeros(3000)))
    curve = curve_of([a, b])
    assert curve.missed_at(a.soon.sum() / (a.counted.sum() + b.counted.sum()) + 1e-9) == 0.75


def test_a_forecast_holds_until_the_next_and_a_spike_ends_it():
    sparse = column(before()[::10], every=10)
    run = held(truth(), sparse)
    assert run.highest.tolist() == [1.0] * 4
    assert run.score[699] == 1.0
    assert not run.counted[700:703].any()
    assert not run.counted[:100].any()


def test_an_alarm_is_too_late_at_the_onset_and_too_early_before_the_horizon():
    for start, end, caught in ((700, 720, False), (699, 700, True), (600, 650, False), (600, 651, True)):
        score = np.zeros(STEPS)
        score[start:end] = 1.0
        run = held(truth((700,)), column(score), column(score))
        assert (run.highest[0] == 1.0) == caught
        assert np.isnan(run.leads[0]) != caught
        if caught:
            assert run.leads[0] == 700 - start


def test_an_alarm_of_the_last_ten_steps_is_late():
    for start, late in ((690, True), (689, False)):
        score = np.zeros(STEPS)
        score[start:700] = 1.0
        run = held(truth((700,)), column(score), column(score))
        assert run.highest[0] == 1.0
        assert (run.highest_early[0] == 0.0) == late
        assert run.early.tolist() == [not late]
        assert curve_of([run], early=True).missed_at(0.1) == float(late)
        assert curve_of([run]).missed_at(0.1) == 0.0


def test_without_spikes_there_is_no_curve():
    assert curve_of([held(truth(()), column(np.zeros(STEPS)))]) is None
    assert molchan_curve(np.empty(0), np.ones(3)) is None


@given(
    st.lists(st.sampled_from([np.nan, 0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=40),
    st.lists(st.sampled_from([-np.inf, 0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=10),
)
def test_the_curve_is_what_counting_at_each_threshold_gives(scores, highest):
    curve = molchan_curve(np.array(scores), np.array(highest))
    assert (np.diff(curve.alarm_share) >= 0).all()
    assert (np.diff(curve.missed) <= 0).all()
    for threshold in (0.0, 0.25, 0.5, 1.0):
        share = np.mean([one >= threshold for one in scores])
        missed = np.mean([one < threshold for one in highest])
        assert curve.missed_at(share + 1e-12) <= missed + 1e-12
        assert curve.share_at(1 - missed) <= share + 1e-12
    assert -1 <= curve.area_skill <= 1
