"""What is decided is done as a whole or not at all, or it is reported how far; no change is not reported."""

from __future__ import annotations

import copy
import math
import re

import pytest
import torch
from torch import optim

from foreshock.guarding import guard
from foreshock.preconditioner import raising
from guarding.training import ADAMS, Script, asked, data, network, train, weights

REFUSED = {
    "raise": (asked("raise all", 0.9), "a raise of √v by the factor 0.9"),
    "remedy": (asked("pray", 1.0), "there is no remedy 'pray'; there are raise all"),
    "clip": (asked("clip", math.nan), "the factor of 'clip' is nan; it must lie in \\[0, inf\\)"),
    "rate": (asked("learning rate", -1.0), "the factor of 'learning rate' is -1.0"),
    "beta2": (asked("beta2", 1.0), "the factor of 'beta2' is 1.0; it must lie in \\[0, 1\\)"),
    "direction": (
        asked("raise along", 1.5, along="eigenvector"),
        "along the 'eigenvector', which is not known at this step; known is the 'displacement'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_if_one_decision_is_impossible_none_is_carried_out(name):
    impossible, message = REFUSED[name]
    results = []
    for guarded in (False, True):
        model, batch = network(), data()
        optimizer = optim.AdamW(model.parameters(), lr=0.01)
        if guarded:
            first = asked("clip", 0.5) + asked("learning rate", 0.5) + asked("raise all", 1.5)
            watched = guard(optimizer, Script({8: first + impossible}))
        train(model, optimizer, batch, 12)
        results.append(weights(model))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    [note] = watched.summary().notes
    assert re.search(message, note)
    assert note.startswith("the guard failed at step 8: ValueError")
    assert watched.summary().acted == 0


@pytest.mark.parametrize("remedy", ["raise all", "raise along"])
@pytest.mark.parametrize("name", ADAMS)
def test_a_raise_that_fails_at_one_parameter_raises_none(name, remedy, monkeypatch):
    calls, plain = [], raising._write

    def failing(moment, wanted):
        calls.append(moment)
        return 1 / 0 if len(calls) == 3 else plain(moment, wanted)

    monkeypatch.setattr(raising, "_write", failing)
    results = []
    for decisions in ({}, {8: asked(remedy, 1.5)}):
        model, batch = network(), data()
        optimizer = ADAMS[name](model.parameters())
        watched = guard(optimizer, Script(decisions))
        train(model, optimizer, batch, 12)
        results.append(weights(model))
    assert len(calls) == 3
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    assert watched.summary().notes == ("the guard failed at step 8: ZeroDivisionError: division by zero",)


def test_what_was_done_before_a_failure_is_reported_and_taken_into_account(monkeypatch):
    model, batch = network(), data()
    optimizer = optim.AdamW(model.parameters(), lr=0.01)
    many = asked("clip", 0.5) + asked("learning rate", 0.5) + asked("raise all", 1.5)
    watched = guard(optimizer, Script({8: many + asked("raise along", 2.0)}))
    train(model, optimizer, batch, 8)
    twin = network()
    twin.load_state_dict(model.state_dict())
    other = optim.AdamW(twin.parameters(), lr=0.01)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    same = guard(other, Script({0: many}))
    with monkeypatch.context() as patched:
        patched.setattr("foreshock.guarding.actions.raise_factors", lambda *_, **__: 1 / 0)
        train(model, optimizer, batch, 1)
    train(twin, other, batch, 1)
    assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(twin), strict=True))
    assert [one.remedy for one in watched.actions] == [one.remedy for one in same.actions]
    assert [one.remedy for one in watched.actions] == ["clip", "learning rate", "raise all"]
    assert watched.summary().notes == (
        "the guard failed after step 8: RuntimeError: only 3 of 4 decisions could be carried out: "
        "ZeroDivisionError: division by zero",
    )
    state = watched.state_dict()["engine"]["memory"]
    assert (state["clipped"], state["rate_factor"]) == (0.5, 0.5)
    assert state["natural"]["touched"]
    train(model, optimizer, batch, 3)
    assert [math.isnan(one.secant) for one in watched.policy.seen[-3:]] == [True, False, False]
    assert len(watched.summary().notes) == 1


FORGETFUL = {
    "rmsprop": lambda p: optim.RMSprop(p, alpha=0.0),
    "adamw": lambda p: optim.AdamW(p, lr=0.01, betas=(0.9, 0.0), weight_decay=0.5),
    "adamax": lambda p: optim.Adamax(p, betas=(0.9, 0.0)),
}


@pytest.mark.parametrize("remedy", ["raise all", "raise along"])
@pytest.mark.parametrize("name", FORGETFUL)
def test_a_raise_of_what_has_no_memory_changes_nothing_and_is_not_reported(name, remedy):
    results = []
    for decisions in ({}, {8: asked(remedy, 2.0)}):
        model, batch = network(), data()
        optimizer = FORGETFUL[name](model.parameters())
        watched = guard(optimizer, Script(decisions, scales_decay=True))
        train(model, optimizer, batch, 12)
        results.append(weights(model))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    assert not watched.actions
    assert watched.summary().notes == ()


@pytest.mark.parametrize(("remedy", "factor"), [("epsilon", 1e-9), ("beta2", 0.9995), ("clip", 1.0)])
def test_an_option_that_is_as_wanted_already_is_not_told_to_be_changed(remedy, factor):
    model, batch = network(), data()
    optimizer = optim.AdamW(model.parameters())
    watched = guard(optimizer, Script({8: asked(remedy, factor)}))
    train(model, optimizer, batch, 12)
    assert not watched.actions
    assert watched.summary().notes == ()


@pytest.mark.parametrize("frozen", ["all", "one"])
@pytest.mark.parametrize("along", ["displacement", "gradient"])
def test_where_the_learning_rate_is_zero_no_direction_is_raised_along(along, frozen):
    model, batch = network(), data()
    layers = [{"params": layer.parameters()} for layer in (model[0], model[2])]
    optimizer = optim.AdamW(layers, lr=0.01)
    asking = {step: asked("raise along", 1.5, along=along) for step in (8, 9, 10, 12)}
    watched = guard(optimizer, Script(asking))
    train(model, optimizer, batch, 7)
    stopped = optimizer.param_groups if frozen == "all" else optimizer.param_groups[:1]
    for group in stopped:
        group["lr"] = 0.0
    train(model, optimizer, batch, 4)
    for group in stopped:
        group["lr"] = 0.01
    train(model, optimizer, batch, 3)
    acted = [action.step for action in watched.actions]
    assert acted == ([12] if frozen == "all" else [8, 9, 10, 12])
    assert watched.summary().notes == ()
