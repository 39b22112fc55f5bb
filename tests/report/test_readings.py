"""What a log has: losses, readings, and how much of a run they covered."""

from __future__ import annotations

import math

import numpy as np
import pytest

from foreshock.report.readings import (
    Coverage,
    coverage,
    guard_steps,
    readings_of,
    times,
    until,
)
from foreshock.runlog.values import numbers, recorded_losses
from summaries import losses, reading, state


def test_of_two_records_of_a_step_the_later_counts(log):
    steps, values = recorded_losses(log(*losses([1.0, 2.0]), *losses([3.0], 1)))
    assert steps.tolist() == [0, 1]
    assert values.tolist() == [1.0, 3.0]


def test_an_announcement_without_a_reading_of_its_own_still_counts(log):
    readings = readings_of(log(reading(0, 0.5), state(10, "edge", 0.97), state(20, "unknown", None)))
    assert readings.steps.tolist() == [0, 10]
    assert readings.announces.tolist() == [False, True]
    np.testing.assert_array_equal(readings.stability_ratio, [0.5, 0.97])


def test_a_field_that_is_no_number_is_missing(log):
    values = [1.5, 2, None, "three", True, math.inf]
    run = log(*(("step", {"step": i, "loss": 1.0, "other": v}) for i, v in enumerate(values)))
    np.testing.assert_array_equal(numbers(run, "step", "other")[[0, 1, 5]], [1.5, 2.0, math.inf])
    assert np.isnan(numbers(run, "step", "other")[2:5]).all()
    assert numbers(run, "absent", "x").shape == (0,)


def test_a_field_that_is_no_number_is_missing_whatever_else_its_records_have(log):
    """A log of very many shapes is not kept by column."""
    values = [(1.5, 1.5), (2, 2.0), (None, math.nan), ("three", math.nan), (True, math.nan), ([4], math.nan)]
    rows = [({"other": value, f"name {i}": i}, number) for i, (value, number) in enumerate(values * 30)]
    run = log(*(("noise", {"step": i, **fields}) for i, (fields, _) in enumerate(rows)))
    np.testing.assert_array_equal(numbers(run, "noise", "other"), [number for _, number in rows])


def test_steps_on_which_a_guard_changed_nothing_are_left_out(log):
    acted = [(5, "clip"), (3, "clip"), (3, "raise all"), (7, "cooldown"), (8, "none")]
    run = log(*(("guard", {"step": step, "remedy": remedy}) for step, remedy in acted))
    assert guard_steps(run) == [3, 5]


def test_shares_of_alarm_and_of_not_knowing_are_counted_in_steps(log):
    states = [
        "unknown",
        "stable",
        "armed",
        "edge",
        "stable",
        "unknown",
        "stable",
        "stable",
        "armed",
        "stable",
    ]
    rows = [state(10 + 10 * i, name) for i, name in enumerate(states)]
    found = coverage(log(*losses([1.0] * 200), *rows))
    # In alarm from 30 to 50 and from 90 to 100; unknown before 10, from 10 to 20 and from 60 to 70.
    assert found.in_alarm == pytest.approx((20 + 10) / 200)
    assert found.unknown == pytest.approx((10 + 10 + 10) / 200)
    assert math.isnan(found.age)


def test_an_alarm_at_the_last_reading_lasts_no_longer_than_its_episode(log):
    assert coverage(log(*losses([1.0] * 200), state(100, "armed"))).in_alarm == pytest.approx(20 / 200)


def test_nothing_is_known_after_a_failed_probe_or_where_the_loss_is_no_number(log):
    failed = ("event", {"step": 50, "name": "probe failed", "message": "out of memory"})
    run = log(*losses([1.0] * 90 + [math.nan] * 10), state(0, "stable"), failed, state(70, "stable"))
    assert coverage(run).unknown == pytest.approx((20 + 10) / 100)


def test_the_age_is_that_of_the_reading_behind_the_forecast(log):
    rows = [state(0, "stable", measured=0), state(10, "stable", measured=4), state(15, "unknown", measured=4)]
    # Steps 0–9 are 0 to 9 old, steps 10–14 6 to 10; afterwards nothing is known.
    expected = np.mean([*range(10), *range(6, 11)])
    assert coverage(log(*losses([1.0] * 20), *rows)).age == pytest.approx(expected)


@pytest.mark.parametrize("rows", [(), tuple(losses([1.0] * 5)), (state(3, "armed"),)])
def test_without_losses_or_forecasts_nothing_is_said(log, rows):
    found = coverage(log(*rows))
    assert all(math.isnan(value) for value in (found.in_alarm, found.unknown, found.age))
    assert isinstance(found, Coverage)


def test_a_state_that_is_still_that_of_a_spike_which_is_over_announces_nothing(log):
    names = ["edge", "armed", "spike", "spike", "spike", "stable", "edge", "spike"]
    run = log(*(state(10 * i, name) for i, name in enumerate(names)))
    assert readings_of(run).steps[readings_of(run).announces].tolist() == [0, 10, 20, 30, 40, 60, 70]
    after = readings_of(run, [25])
    assert after.steps[after.announces].tolist() == [0, 10, 20, 60, 70]


def test_a_failure_that_was_counted_lasts_until_its_last_step(log):
    row = {"step": 20, "name": "probe failed", "message": "out of memory", "count": 30, "until": 49}
    made = (state(step, "stable") for step in (0, 30, 50))
    run = log(*losses([1.0] * 100), ("event", row), *made)
    # From step 20 to 49, but for step 30, at which a forecast could be made all the same.
    assert coverage(run).unknown == pytest.approx(29 / 100)
    assert (until(row), times(row)) == (49, 30)
