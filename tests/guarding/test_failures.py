"""What goes wrong inside a guard, or around it, ends neither training nor what a checkpoint says of it."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import optim

from foreshock.guarding import GuardSignals, Secant, guard
from guarding.training import Script, asked, data, network, squared, train, weights


class Failing(Script):
    """A script that fails at some steps, on purpose."""

    def __init__(self, steps, decisions=None):
        super().__init__(decisions)
        self.steps = steps

    def decide(self, seen):
        decisions = super().decide(seen)
        if seen.step in self.steps:
            raise KeyError("no such thing")
        return decisions


def test_a_guard_that_fails_is_noted_and_training_goes_on_as_without(caplog):
    results = []
    for guarded in (False, True):
        model, batch = network(), data()
        optimizer = optim.Adam(model.parameters(), lr=0.01)
        watched = guard(optimizer, Failing({5, 8})) if guarded else None
        train(model, optimizer, batch, 12)
        results.append(weights(model))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    assert watched.summary().notes == ("the guard failed at step 5: KeyError: 'no such thing'",)
    assert "the guard failed at step 5" in caplog.text
    assert "the guard failed at step 8" not in caplog.text
    secants = {one.step: one.secant for one in watched.policy.seen}
    assert math.isnan(secants[6])
    assert math.isfinite(secants[7])


def test_after_three_failures_in_a_row_only_what_holds_for_good_is_kept_up():
    model, batch = network(), data()
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    watched = guard(optimizer, Failing({5, 6, 7}, {3: asked("learning rate", 0.5), 9: asked("clip", 0.5)}))
    rates = []
    optimizer.register_step_pre_hook(lambda one, *_: rates.append(one.param_groups[0]["lr"]))
    train(model, optimizer, batch, 12)
    assert rates == pytest.approx([0.01] * 3 + [0.005] * 9)
    assert [one.step for one in watched.policy.seen] == list(range(1, 8))
    assert "it is not tried again" in watched.summary().notes[-1]
    assert watched.step == 12
    assert optimizer.param_groups[0]["lr"] == 0.01


def test_a_displacement_that_can_not_be_computed_does_not_leave_options_changed(monkeypatch):
    model, batch = network(), data()
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    watched = guard(optimizer, Script({3: asked("learning rate", 0.5)}))
    train(model, optimizer, batch, 5)
    with monkeypatch.context() as patched:
        patched.setattr("foreshock.guarding.measuring.displacement.inner", lambda *_: 1 / 0)
        optimizer.step()
    assert watched.summary().notes == ("the guard failed after step 5: ZeroDivisionError: division by zero",)
    assert optimizer.param_groups[0]["lr"] == 0.01
    train(model, optimizer, batch, 2)
    assert [math.isnan(one.secant) for one in watched.policy.seen[-3:]] == [False, True, False]


@pytest.mark.parametrize("what", ["callback", "step"])
def test_a_step_that_is_broken_off_does_not_leave_a_changed_rate_in_the_checkpoint(what):
    def stop(action):
        raise KeyboardInterrupt

    model, batch = network(), data()
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    guard(
        optimizer,
        Script({3: asked("learning rate", 0.5)}),
        on_action=stop if what == "callback" else None,
    )
    train(model, optimizer, batch, 3)
    if what == "step":
        optimizer.register_step_pre_hook(lambda *_: stop(None))
    with pytest.raises(KeyboardInterrupt):
        train(model, optimizer, batch, 1)
    assert optimizer.state_dict()["param_groups"][0]["lr"] == 0.01


def test_a_second_guard_is_refused_until_the_first_lets_go():
    optimizer = optim.AdamW(network().parameters())
    first = guard(optimizer)
    with pytest.raises(ValueError, match="this AdamW has a guard already"):
        guard(optimizer, "secant")
    first.detach()
    guard(optimizer, "secant")


@pytest.mark.parametrize("norm", [math.inf, math.nan])
def test_a_norm_that_is_not_finite_can_be_told(norm):
    model, batch = network(), data()
    optimizer = optim.Adam(model.parameters())
    watched = guard(optimizer, Script())
    train(model, optimizer, batch, 3)
    watched.clipped(torch.tensor(norm), max_norm=1.0)
    train(model, optimizer, batch, 3)
    assert watched.summary().notes == ()
    assert math.isfinite(watched.policy.seen[-1].secant)


def test_an_optimizer_that_goes_back_takes_the_guard_back():
    """A secant over weights that were replaced, and a lag of a v that is gone, would be of no step."""
    model, batch = network(), data()
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    watched = guard(optimizer, Script())
    train(model, optimizer, batch, 12)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    train(model, optimizer, batch, 800)
    assert watched.lag > 100
    watched.see_noise(mean=0.5, variance=0.1, noise_factor=19.0)
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    assert math.isnan(watched.lag)
    train(model, optimizer, batch, 2)
    back = watched.policy.seen[-2:]
    assert math.isnan(back[0].secant)
    assert math.isfinite(back[1].secant)
    fresh = guard(optim.Adam(network().parameters()), Script())
    assert watched._engine.acting.pairs.count == fresh._engine.acting.pairs.count == 0
    assert watched.lag < 30


def test_the_states_of_guard_and_optimizer_can_be_loaded_in_either_order():
    results = []
    for guard_first in (False, True):
        model, batch = network(), data()
        optimizer = optim.Adam(model.parameters(), lr=0.01)
        watched = guard(optimizer, Script())
        train(model, optimizer, batch, 12)
        saved = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(watched.state_dict())
        loads = [lambda: optimizer.load_state_dict(saved[0]), lambda: watched.load_state_dict(saved[1])]
        for load in reversed(loads) if guard_first else loads:
            load()
        train(model, optimizer, batch, 1)
        results.append((watched.policy.seen[-1].secant, watched.lag))
    assert math.isfinite(results[0][0])
    assert results[0] == results[1]


@pytest.mark.parametrize("remedy", ["raise all", "raise along"])
@pytest.mark.parametrize("factor", [1e30, math.inf, math.nan, 0.5])
def test_a_raise_out_of_proportion_is_refused(remedy, factor):
    model, batch = network(), data()
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    watched = guard(optimizer, Script({5: asked(remedy, factor)}))
    train(model, optimizer, batch, 8)
    assert "a raise of √v by the factor" in watched.summary().notes[0]
    assert watched.summary().acted == 0


def test_a_secant_that_can_not_be_a_curvature_raises_tenfold_at_most():
    [decision] = Secant().decide(GuardSignals(step=99, updates=100, secant=1e9))
    assert (decision.factor, decision.value) == (10, 1e9)


def test_half_precision_holds_no_infinite_moment():
    weight = torch.nn.Parameter(torch.ones(4, dtype=torch.float16))
    optimizer = optim.Adam([weight], lr=0.01)
    guard(optimizer, Script({5: asked("raise all", 1e5)}))
    for _ in range(8):
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    assert torch.isfinite(optimizer.state[weight]["exp_avg_sq"]).all()


def test_a_tensor_for_a_rate_stays_one():
    model, batch = network(), data()
    rate = torch.tensor(0.01)
    optimizer = optim.Adam(model.parameters(), lr=rate)
    watched = guard(optimizer, Script({6: asked("learning rate", 0.5)}))
    train(model, optimizer, batch, 10)
    assert optimizer.param_groups[0]["lr"] is rate
    assert watched.summary().notes == ()


def test_frozen_parameters_leave_the_secant_and_come_back():
    model, batch = network(), data()
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    watched = guard(optimizer, Script())
    for trained in (True, False, True, False, True):
        model[0].weight.requires_grad_(trained).grad = None
        train(model, optimizer, batch, 5)
    # Small tensors are measured together; when one is frozen first, that can't be done. Later it is alone.
    assert [one.step for one in watched.policy.seen if not math.isfinite(one.secant)] == [5]
    assert watched.summary().notes == ()


# The compiler warns about its own doings.
@pytest.mark.filterwarnings("ignore")
def test_where_the_step_is_compiled_the_guard_is_not():
    class Telling(Script):
        def decide(self, seen):
            compiled.append(torch.compiler.is_compiling())
            return super().decide(seen)

    compiled = []
    model, batch = network(), data()
    optimizer = optim.AdamW(model.parameters(), lr=0.01)
    watched = guard(optimizer, Telling())
    step = torch.compile(optimizer.step, backend="eager")
    for _ in range(3):
        optimizer.zero_grad()
        squared(model, batch).backward()
        step()
    assert compiled == [False, False]
    assert watched.step == 3


def test_while_a_step_is_captured_in_a_graph_nothing_is_measured(monkeypatch):
    """Here it is only said to be: what a device does of it is not tested."""
    model, batch = network(), data()
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    watched = guard(optimizer, Script())
    train(model, optimizer, batch, 3)
    with monkeypatch.context() as patched:
        patched.setattr("foreshock.guarding.hook.is_captured", lambda: True)
        train(model, optimizer, batch, 2)
    train(model, optimizer, batch, 3)
    assert [one.step for one in watched.policy.seen] == [1, 2, 5, 6, 7]
    assert watched.summary().notes == ()
