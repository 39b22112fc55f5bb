"""Equal accuracy: the cheapest setting that is accurate everywhere, and nothing that merely looks so."""

import math

import pytest
from benchmarks.curvature.selection import Probe, Trial, least_setting, relative_error

LADDER = [{"steps": steps} for steps in (1, 2, 3, 4)]


def _halving(setting, point):
    # The error halves with every step and is four times as large at the last of three points.
    return Probe(0.5 ** setting["steps"] * (4 if point == 2 else 1), products=setting["steps"])


def test_takes_the_first_setting_that_is_accurate_at_every_point():
    trial = least_setting(LADDER, _halving, 3, tolerance=0.25, ordered=True)
    assert trial.setting == {"steps": 4}
    assert trial.products == 12


def test_is_not_misled_by_the_points_where_a_setting_does_well():
    assert least_setting(LADDER, _halving, 2, tolerance=0.25, ordered=True).setting == {"steps": 2}


def test_returns_none_if_no_setting_is_accurate():
    assert least_setting(LADDER, _halving, 3, tolerance=0.1, ordered=True) is None
    assert least_setting(LADDER, _halving, 3, tolerance=0.01, ordered=False) is None


def test_a_setting_is_left_at_its_first_failure():
    calls = []

    def run(setting, point):
        calls.append((setting["steps"], point))
        return _halving(setting, point)

    least_setting(LADDER, run, 3, tolerance=0.25, ordered=True)
    assert calls == [(1, 0), (2, 0), (2, 1), (2, 2), (3, 0), (3, 1), (3, 2), (4, 0), (4, 1), (4, 2)]


def test_an_unordered_ladder_is_sorted_by_what_the_first_point_cost():
    costs = {"a": 9, "b": 3, "c": 5}

    def run(setting, point):
        return Probe(1.0 if setting["name"] == "b" else 0.0, costs[setting["name"]])

    trial = least_setting([{"name": name} for name in "abc"], run, 2, tolerance=0.1, ordered=False)
    assert trial.setting == {"name": "c"}


@pytest.mark.parametrize("error", [math.nan, math.inf, 0.0051])
def test_what_is_not_within_the_tolerance_is_not_accurate(error):
    assert not Trial({}, (Probe(0.0, 1), Probe(error, 1))).accurate(0.005)


def test_a_trial_without_probes_is_not_accurate():
    assert not Trial({}, ()).accurate(1.0)


def test_no_points_are_refused():
    with pytest.raises(ValueError, match="count must be positive, got 0"):
        least_setting(LADDER, _halving, 0, tolerance=0.1, ordered=True)


def test_relative_error_does_not_care_for_the_sign_of_the_reference():
    assert relative_error(-3.0, -4.0) == relative_error(3.0, 4.0) == 0.25
    with pytest.raises(ZeroDivisionError, match="zero"):
        relative_error(1.0, 0.0)
