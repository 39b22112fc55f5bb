"""Optimizers with a guard of their own do what a guard on torch's optimizer does."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import optim

from foreshock import guard
from foreshock.guarding import Secant
from foreshock.optim import GuardedAdam, GuardedAdamW
from guarding.training import WAYS, Script, asked, data, network, squared, train, weights

PAIRS = {"adam": (GuardedAdam, optim.Adam), "adamw": (GuardedAdamW, optim.AdamW)}


def script():
    return Script({6: asked("raise along", 1.5), 9: asked("raise all", 1.2), 12: asked("clip", 0.5)})


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", PAIRS)
def test_the_numbers_are_those_of_a_guard_by_hooks(name, way):
    guarded, plain = PAIRS[name]
    results = []
    for make in (
        lambda p: guarded(p, lr=0.01, policy=script(), **WAYS[way]),
        lambda p: plain(p, lr=0.01, **WAYS[way]),
    ):
        model, batch = network(), data()
        optimizer = make(model.parameters())
        if not hasattr(optimizer, "guard"):
            guard(optimizer, script())
        train(model, optimizer, batch, 20)
        results.append(weights(model))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize("name", PAIRS)
def test_its_state_goes_on_where_it_was_and_to_a_plain_optimizer_and_back(name):
    guarded, plain = PAIRS[name]
    model, batch = network(), data()
    optimizer = guarded(model.parameters(), lr=0.01)
    train(model, optimizer, batch, 15)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    train(model, optimizer, batch, 10)
    again = network(1)
    again.load_state_dict(saved[0])
    resumed = guarded(again.parameters(), lr=0.5)
    resumed.load_state_dict(saved[1])
    assert resumed.guard.step == 15
    train(again, resumed, batch, 10)
    assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(again), strict=True))
    other = plain(network().parameters())
    other.load_state_dict(saved[1])
    assert other.param_groups[0]["lr"] == 0.01
    back = guarded(network().parameters())
    back.load_state_dict(other.state_dict())
    assert back.guard.step == 0


def test_pairs_go_to_the_guard():
    model, batch = network(), data()
    optimizer = GuardedAdamW(model.parameters(), lr=0.01)
    spent = []
    for step in range(120):
        half = tuple(part[step % 2 :: 2].clone() for part in batch)
        optimizer.zero_grad()
        squared(model, half).backward()
        spent.append(optimizer.guard.measure(model, squared, half))
        optimizer.step()
    assert sum(spent) >= 2
    assert not spent[0]


@pytest.mark.parametrize("name", PAIRS)
def test_options_can_be_given_by_place_as_to_the_plain_optimizer(name):
    guarded, plain = PAIRS[name]
    options = 1e-3, (0.8, 0.99), 1e-6, 0.2
    optimizer = guarded(network().parameters(), *options, policy="secant")
    assert optimizer.defaults == plain(network().parameters(), *options).defaults
    assert optimizer.guard.policy.name == "secant"


def fed(optimizer, weight, steps):
    """Train with gradients of mini-batches; return on how many steps ‖g‖ was left to the next one."""
    generator, late = torch.Generator().manual_seed(1), 0
    for step in range(steps):
        direction = torch.randn(6, generator=generator)
        weight.grad = direction / direction.norm() * (1.0, 1.5, 0.8)[step % 3]
        optimizer.step()
        late += optimizer.guard.state_dict()["engine"]["measurer"]["late"] is not None
    return late


@pytest.mark.parametrize("name", PAIRS)
def test_the_guard_of_an_optimizer_and_of_its_copy_waits_or_not_as_was_asked(name):
    counts = []
    for wait in (True, False):
        weight = torch.nn.Parameter(torch.ones(6))
        optimizer = PAIRS[name][0]([weight], lr=1e-4, wait=wait)
        fed(optimizer, weight, 60)
        _, copied = pair = pickle.loads(pickle.dumps((weight, optimizer)))  # noqa: S301 - our own bytes
        counts += [fed(optimizer, weight, 40), fed(copied, pair[0], 40)]
    assert counts == [0, 0, 35, 35]


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda pair: pickle.loads(pickle.dumps(pair)),  # noqa: S301 - our own bytes
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("name", PAIRS)
def test_a_copy_has_a_guard_of_its_own_and_trains_on_alike(name, way):
    model, batch = network(), data()
    optimizer = PAIRS[name][0](model.parameters(), lr=0.01, policy=Secant(threshold=0.8))
    train(model, optimizer, batch, 15)
    twin, other = COPIES[way]((model, optimizer))
    assert other.guard is not optimizer.guard
    assert other.guard.optimizer is other
    assert other.guard.policy == Secant(threshold=0.8)
    for one in ((model, optimizer), (twin, other)):
        train(*one, batch, 10)
    assert other.guard.step == optimizer.guard.step == 25
    assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(twin), strict=True))
    assert other.state_dict()["guard"]["engine"]["step"] == 25


def test_a_copy_of_an_earlier_version_waits():
    optimizer = GuardedAdamW(network().parameters(), lr=0.01)
    state = optimizer.__getstate__()
    del state["guard"]["wait"]
    other = GuardedAdamW.__new__(GuardedAdamW)
    other.__setstate__(state)
    assert other.__getstate__()["guard"]["wait"]


def test_a_second_guard_on_top_is_refused():
    optimizer = GuardedAdamW(network().parameters())
    with pytest.raises(ValueError, match="has a guard already"):
        guard(optimizer)
