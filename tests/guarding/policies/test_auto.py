"""Where v has to be raised again and again, all of it is raised."""

from __future__ import annotations

import logging

import torch
from torch import nn, optim

from foreshock.guarding import Auto, GuardSignals, guard
from foreshock.guarding.policies.auto import MOST, REST, TIMES, WINDOW, Cooldown
from foreshock.guarding.policies.raise_limit import RaiseLimit
from guarding.training import Script, asked


def raised(cooldown, steps):
    return [step for step in steps if cooldown.starts(step, raises=True)]


def test_half_of_the_steps_are_endured_and_more_are_not():
    assert raised(Cooldown(), range(0, 10 * WINDOW, 2)) == []
    assert raised(Cooldown(), range(WINDOW)) == [MOST]


def test_in_a_thousand_steps_it_happens_three_times_at_most():
    every = [MOST + (MOST + 1) * count for count in range(TIMES)]
    assert raised(Cooldown(), range(REST)) == every
    later = raised(Cooldown(), range(2 * REST))[TIMES]
    assert later - every[0] in range(REST, REST + WINDOW)


def test_steps_that_are_long_ago_do_not_count():
    cooldown = Cooldown()
    assert raised(cooldown, [*range(MOST), *range(WINDOW, WINDOW + MOST)]) == []


def test_it_goes_on_after_loading():
    cooldown, other = Cooldown(), Cooldown()
    raised(cooldown, range(MOST))
    other.load_state_dict(cooldown.state_dict())
    assert other.starts(MOST, raises=True)
    spent = Cooldown()
    raised(spent, range(REST // 2))
    other.load_state_dict(spent.state_dict())
    assert raised(other, range(REST // 2, REST)) == []


def test_auto_raises_all_of_v_where_it_raised_again_and_again_and_goes_on():
    policy = Auto()
    told = [
        [one.remedy for one in policy.decide(GuardSignals(step=step, updates=step + 1, secant=1.5))]
        for step in range(11, 11 + 100)
    ]
    assert told[MOST] == ["raise all", "cooldown"]
    assert told[:MOST] == [["raise along"]] * MOST
    assert told[MOST + 1 :] == [["raise along"]] * (100 - MOST - 1)


def test_a_policy_that_is_handed_on_starts_again():
    cooldown = Cooldown()
    raised(cooldown, range(900, 900 + MOST))
    assert not cooldown.starts(0, raises=True)
    raised(cooldown, range(REST))
    assert raised(cooldown, range(MOST + 1)) == [MOST]


def test_only_raises_count():
    policy = Auto()
    policy.outlier.decide = lambda _: asked("clip", 0.5)
    calm = [GuardSignals(step=step, updates=step + 1) for step in range(200)]
    assert all([one.remedy for one in policy.decide(seen)] == ["clip"] for seen in calm)
    policy.mean_square.decide = lambda _: asked("raise all", 1.1)
    wild = [GuardSignals(step=step, updates=step + 1, mean_square=0.99) for step in range(200, 300)]
    told = [[one.remedy for one in policy.decide(seen)] for seen in wild]
    assert told[0] == ["clip", "raise all"]
    assert told[MOST] == ["clip", "raise all", "cooldown"]
    assert told[-1] == ["clip", "raise all"]


def test_a_resumed_run_still_says_why_it_cooldowns():
    theta = nn.Parameter(torch.zeros(2))
    watched = guard(optim.Adam([theta]), Script({3: asked("cooldown", 1.0)}))
    for _ in range(6):
        theta.grad = torch.tensor([1.0, -1.0])
        watched.optimizer.step()
    state = watched.state_dict()
    watched.detach()
    again = guard(watched.optimizer, Script())
    again.load_state_dict(state)
    assert str(again.summary()) == str(watched.summary())
    assert again.summary().notes == ("the test asked for it",)


def test_a_cooldown_doubles_the_root_of_v_and_is_reported(caplog):
    theta = nn.Parameter(torch.zeros(2))
    watched = guard(optim.Adam([theta], lr=1e-3))
    watched.policy.outlier.decide = lambda _: asked("raise all", 1.01)
    with caplog.at_level(logging.WARNING, logger="foreshock"):
        for _ in range(2 * MOST + 20):
            theta.grad = torch.tensor([1.0, -1.0])
            watched.optimizer.step()
    summary = watched.summary()
    assert summary.cooldowns == 2
    assert summary.acted == 2 * MOST + 19 == summary.remedies["raise all"]
    assert summary.largest_raise == 2
    assert "the learning rate is too high" in str(summary)
    assert "found the learning rate too high 2 ×" in str(summary)
    assert sum("too high" in record.message for record in caplog.records) == 1
    reported = [action.remedy for action in watched.actions]
    assert reported.count("cooldown") == 2


def test_after_a_return_the_raises_of_the_other_run_do_not_count_and_those_before_do():
    limit = RaiseLimit(4.0)
    assert [limit.grant(step, 2.0) for step in (10, 50)] == [2, 2]
    assert limit.grant(60, 2.0) == 1
    assert [limit.grant(step, 2.0) for step in (50, 51)] == [2, 1]
