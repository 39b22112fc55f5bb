"""What is asked for because a spike is probable."""

from __future__ import annotations

import math

import pytest

from foreshock.guarding import Auto, ForecastDriven, GuardSignals


def seen(step=500, **signals):
    return GuardSignals(step=step, updates=step + 1, **signals)


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
