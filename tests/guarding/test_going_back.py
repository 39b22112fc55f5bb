"""An optimizer that goes back to a checkpoint without the guard's state: the policy has seen nothing yet."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn, optim

from foreshock.guarding import POLICIES, LowerRate, Outlier, RaiseEpsilon, guard
from foreshock.optim import GuardedAdamW
from guarding.training import data, network, train


def steps(weight, optimizer, count, size):
    for _ in range(count):
        weight.grad = torch.full_like(weight, size)
        optimizer.step()


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_remembers_nothing_of_a_run_that_was_left(name):
    # One start will do: whatever the run came to, all of it is forgotten.
    model, batch = network(), data()
    optimizer = optim.AdamW(model.parameters(), lr=0.5)
    watched = guard(optimizer, name)
    unused = copy.deepcopy(watched.policy.state_dict())
    saved = copy.deepcopy(optimizer.state_dict())
    train(model, optimizer, batch, 80)
    optimizer.load_state_dict(saved)
    # As texts, because NaN is not equal to itself.
    assert str(watched.policy.state_dict()) == str(unused)


@pytest.mark.parametrize("built_in", [False, True])
def test_gradients_are_not_compared_with_those_of_a_run_that_was_left(built_in):
    weight = nn.Parameter(torch.zeros(4))
    optimizer = (GuardedAdamW if built_in else optim.AdamW)([weight])
    watched = optimizer.guard if built_in else guard(optimizer)
    steps(weight, optimizer, 60, 1.0)
    saved = {key: value for key, value in copy.deepcopy(optimizer.state_dict()).items() if key != "guard"}
    steps(weight, optimizer, 120, 1e-3)
    optimizer.load_state_dict(saved)
    steps(weight, optimizer, 60, 1.0)
    assert not watched.actions


def test_a_copy_of_an_optimizer_goes_back_as_far():
    weight = nn.Parameter(torch.zeros(4))
    optimizer = GuardedAdamW([weight], policy="outlier")
    saved = copy.deepcopy(optim.AdamW([weight]).state_dict())
    steps(weight, optimizer, 60, 1.0)
    twin = copy.deepcopy(optimizer)
    steps(next(iter(twin.state)), twin, 1, 1.0)
    twin.load_state_dict(saved)
    assert twin.guard.policy.state_dict() == Outlier().state_dict()


def test_a_policy_that_was_loaded_too_is_kept_whatever_came_first():
    weight = nn.Parameter(torch.zeros(4))
    optimizer = optim.AdamW([weight])
    watched = guard(optimizer, "outlier")
    steps(weight, optimizer, 60, 1.0)
    saved = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(watched.state_dict())
    for guard_first in (False, True):
        steps(weight, optimizer, 120, 1e-3)
        loads = [lambda: optimizer.load_state_dict(saved[0]), lambda: watched.load_state_dict(saved[1])]
        for load in reversed(loads) if guard_first else loads:
            load()
        assert watched.policy.state_dict() == saved[1]["engine"]["policy_state"]


@pytest.mark.training
def test_an_option_that_the_loaded_state_put_back_is_changed_again(perturbed):
    perturbed(epsilon_is_changed_twice).every(lambda remedies: remedies == {"epsilon": 2})


def epsilon_is_changed_twice():
    model, batch = network(), data()
    optimizer = optim.AdamW(model.parameters(), lr=0.5)
    watched = guard(optimizer, RaiseEpsilon(threshold=0.01))
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    for _ in range(2):
        train(model, optimizer, batch, 80)
        assert optimizer.param_groups[0]["eps"] == 0.1
        model.load_state_dict(saved[0])
        optimizer.load_state_dict(saved[1])
        assert optimizer.param_groups[0]["eps"] == 1e-8
    return watched.summary().remedies


@pytest.mark.training
def test_a_learning_rate_that_was_lowered_stays_lower(perturbed):
    perturbed(lowered_once).every(lambda found: found == ({"learning rate": 1}, 0.5))


def lowered_once():
    model, batch = network(), data()
    optimizer = optim.AdamW(model.parameters(), lr=0.5)
    watched = guard(optimizer, LowerRate(threshold=0.01))
    saved = copy.deepcopy(optimizer.state_dict())
    train(model, optimizer, batch, 80)
    optimizer.load_state_dict(saved)
    return watched.summary().remedies, watched.state_dict()["engine"]["memory"]["rate_factor"]
