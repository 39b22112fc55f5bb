"""Probabilities that are right, too extreme, too cautious, or blind."""

from __future__ import annotations

import numpy as np
import pytest

from foreshock.lab.spikebench.scores.acting import alarm_numbers, intervals, main_numbers, plain
from foreshock.lab.spikebench.scores.held import held
from foreshock.lab.spikebench.scores.probabilities import (
    auroc_within,
    brier_skill,
    reliability,
    reliability_slope,
)
from foreshock.lab.spikebench.spikes import truth_of
from lab.spikebench.scores.test_molchan import before, truth
from lab.spikebench.traces import column, trace


def drawn(slope=1.0, n=200_000):
    """Return log odds and outcomes that follow them."""
    random = np.random.default_rng(1)
    odds = random.normal(-1.5, 1.2, n)
    outcome = random.random(n) < 1 / (1 + np.exp(-odds))
    return 1 / (1 + np.exp(-odds / slope)), outcome


@pytest.mark.parametrize("slope", [0.5, 1.0, 2.0])
def test_the_slope_says_how_much_too_extreme_probabilities_are(slope):
    assert reliability_slope(*drawn(slope)) == pytest.approx(slope, rel=0.02)


def test_right_probabilities_lie_on_the_diagonal():
    bins = reliability(*drawn())
    assert len(bins) == 10
    assert sum(one["count"] for one in bins) == 200_000
    for one in bins[:8]:
        assert one["observed"] == pytest.approx(one["forecast"], abs=0.02)


def test_the_brier_skill_of_the_base_rate_is_zero_and_of_the_opposite_negative():
    _, outcome = drawn()
    assert brier_skill(np.full(outcome.size, outcome.mean()), outcome) == pytest.approx(0, abs=1e-12)
    assert brier_skill(outcome.astype(float), outcome) == 1
    assert brier_skill(1.0 - outcome, outcome) < -1
    assert np.isnan(brier_skill(np.array([0.5]), np.array([True])))


def test_the_auroc_within_runs_is_blind_to_what_parts_runs():
    """A score that says only which run it is parts all steps together, and none within a run."""
    often, seldom = tuple(range(150, 1900, 100)), (1000,)
    runs = [
        held(truth(often, 2000), column(np.full(2000, 0.9))),
        held(truth(seldom, 2000), column(np.zeros(2000))),
    ]
    assert auroc_within(runs).tolist() == [0.5, 0.5]
    assert main_numbers(runs)["auroc"] > 0.75


def test_what_an_alarm_is_worth_is_counted_by_hand():
    # On from 650 to 699 and from 1000 to 1099; spikes at 700 and at 3300, the second missed.
    on = np.zeros(4000)
    on[650:700] = on[1000:1100] = 1.0
    numbers = alarm_numbers([held(truth((700, 3300)), column(on), column(on))])
    assert numbers["recall"] == 0.5
    assert numbers["lead"] == 50
    assert numbers["share"] == pytest.approx(150 / (3900 - 6))
    assert numbers["precision"] == pytest.approx(50 / 150)
    assert numbers["gain"] == pytest.approx(0.5 / numbers["share"])
    assert numbers["episodes"] == pytest.approx(2000 / (3900 - 6))


def test_spikes_of_8_and_more_are_counted_apart():
    loss = np.ones(2000)
    loss[500:503], loss[1200:1203] = 4.0, 20.0
    found = truth_of(trace(loss))
    on = before((500,), 2000)
    numbers = alarm_numbers([held(found, column(on), column(on))])
    assert (numbers["recall"], numbers["recall_tall"]) == (0.5, 0.0)


def test_controls_that_stay_calm_count_for_the_probabilities_alone():
    spiky = held(truth(), column(before() * 0.8), column(before()))
    calm = held(
        truth_of(trace(np.ones(4000), role="control")), column(np.full(4000, 0.4)), column(np.ones(4000))
    )
    alone, both = main_numbers([spiky]), main_numbers([spiky, calm])
    assert both["share"] == alone["share"]
    assert both["brier_skill"] < alone["brier_skill"]


def test_an_unknown_probability_is_no_alarm_and_is_not_judged():
    score = before() * 0.8
    score[:2000] = np.nan
    numbers = main_numbers([held(truth(), column(score))])
    assert numbers["known"] == pytest.approx(2000 / 3900, abs=0.01)
    assert numbers["brier_skill"] > 0.9
    assert numbers["auroc"] < 1


def test_intervals_hold_the_number_and_are_points_where_runs_are_alike():
    run = held(truth(), column(before()), column(before()))
    blind = held(truth(), column(np.zeros(4000)))
    low, high = intervals([run, blind], draws=50)["recall"]
    assert (low, high) == (0.0, 1.0)
    low, high = intervals([run, run], draws=20)["recall"]
    assert (low, high) == (1.0, 1.0)
    assert plain({"a": np.nan, "b": 0.5}) == {"a": None, "b": 0.5}
