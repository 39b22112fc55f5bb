"""What is measured when: fixed steps, or as much as a budget of passes pays for."""

from __future__ import annotations

import itertools
import math

import pytest

from foreshock.forecast import Forecast
from foreshock.monitor.clock import StepClock
from foreshock.monitor.schedule import OPENING, PassBudget, ProbeSchedule

COSTS = {"curvature": 15.0, "refresh": 4.0, "noise": 2.0, "follow": 0.0}


def forecast(ahead: float) -> Forecast:
    return Forecast(0, 0.9, ahead, ahead, ahead, 0.001, "rising", "a line")


def simulate(
    schedule,
    steps,
    *,
    noisy=False,
    ahead=lambda step: None,
    lag=1.0,
    cold=30.0,
    costs=COSTS,
    share=lambda step: None,
):
    """Return what was measured at which step, and what it cost in all."""
    made, spent, first = [], 0.0, True
    for step in range(steps):
        deciding = step % 5 == 0
        what = schedule.due(
            step, noisy=noisy, forecast=ahead(step), lag=lag, deciding=deciding, share=share(step)
        )
        if what is None:
            continue
        cost = cold if what == "curvature" and first else costs[what]
        first = first and what != "curvature"
        schedule.spent(what, cost, step=step)
        made.append((step, what))
        spent += cost
    return made, spent


def steps_of(made, what):
    return [step for step, one in made if one == what]


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("budget", [0.01, 0.02, 0.05, 0.2, 1.0])
@pytest.mark.parametrize("cost", [0.3, 1.0, 3.0])
def test_no_more_passes_are_spent_than_the_budget_allows(budget, cost, noisy):
    costs = {name: cost * value for name, value in COSTS.items()}
    schedule = ProbeSchedule(budget=budget)
    made, spent = simulate(schedule, 20_000, noisy=noisy, cold=30 * cost, costs=costs)
    opening = sum(30 * cost if what == "curvature" else costs[what] for step, what in made if step < OPENING)
    slack = 15 * cost  # a measurement may cost more than the last of its type did
    assert spent <= budget * 20_000 + max(0.0, opening - budget * 20_000 / 5) + slack
    # What is left over is less than one measurement's price, unless there was nothing to spend it on.
    if not noisy and budget <= 0.05:
        assert spent >= 0.75 * budget * 20_000


def test_the_default_has_readings_within_fifty_steps_and_then_without_a_gap():
    made, _ = simulate(ProbeSchedule(), 5000)
    readings = [step for step, _ in made]
    assert len([step for step in readings if step <= OPENING]) >= 5
    assert max(after - before for before, after in itertools.pairwise(readings)) <= 10
    measured = [step for step, what in made if what != "follow"]
    assert max(after - before for before, after in itertools.pairwise(measured)) <= 300


def test_the_noise_of_mini_batches_is_known_within_fifty_steps_and_stays_known():
    made, spent = simulate(ProbeSchedule(), 5000, noisy=True)
    noises = steps_of(made, "noise")
    assert noises[:3] == [0, 10, 20]
    assert max(after - before for before, after in itertools.pairwise(noises)) <= 200
    assert spent <= 0.05 * 5000


def gaps(made, *, after=0):
    """Return the steps between measurements of the noise from a step on."""
    steps = [step for step in steps_of(made, "noise") if step >= after]
    return [b - a for a, b in itertools.pairwise(steps)]


def test_noise_for_a_guard_is_measured_in_advance_and_often_near_the_edge():
    """Five of them make an average: they are there within 120 steps, not within 200."""

    def unknown(step):
        return None if step < 100 else math.nan

    made, spent = simulate(ProbeSchedule(), 2000, noisy=True, lag=5.0, share=unknown)
    assert gaps(made, after=100)[:4] == [20] * 4
    # What came before it was earned is ten passes at most; on the whole no more is spent.
    assert spent <= 0.05 * 2000 + 10.0
    assert sorted(gaps(made, after=1500))[-1] == 40
    alone, _ = simulate(ProbeSchedule(), 2000, noisy=True, lag=5.0)
    assert min(gaps(alone, after=100)) >= 40


@pytest.mark.parametrize(("far", "lag", "wait"), [(0.2, 5.0, 100), (0.4, 5.0, 40), (0.9, 1.0, 100)])
def test_what_a_guard_needs_not_far_from_the_edge_is_spent_near_it(far, lag, wait):
    """One of two thousand steps: near the edge from the thousandth on."""

    def share(step):
        return far if step < 1000 else 0.9

    schedule = ProbeSchedule()
    made, _ = simulate(schedule, 1000, noisy=True, lag=lag, share=share)
    assert set(gaps(made, after=200)) == {wait}
    near = []
    for step in range(1000, 2000):
        if schedule.due(step, noisy=True, forecast=None, lag=5.0, deciding=step % 5 == 0, share=0.9):
            schedule.spent("noise", 2.0, step=step)
            near.append(step)
    often = [b - a for a, b in itertools.pairwise(near)]
    assert often[0] == 20
    # Saved were 3 passes in 100 steps, which pay for as many measurements as the budget itself would.
    assert (sum(one == 20 for one in often[:30]) >= 25) == (wait == 100)
    assert schedule.budget.spent <= 0.05 * 2000 + 10.0


@pytest.mark.parametrize("share", [None, math.nan, 0.9])
def test_a_guard_changes_nothing_where_there_is_no_budget_or_the_steps_are_fixed(share):
    made, _ = simulate(ProbeSchedule(budget=0), 500, noisy=True, lag=5.0, share=lambda _: share)
    assert made == []
    made, _ = simulate(ProbeSchedule(every=7), 500, noisy=True, lag=5.0, share=lambda _: share)
    assert steps_of(made, "noise") == list(range(0, 500, 7))


def test_curvature_is_measured_more_often_near_the_edge_and_what_was_saved_is_spent_there():
    ahead = lambda step: forecast(math.inf if step < 3000 else 1.0)  # noqa: E731
    made, _ = simulate(ProbeSchedule(budget=0.2), 4000, ahead=ahead)
    far = [step for step, what in made if what == "refresh" and 1000 <= step < 2000]
    near = [step for step, what in made if what == "refresh" and step >= 3000]
    assert len(near) >= 4 * len(far)


def test_an_eigenvector_that_turned_is_sought_again_as_soon_as_it_can_be_paid_for():
    schedule = ProbeSchedule(budget=0.2)
    simulate(schedule, 500)
    schedule.turned = True
    found = next(
        step
        for step in range(500, 1000, 5)
        if schedule.due(step, noisy=False, forecast=None, lag=1.0) == "curvature"
    )
    assert found < 600


def test_every_overrides_the_budget():
    made, _ = simulate(ProbeSchedule(every=7), 50)
    assert steps_of(made, "curvature") == [0, 7, 14, 21, 28, 35, 42, 49]
    # A loop that is only seen at every fifth step is probed at the first one after each multiple.
    schedule, seen = ProbeSchedule(every=7), []
    for step in range(0, 50, 5):
        if schedule.due(step, noisy=False, forecast=None, lag=1.0, deciding=False):
            schedule.spent("curvature", 15.0, step=step)
            seen.append(step)
    assert seen == [0, 10, 15, 25, 30, 35, 45]


def test_a_failure_is_charged_and_comes_again_only_when_it_can_be_paid_for():
    schedule = ProbeSchedule(budget=0.05)
    simulate(schedule, 2000)
    spent = schedule.budget.spent
    schedule.failed("refresh", step=2000)
    assert schedule.budget.spent == spent + 4.0
    assert schedule.due(2005, noisy=False, forecast=None, lag=1.0) in (None, "follow")


def test_a_resumed_schedule_goes_on_as_if_nothing_had_happened():
    one, other = ProbeSchedule(), ProbeSchedule()
    simulate(one, 700)
    other.load_state_dict(one.state_dict())
    asked = [
        [schedule.due(step, noisy=False, forecast=None, lag=1.0) for step in range(700, 1500, 10)]
        for schedule in (one, other)
    ]
    assert asked[0] == asked[1]


def test_a_budget_that_is_too_small_for_its_horizon_says_which_one_is_not():
    for noisy in (False, True):
        schedule = ProbeSchedule(budget=0.01)
        said = schedule.shortfall(noisy=noisy, horizon=100)
        assert said.startswith("budget=0.01 pays for a measurement every ")
        enough = float(said.split("choose budget=")[1].split(",")[0])
        assert ProbeSchedule(budget=enough).shortfall(noisy=noisy, horizon=100) == ""
        assert ProbeSchedule(budget=0.9 * enough).shortfall(noisy=noisy, horizon=100)
    assert ProbeSchedule().shortfall(noisy=False, horizon=100) == ""


def test_a_budget_of_nothing_measures_nothing():
    schedule = ProbeSchedule(budget=0)
    assert not schedule.measures
    assert simulate(schedule, 2000) == ([], 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": -0.1}, "budget is -0.1"),
        ({"budget": 5}, "0.05 is one pass in twenty steps"),
        ({"budget": math.nan}, "budget is nan"),
        ({"every": 0}, "^probe_every is 0"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ProbeSchedule(**options)


def test_what_the_opening_cost_is_paid_by_a_fifth_of_the_budget():
    budget = PassBudget(0.1)
    budget.begin(100)
    budget.spend(20.0, opening=True)
    assert not budget.allows(1.0, step=112)
    assert budget.allows(1.0, step=113)  # 13 · .08 = 1.04
    budget.spend(60.0)
    assert not budget.allows(19.3, step=1090)  # 99 earned, .2 of the opening not paid yet, 80 spent
    assert budget.allows(19.3, step=1093)


def test_a_loop_that_is_observed_at_every_tenth_update_is_numbered_by_updates():
    clock, steps = StepClock(), []
    for call in range(5):
        clock.next(None)
        said = clock.compare(1 + 10 * call)
        assert bool(said) == (call == 1)
        steps.append(clock.step)
    assert steps == [0, 10, 20, 30, 40]


def test_steps_that_a_scaler_leaves_out_and_layers_that_join_change_no_numbers():
    clock = StepClock()
    for updates in (1, 2, 2, 2, 2, 3, 4):
        clock.next(None)
        assert clock.compare(updates) == ""
    for call in range(7, 60):
        clock.next(None)
        # Long after the start a count of updates says nothing of the loop.
        assert clock.compare(call - 2 if call <= 10 else 500 * call) == ""
    assert clock.step == 59


def test_the_users_own_step_number_counts_and_must_increase():
    clock = StepClock()
    assert [clock.next(step) for step in (5, 15, 25)] == [5, 15, 25]
    assert clock.compare(1) == clock.compare(30) == ""
    for wrong in (25, 3):
        with pytest.raises(ValueError, match="after step 25; steps must increase"):
            clock.next(wrong)


def test_a_budget_that_is_not_allowed_is_not_advised():
    assert "choose a longer horizon" in ProbeSchedule(budget=0.05).shortfall(noisy=False, horizon=0.5)
    assert "a horizon of 0.5 steps" in ProbeSchedule(budget=0.05).shortfall(noisy=False, horizon=0.5)
    assert "choose budget=" in ProbeSchedule(budget=0.05).shortfall(noisy=False, horizon=20)
