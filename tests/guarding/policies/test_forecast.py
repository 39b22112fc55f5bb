"""What is asked for because a spike is probable."""

from __future__ import annotations

import math

import pytest

from foreshock.guarding import Auto, ForecastDriven, GuardSignals


def seen(step=500, mean_square=0.7, **signals):
    return GuardSignals(step=step, updates=step + 1, mean_square=mean_square, **signals)


def factors(policy, probabilities, *, first=500, **signals):
    """Return the factors on √v that a policy asks for, step by step."""
    asked = [
        policy.decide(seen(first + place, probability=one, **signals))
        for place, one in enumerate(probabilities)
    ]
    assert all(decision.remedy == "raise all" for decisions in asked for decision in decisions)
    return [math.prod(decision.factor for decision in decisions) for decisions in asked]


@pytest.mark.parametrize("make", [ForecastDriven, Auto])
def test_a_probable_spike_raises_v_a_little_each_step_and_twofold_in_a_hundred(make):
    got = factors(make(), [0.4] * 120)
    assert got[:7] == pytest.approx([1.1] * 7)
    assert math.prod(got[:100]) == pytest.approx(2.0)
    assert got[8:100] == [1.0] * 92
    assert got[100] == pytest.approx(1.1)  # the first of them is forgotten


@pytest.mark.parametrize("make", [ForecastDriven, Auto])
def test_what_is_improbable_or_unknown_raises_nothing(make):
    assert factors(make(), [0.149, math.nan, 0.0]) == [1.0] * 3
    assert factors(make(), [0.15]) == [pytest.approx(1.1)]


def test_a_forecast_is_not_believed_while_v_is_young():
    assert factors(ForecastDriven(), [0.9, 0.9], first=99) == [1.0, pytest.approx(1.1)]


def test_the_raises_of_a_thousand_steps_are_bounded():
    assert math.prod(factors(ForecastDriven(), [0.9] * 900)) == pytest.approx(4.0)
    assert factors(ForecastDriven(), [0.9] * 1001)[1000] == pytest.approx(1.1)


def test_the_forecast_raises_v_only_where_no_other_rule_does():
    policy = Auto()
    known = {"probability": 0.9, "lag": 9.0, "squared_gradient": 1.0}
    reasons = [
        [one.reason for one in policy.decide(seen(step, mean_square=ratio, **known))]
        for step, ratio in ((500, 1.5), (501, 0.5))
    ]
    assert ["mean-square" in reasons[0][0], "forecast" in reasons[1][0]] == [True, True]
    assert list(map(len, reasons)) == [1, 1]


def test_v_is_raised_for_a_forecast_besides_what_a_direction_asks_for():
    remedies = [one.remedy for one in Auto().decide(seen(probability=0.9, secant=0.99))]
    assert sorted(remedies) == ["raise all", "raise along"]


@pytest.mark.parametrize("make", [ForecastDriven, Auto])
@pytest.mark.parametrize(("ratio", "acts"), [(math.nan, False), (0.49, False), (0.5, True), (0.9, True)])
def test_what_no_noise_near_the_edge_makes_is_left_alone(make, ratio, acts):
    """Outliers and renewed targets are as probable, and no larger v prevents them."""
    [factor] = factors(make(), [0.9], mean_square=ratio)
    assert factor == pytest.approx(1.1 if acts else 1.0)


@pytest.mark.parametrize("make", [ForecastDriven, Auto])
def test_after_a_jump_that_new_data_made_nothing_is_done_for_fifty_steps(make):
    policy = make()
    assert factors(policy, [0.4], leap=8.1) == [1.0]
    again = make()
    again.load_state_dict(policy.state_dict())
    for one in (policy, again):
        assert factors(one, [0.4] * 51, first=501)[48:] == pytest.approx([1.0, 1.1, 1.1])
    assert factors(make(), [0.4], leap=7.9) == [pytest.approx(1.1)]


def test_a_state_of_before_it_looked_for_jumps_is_read():
    policy, state = ForecastDriven(), ForecastDriven().state_dict()
    del state["jumped"]
    policy.load_state_dict(state)
    assert factors(policy, [0.4]) == [pytest.approx(1.1)]


def test_a_ratio_that_is_no_ratio_is_refused():
    with pytest.raises(ValueError, match="mean_square is 0"):
        ForecastDriven(mean_square=0)
