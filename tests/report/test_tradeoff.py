"""What other thresholds would have done on a run: spikes caught against time in alarm."""

from __future__ import annotations

import pytest

from foreshock.report.tables import tradeoff_table
from foreshock.report.tradeoff import molchan_points, tradeoffs
from foreshock.spikes import LossEvent

SPIKES = [
    LossEvent("spike", onset, onset + 2, onset + 9, 1.0, 9.0, 10.0, None) for onset in range(200, 700, 100)
]


def forecasts(chances):
    return [("forecast", {"step": step, "probability": chance}) for step, chance in chances]


@pytest.fixture
def run(log):
    """A run of 700 steps whose probability is .5 for 20 steps before all of its five spikes but the first."""
    steps = [("step", {"step": step, "loss": 1.0}) for step in range(700)]
    chances = [(0, 0.01)]
    for spike in SPIKES[1:]:
        chances += [(spike.onset - 20, 0.5), (spike.onset, float("nan")), (spike.end + 1, 0.01)]
    return log(*steps, *forecasts(chances))


def test_spikes_caught_and_steps_in_alarm_are_counted(run):
    found = {one.alarm_at: one for one in tradeoffs(run, SPIKES)}
    assert (found[0.3].caught, found[0.3].spikes) == (4, 5)
    assert found[0.3].in_alarm == pytest.approx(4 * 20 / (700 - 5 * 10))
    assert (found[0.6].caught, found[0.6].in_alarm) == (0, 0.0)


def test_a_lower_threshold_catches_no_fewer(run):
    found = tradeoffs(run, SPIKES)
    caught = [one.caught for one in found]
    assert caught == sorted(caught, reverse=True)
    assert tradeoff_table(found).rows[2] == ("0.3", "4 of 5", "12 %")
    points = [
        tuple(map(float, point.split(","))) for point in molchan_points(found, width=1, height=1).split()
    ]
    assert points[0] == (0.0, 0.0)
    assert points[-1] == (1.0, 1.0)


def test_few_spikes_and_logs_without_probabilities_have_none(run, log):
    assert tradeoffs(run, SPIKES[:4]) == []
    assert tradeoff_table([]).rows == ()
    old = log(("step", {"step": 0, "loss": 1.0}), ("forecast", {"step": 0, "state": "stable"}))
    assert tradeoffs(old, SPIKES) == []
