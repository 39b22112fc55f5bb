"""The second moment without the guard, where parameters are frozen, trained again or without a gradient."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn, optim

from foreshock.guarding import guard
from foreshock.guarding.tracking import ActiveParameters, NaturalMoment
from guarding.training import Script, asked

POLICIES = ("mean_square", "auto", Script())


def pair():
    """Return two parameters, and an optimizer that has seen 500 gradients of them: 1 and 0.01."""
    large, small = (nn.Parameter(torch.zeros(50)) for _ in range(2))
    optimizer = optim.AdamW([large, small], lr=1e-3)
    return large, small, optimizer


def steps(large, small, optimizer, count, *, present=lambda step: True):
    for step in range(count):
        large.grad = torch.ones_like(large) if present(step) else None
        small.grad = torch.full_like(small, 0.01)
        optimizer.step()


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_frozen_does_not_count_into_the_lag(policy):
    large, small, optimizer = pair()
    watched = guard(optimizer, copy.deepcopy(policy))
    steps(large, small, optimizer, 500)
    assert watched.lag == pytest.approx(1.0)
    lags = []
    for _ in range(60):
        steps(large, small, optimizer, 1, present=lambda _: False)
        lags.append(watched.lag)
    assert max(lags) < 1.5
    assert lags[10:] == pytest.approx([1.0] * 50, rel=1e-4)
    watched.detach()
    fresh = guard(optimizer, copy.deepcopy(policy))
    steps(large, small, optimizer, 30, present=lambda _: False)
    assert fresh.lag == pytest.approx(lags[-1], rel=1e-4)


def test_the_first_gradient_after_the_new_beginning_does_not_decide_alone():
    natural = NaturalMoment()
    natural.start(1.0, beta2=0.9, updates=1000)
    squares = [*[1.0] * 30, *[0.2] * 9, 0.02, *[0.2] * 5]
    for step, square in enumerate(squares):
        if natural.is_outdated(9.0 if step < 30 else 5.0):
            assert step == 39
            natural.start(0.2, beta2=0.9, updates=1000 + step)
        natural.update(square, beta2=0.9)
    # Σv is .18 + .002 at the tenth of them, and the mean of the ten (9 × .2 + .02)/10.
    assert natural.lag == pytest.approx(0.182 / 0.182, rel=0.03)


@pytest.mark.parametrize("policy", POLICIES)
def test_what_lacks_a_gradient_at_every_second_step_begins_nothing_anew(policy, monkeypatch):
    large, small, optimizer = pair()
    starts, plain = [], NaturalMoment.start
    monkeypatch.setattr(NaturalMoment, "start", lambda *a, **k: (starts.append(1), plain(*a, **k)))
    watched = guard(optimizer, copy.deepcopy(policy))
    steps(large, small, optimizer, 600, present=lambda step: step % 2 == 0)
    assert len(starts) == 1
    assert watched.lag == pytest.approx(1.0, abs=0.1)


def test_what_is_trained_again_counts_again():
    large, small, optimizer = pair()
    watched = guard(optimizer, Script())
    steps(large, small, optimizer, 100)
    steps(large, small, optimizer, 100, present=lambda _: False)
    steps(large, small, optimizer, 200)
    assert watched.lag == pytest.approx(1.0, rel=0.01)


def test_a_run_that_is_resumed_just_after_the_freezing_notices_it_as_well():
    lags = []
    for resumed in (False, True):
        large, small, optimizer = pair()
        watched = guard(optimizer, Script())
        steps(large, small, optimizer, 100)
        steps(large, small, optimizer, 5, present=lambda _: False)
        if resumed:
            state = copy.deepcopy(watched.state_dict())
            watched.detach()
            watched = guard(optimizer, Script())
            watched.load_state_dict(state)
        steps(large, small, optimizer, 6, present=lambda _: False)
        lags.append(watched.lag)
    assert lags[0] == lags[1] == pytest.approx(1.0)


def test_a_state_from_before_there_was_a_number_goes_on():
    natural = NaturalMoment()
    natural.start(1.0, beta2=0.9, updates=5)
    old = {key: value for key, value in natural.state_dict().items() if key != "presence"}
    natural.load_state_dict(old)
    assert [natural.is_outdated(count) for count in (9, *[5] * 10)] == [False] * 10 + [True]


def test_raises_are_no_lag_after_the_freezing_either():
    large, small, optimizer = pair()
    watched = guard(optimizer, Script({400: asked("raise all", 3.0)}, scales_decay=True))
    steps(large, small, optimizer, 400)
    steps(large, small, optimizer, 1)
    before = watched._engine.memory.natural.decay_factor
    steps(large, small, optimizer, 12, present=lambda _: False)
    # Ten gradients of the small one are missing in the share of raises: (1 − .999¹⁰)/(1 − .999⁴⁰⁰) of v.
    assert watched.lag == pytest.approx(1.0, rel=0.03)
    assert watched._engine.memory.natural.decay_factor == pytest.approx(before, rel=0.03)


def test_numbers_that_change_all_the_time_begin_nothing_anew():
    active = ActiveParameters()
    assert not any(active.changed(9 + step % 3) for step in range(100))
    active = ActiveParameters()
    assert not any(active.changed(9 if step % 10 == 0 else 5) for step in range(100))


def test_the_natural_moment_is_blind_to_raises_and_starts_where_the_optimizer_is():
    natural = NaturalMoment()
    natural.start(9.0 * (1 - 0.999**500), beta2=0.999, updates=500)
    natural.update(1.0, beta2=0.999)
    expected = (0.999 * 9.0 * (1 - 0.999**500) + 0.001) / (1 - 0.999**501)
    assert natural.lag == pytest.approx(expected)
    twin = NaturalMoment()
    twin.load_state_dict(natural.state_dict())
    natural.raised(4.0)
    natural.update(1.0, beta2=0.999)
    twin.update(1.0, beta2=0.999)
    assert natural.lag == twin.lag
    assert natural.decay_factor == pytest.approx(0.5, rel=1e-3)
    assert twin.decay_factor == 1.0
    natural.update(math.nan, beta2=0.999)
    assert natural.lag == twin.lag


def test_a_spike_that_v_has_forgotten_hides_no_lag():
    """With β₂ = .95, v forgets a spike of 10⁴ × within 180 steps; what it then lags behind is the present."""
    natural = NaturalMoment()
    for step in range(225):
        natural.update(1e4 if step == 100 else 1.0 if step < 200 else 0.01, beta2=0.95)
    assert natural.lag > 2.5
