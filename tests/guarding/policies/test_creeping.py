"""The slow rise in mini-batches: on what v is raised, by how much, and what is kept."""

import math

import pytest

from foreshock.guarding.policies import Rising
from foreshock.guarding.policies.policy import GuardSignals

BATCHES = (1.0, 1.6, 0.8, 1.3)  # what differs from batch to batch
EIGHTH = 8  # a secant is measured at every eighth step


def creep(policy, *, growth=1.02, lag=1e3, secants=(0.1,), steps=300, start=0, jump=None, noise=BATCHES):
    """Return (step, factor) of each raise while ‖g‖² is calm for 100 steps and then grows slowly.

    A growth of 2 % a step keeps the mean of five steps below twice its median of fifty: too slow for the
    rule on quick rises.
    """
    raises = []
    for step in range(start, steps):
        square = growth ** max(step - 100, 0) * noise[step % len(noise)]
        measured = secants[step // EIGHTH % len(secants)] if step % EIGHTH == 0 else math.nan
        if jump is not None and step >= jump:
            square *= 40.0
        signals = GuardSignals(step, step + 1, squared_gradient=square, lag=lag, secant=measured)
        raises += [(step, one.factor) for one in policy.decide(signals)]
    return raises


def test_a_slow_rise_that_noise_drives_raises_v_once_it_is_fivefold():
    raises = creep(Rising())
    first = raises[0][0]
    # The median of 25 means lags by half of that, and 1.02⁸² is five.
    assert first == pytest.approx(100 + 82 + 12, abs=6)
    assert {round(factor, 6) for _, factor in raises[:10]} == {1.05}
    in_a_hundred = [factor for step, factor in raises if step < first + 100]
    assert math.prod(in_a_hundred) == pytest.approx(4.0, rel=1e-2)


@pytest.mark.parametrize(
    "seen",
    [
        {"lag": 29.0},  # v follows
        {"secants": (0.01,)},  # displacements show no curvature
        {"secants": (0.1, 0.1, 0.1, 0.04)},  # or not at each measurement
        {"secants": (0.25,)},  # on its way to the edge
        {"secants": (0.1, 0.1, 0.1, 0.9)},
        {"noise": (1.0,)},  # the same batch at each step
        {"growth": 1.0},
    ],
    ids=str,
)
def test_what_rises_for_another_reason_is_left_alone(seen):
    assert not creep(Rising(), **seen)


def test_new_data_are_no_slow_rise():
    """Forty times the loss from one step to the next is above the lowest median of 200 steps as well."""
    raises = creep(Rising(), growth=1.0, jump=200, steps=500)
    assert not raises


def test_a_slow_rise_after_new_data_is_seen_from_its_own_level_on():
    early = [step for step, factor in creep(Rising(), jump=150, steps=600) if round(factor, 6) == 1.05]
    assert early[0] > 250  # from the level of after the jump on: 82 steps, and 50 to get used to it


def test_one_measurement_outside_keeps_v_as_it_is_for_four():
    secants = [0.1] * 100
    secants[25] = 0.5  # at step 200, in the midst of the raises
    at = {step for step, _ in creep(Rising(), secants=secants)}
    assert at & set(range(190, 200))
    assert not at & set(range(200, 232))


def test_a_resumed_rise_goes_on_as_it_would_have():
    whole, first, second = Rising(), Rising(), Rising()
    expected = creep(whole, steps=320)
    begun = creep(first, steps=205)
    second.load_state_dict(first.state_dict())
    assert begun + creep(second, start=205, steps=320) == expected
    assert 0 < len(begun) < len(expected)


def test_a_state_of_before_there_was_such_a_rule_is_taken():
    policy, old = Rising(), Rising()
    creep(old, steps=250)
    state = old.state_dict()
    del state["creeping"]
    policy.load_state_dict(state)
    assert not creep(policy, start=250, steps=270)  # four secants take longer


def test_the_reason_names_what_was_seen():
    policy = Rising()
    creep(policy, steps=220)
    signals = GuardSignals(220, 221, squared_gradient=1.02**120, lag=1e3)
    [decision] = policy.decide(signals)
    assert decision.remedy == "raise all"
    assert decision.value > decision.threshold == 5.0
    assert "its lowest of 200 steps, v is 1e+03 × g²" in decision.reason


def test_secants_of_long_ago_count_no_more():
    """They are measured at every eighth step; where they stop, nothing is known of the displacements."""
    secants = [0.1] * 5 + [math.nan] * 100
    assert not creep(Rising(), secants=secants, steps=400)


def slow_rises(policy, *, start, stop, square, secant=0.1):
    """Return the slow rises that are seen from `start` on, where ‖g‖² is `square(step)` but for the batch."""
    seen = []
    for step in range(start, stop):
        measured = secant if step % EIGHTH == 0 else math.nan
        size = square(step) * BATCHES[step % 4]
        signals = GuardSignals(step, step + 1, squared_gradient=size, lag=1e3, secant=measured)
        seen += [step for one in policy.decide(signals) if "secants" in one.reason]
    return seen


def test_levels_of_long_ago_count_no_more():
    """A secant past .3 is the business of the rule against the full batch: no level is followed."""
    policy = Rising()
    assert not slow_rises(policy, start=0, stop=300, square=lambda step: 1.0)
    grown = 20 ** (1 / 300)
    assert not slow_rises(policy, start=300, stop=600, square=lambda step: grown ** (step - 300), secant=0.5)
    assert not slow_rises(policy, start=600, stop=800, square=lambda step: 20.0)


def test_after_a_return_to_an_earlier_step_the_other_run_is_forgotten():
    policy = Rising()
    dips = lambda step: 1.0 if 200 <= step < 330 else 6.7  # noqa: E731
    assert not slow_rises(policy, start=0, stop=400, square=dips, secant=0.01)
    assert not slow_rises(policy, start=150, stop=300, square=lambda step: 6.7)
