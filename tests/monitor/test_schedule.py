"""The schedule keeps to its budget, and spends it near the edge."""

from __future__ import annotations

import itertools
import math

import pytest

from foreshock.forecast import Forecast
from foreshock.monitor.probing import ProbeSchedule


def forecast(ahead: float) -> Forecast:
    return Forecast(0, 0.9, ahead, ahead, ahead, 0.001, "rising", "a line")


def simulate(schedule: ProbeSchedule, steps: int, cost: float, ahead) -> tuple[list[int], float]:
    """Run steps of one second and probes of `cost` seconds; return probed steps, share of time."""
    clock, spent, probed = 0.0, 0.0, []
    for step in range(steps):
        if schedule.due(step, now=clock, forecast=ahead(step)):
            clock += cost
            spent += cost
            schedule.spent(step, seconds=cost, now=clock)
            probed.append(step)
        clock += 1.0
    return probed, spent / clock


@pytest.mark.parametrize("budget", [0.01, 0.05, 0.5])
@pytest.mark.parametrize("cost", [0.01, 0.5, 15.0])
def test_probes_take_no_more_than_the_budget(budget, cost):
    probed, share = simulate(ProbeSchedule(budget=budget), 5000, cost, lambda step: None)
    assert len(probed) > 1
    # The first probe comes before anything is known of its cost.
    assert share <= budget + cost / 5000


def test_probes_are_dense_near_the_edge_and_rare_far_from_it():
    ahead = lambda step: forecast(max(1000.0 - step, 1.0))  # noqa: E731
    probed, _ = simulate(ProbeSchedule(budget=0.9), 1000, 0.01, ahead)
    gaps = [after - before for before, after in itertools.pairwise(probed)]
    assert gaps[0] > 50
    assert gaps[-1] == 1


def test_what_is_saved_far_away_is_spent_near():
    ahead = lambda step: forecast(math.inf if step < 900 else 1.0)  # noqa: E731
    probed, share = simulate(ProbeSchedule(budget=0.05), 1000, 0.5, ahead)
    assert len([step for step in probed if step >= 900]) > 50
    assert share <= 0.05 + 0.5 / 1000


def test_every_overrides_the_budget():
    probed, _ = simulate(ProbeSchedule(every=7), 50, 100.0, lambda step: None)
    assert probed == [0, 7, 14, 21, 28, 35, 42, 49]


def test_a_resumed_schedule_keeps_its_distance():
    schedule = ProbeSchedule(budget=0.05)
    simulate(schedule, 10, 0.1, lambda step: None)
    resumed = ProbeSchedule(budget=0.05)
    resumed.load_state_dict(schedule.state_dict())
    assert not resumed.due(10, now=0.0, forecast=forecast(5000.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"budget": 0.0}, "budget is 0.0"), ({"budget": 5}, "0.05 is 5 %"), ({"every": 0}, "^probe_every is 0")],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ProbeSchedule(**options)
