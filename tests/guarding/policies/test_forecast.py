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


def noisy(policy, sizes, *, first=300, lag=9.0, moment=9.0, **signals):
    """Let a policy see noisy gradients of these sizes after a hundred of one; return its factors."""
    sizes = [1.0] * 100 + list(sizes)
    asked = []
    for place, size in enumerate(sizes):
        square = size * (1.0 + place % 2)
        known = {"lag": lag, "second_moment": moment, **signals}
        asked.append(policy.decide(seen(first + place, squared_gradient=square, **known)))
    return [math.prod(decision.factor for decision in decisions) for decisions in asked[100:]]


RISING = [1.2**step for step in range(12)]


def test_gradients_that_rise_while_v_lags_make_a_spike_probable():
    asked = noisy(ForecastDriven(), RISING, lag=300.0, moment=300.0)
    assert asked[0] == 1
    assert math.prod(asked) == pytest.approx(2.0)
    assert noisy(ForecastDriven(), [1.0] * 12, lag=3.0, moment=3.0) == [1.0] * 12


def test_the_gradients_alone_say_nothing_where_v_follows_or_batches_are_equal():
    assert noisy(ForecastDriven(), RISING, lag=1.9, moment=300.0) == [1.0] * 12
    policy = ForecastDriven()
    sizes = [1.0] * 100 + RISING
    known = {"lag": 300.0, "second_moment": 300.0}
    asked = [policy.decide(seen(300 + k, squared_gradient=size, **known)) for k, size in enumerate(sizes)]
    assert not any(asked)


def test_the_forecast_of_a_monitor_counts_more_than_the_gradients():
    known = {"lag": 300.0, "moment": 300.0}
    assert noisy(ForecastDriven(), RISING, probability=0.01, **known) == [1.0] * 12
    [told] = ForecastDriven().decide(seen(probability=0.3))
    assert told.reason == "the forecast says that a spike begins soon with a probability of 0.3"
    policy = ForecastDriven(most=1e9)
    noisy(policy, RISING, **known)
    [own] = policy.decide(seen(412, squared_gradient=9.0, lag=300.0, second_moment=300.0))
    assert own.reason.startswith("the gradients say that a spike begins soon with a probability of 0.")


def probable(policy, sizes, **signals):
    """Return on how many steps an `Auto` found a spike probable, in noisy gradients of these sizes."""
    count = 0
    for place, size in enumerate([1.0] * 100 + sizes):
        known = {"lag": 300.0, "second_moment": 300.0, **(signals if place >= 100 else {})}
        square = size * (1.0 + place % 2)
        decisions = policy.decide(seen(300 + place, squared_gradient=square, **known))
        count += any("begins soon" in one.reason for one in decisions)
    return count


def test_auto_does_not_ask_the_gradients_where_their_rise_has_another_cause():
    eager = lambda: Auto(forecast=ForecastDriven())  # noqa: E731
    assert probable(eager(), RISING[:8])
    directed = eager()
    directed.rising.raised_along(395)
    assert not probable(directed, RISING[:8])
    assert not probable(eager(), RISING[:8], secant=0.5)
    assert not probable(eager(), [20.0] * 12)  # new data


def test_auto_goes_by_the_gradients_only_if_it_is_told_to():
    assert not probable(Auto(), RISING[:8])
    assert probable(Auto(), RISING[:8], probability=0.4)


def test_full_batches_that_swing_for_a_while_are_not_taken_for_batches_that_differ():
    known = {"lag": 300.0, "second_moment": 300.0}
    policy = ForecastDriven()
    swinging = [2.0 ** (k % 2) for k in range(80)] + [size * 2.0 ** (k % 2) for k, size in enumerate(RISING)]
    # Three hundred steps before them changed by a tenth each.
    sizes = [1.1 ** (k % 2) for k in range(300)] + swinging
    asked = [policy.decide(seen(300 + k, squared_gradient=size, **known)) for k, size in enumerate(sizes)]
    assert not any(asked)


def test_a_jump_that_new_data_made_is_an_excuse_for_as_long_as_the_signs_look_back():
    # Noisy gradients jump twentyfold and stay: their rise over forty steps is as large for forty steps.
    steps = {after: probable(Auto(forecast=ForecastDriven()), [20.0] * after) for after in (40, 49)}
    assert steps == {40: 0, 49: 0}


def test_auto_believes_a_monitor_even_where_a_rise_has_another_cause():
    policy = Auto()
    policy.rising.raised_along(395)
    assert probable(policy, RISING[:8], probability=0.4)


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
