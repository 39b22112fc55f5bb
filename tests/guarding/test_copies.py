"""Guards that are copied or pickled, and hooks of others beside a guard's."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import optim

import foreshock
from foreshock.guarding import Secant, guard
from foreshock.optim import GuardedAdamW
from guarding.training import Script, asked, data, network, train, weights

SPIKING = {"lr": 0.05, "betas": (0.9, 0.98)}


def pickled(value):
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - made here


COPY = {"deepcopy": copy.deepcopy, "pickle": pickled}


@pytest.mark.parametrize("copied", COPY.values(), ids=COPY)
@pytest.mark.parametrize("policy", ["auto", Secant(threshold=0.01)])
def test_a_copy_goes_on_as_the_original_would(copied, policy):
    model, batch = network(dtype=torch.float64), data(dtype=torch.float64)
    optimizer = optim.AdamW(model.parameters(), **SPIKING)
    watched = guard(optimizer, policy)
    train(model, optimizer, batch, 20)
    again, twin = copied((model, watched))
    assert twin.optimizer is not optimizer
    assert (twin.step, twin.actions) == (20, watched.actions)
    for one, guarded in ((model, watched), (again, twin)):
        train(one, guarded.optimizer, batch, 20)
    assert all(torch.equal(one, other) for one, other in zip(weights(model), weights(again), strict=True))
    assert twin.summary() == watched.summary()
    assert twin.step == 40
    if policy != "auto":
        assert twin.summary().acted


@pytest.mark.parametrize("copied", COPY.values(), ids=COPY)
def test_a_guard_that_was_detached_stays_so(copied):
    watched = guard(optim.Adam(network().parameters()))
    watched.detach()
    twin = copied(watched)
    guard(twin.optimizer)  # or it would be refused


@pytest.mark.parametrize("copied", COPY.values(), ids=COPY)
def test_an_optimizer_with_a_guard_built_in_is_copied_with_one(copied):
    model = network()
    optimizer = GuardedAdamW(model.parameters(), **SPIKING)
    train(model, optimizer, data(), 5)
    twin = copied(optimizer.guard)
    assert twin is twin.optimizer.guard
    assert twin.step == 5


@pytest.mark.parametrize("copied", COPY.values(), ids=COPY)
def test_a_monitor_is_not_copied_but_says_what_to_do(copied, tmp_path):
    model = network()
    optimizer = optim.Adam(model.parameters())
    watched = guard(optimizer)
    monitor = foreshock.Monitor(model, optimizer, run=tmp_path, guard=watched)
    with pytest.raises(TypeError, match=r"save monitor.state_dict\(\), and pass it to load_state_dict\(\)"):
        copied(monitor)
    assert copied(watched).step == 0  # its callback to the monitor stays behind


@pytest.mark.parametrize("meta", [5, {"x": torch.ones(2)}])
def test_a_monitor_that_can_not_be_made_leaves_no_guard_behind(meta, tmp_path):
    model = network()
    optimizer = optim.Adam(model.parameters())
    with pytest.raises((TypeError, RuntimeError, ValueError)):
        foreshock.Monitor(model, optimizer, run=tmp_path, guard="auto", meta=meta)
    assert not optimizer._optimizer_step_pre_hooks


def test_a_later_hook_that_raises_leaves_no_changed_options():
    model, batch = network(), data()
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    guard(optimizer, Script({3: asked("learning rate", 0.5)}))
    seen = []

    def careless(one, *_):
        seen.append(one.param_groups[0]["lr"])
        if len(seen) == 5:
            raise RuntimeError("of the user")

    handle = optimizer.register_step_pre_hook(careless)
    train(model, optimizer, batch, 4)
    with pytest.raises(RuntimeError, match="of the user"):
        train(model, optimizer, batch, 1)
    assert optimizer.param_groups[0]["lr"] == 0.01
    assert list(optimizer._optimizer_step_pre_hooks.values())[1] is careless
    train(model, optimizer, batch, 1)
    assert seen == pytest.approx([0.01] * 3 + [0.005] * 3)
    handle.remove()
    assert len(optimizer._optimizer_step_pre_hooks) == 1
