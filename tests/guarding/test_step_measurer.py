"""Steps of which ‖g‖² is all that is needed: the same numbers and actions, without reading the state."""

from __future__ import annotations

import copy
import gc
import math
import weakref
from functools import partial

import pytest
import torch
from torch import nn, optim

from foreshock.guarding import guard, step_measurer
from foreshock.guarding.gradient_norms import norms
from guarding.training import ADAMS, OTHERS, Script, asked, data, network, scaled_training, train, weights

ALL = ADAMS | OTHERS
WHOLE = ("norm", "preconditioned gradient")


@pytest.fixture
def reads(monkeypatch):
    """Steps at which the optimizer's state was read, as the calls of `read_slots`."""
    calls = []
    real = step_measurer.read_slots

    def counted(*args, **options):
        calls.append(1)
        return real(*args, **options)

    monkeypatch.setattr(step_measurer, "read_slots", counted)
    return calls


@pytest.mark.parametrize("name", ALL)
def test_a_glance_sees_what_a_full_reading_sees(name):
    seen = []
    for needs in (("norm",), WHOLE):
        model = network()
        watched = guard(ALL[name](model.parameters()), Script(needs=needs))
        train(model, watched.optimizer, data(), 40)
        seen.append(watched.policy.seen)
    for field in ("step", "updates", "squared_gradient", "lag"):
        glanced, read = ([getattr(one, field) for one in run] for run in seen)
        assert glanced == pytest.approx(read, rel=1e-12, nan_ok=True), field
    assert len(seen[0]) == 39
    assert name == "adamax" or math.isfinite(seen[0][-1].lag)


def test_the_state_is_read_twice_and_then_never_again(reads):
    """At the first step there is no state yet. What is done later knows where the state is."""
    model = network()
    watched = guard(optim.Adam(model.parameters()), Script({9: asked("clip", 0.5)}, needs=("norm",)))
    train(model, watched.optimizer, data(), 9)
    train(model, watched.optimizer, data(), 9)
    assert [action.step for action in watched.actions] == [9]
    assert len(reads) == 2


@pytest.mark.parametrize("remedy", ["clip", "raise all", "learning rate", "beta2"])
def test_what_is_done_at_a_glance_is_what_would_be_done_otherwise(remedy):
    factor = {"clip": 0.5, "raise all": 2.0, "learning rate": 0.5, "beta2": 0.9}[remedy]
    ends = []
    for needs in (("norm",), WHOLE):
        model = network()
        watched = guard(optim.AdamW(model.parameters()), Script({9: asked(remedy, factor)}, needs=needs))
        train(model, watched.optimizer, data(), 30)
        assert [action.step for action in watched.actions] == [9]
        ends.append([*weights(model), torch.tensor(watched.lag)])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


def test_a_state_that_was_loaded_is_read(reads):
    model = network()
    watched = guard(optim.Adam(model.parameters()), Script(needs=("norm",)))
    train(model, watched.optimizer, data(), 9)
    other = optim.Adam(model.parameters())
    train(model, other, data(), 50)
    watched.optimizer.load_state_dict(other.state_dict())
    train(model, watched.optimizer, data(), 3)
    assert len(reads) == 3
    assert [one.updates for one in watched.policy.seen[-3:]] == [51, 52, 53]


@pytest.mark.parametrize("way", [{"foreach": True}, {"fused": True}], ids=["foreach", "fused"])
def test_scales_are_divided_out_and_skipped_steps_are_not_counted(way):
    model = network()
    optimizer = optim.Adam(model.parameters(), lr=0.01, **way)
    watched = guard(optimizer, Script(needs=("norm",)))
    scaler = torch.amp.GradScaler("cpu", init_scale=1000.0)
    scaled_training(optimizer, model, data(), scaler, steps=20, overflow_at=(10,))
    plain = network()
    free = guard(optim.Adam(plain.parameters(), lr=0.01), Script(needs=("norm",)))
    train(plain, free.optimizer, data(), 19)
    for field in ("updates", "squared_gradient"):
        scaled, unscaled = ([getattr(one, field) for one in run.policy.seen] for run in (watched, free))
        assert scaled == pytest.approx(unscaled, rel=1e-4), field


def test_parameters_whose_gradients_come_late_count_once_they_have_one():
    model = network()
    optimizer = optim.Adam(model.parameters())
    watched = guard(optimizer, Script(needs=("norm",)))
    model[2].requires_grad_(False)
    train(model, optimizer, data(), 5)
    model[2].requires_grad_(True)
    train(model, optimizer, data(), 5)
    whole = sum(float(parameter.grad.square().sum()) for parameter in model.parameters())
    assert watched.policy.seen[-1].squared_gradient == pytest.approx(whole)


def test_gradients_are_not_kept_alive():
    model = nn.Linear(3, 2)
    watched = guard(optim.Adam(model.parameters()), Script(needs=("norm",)))
    for _ in range(4):
        model(torch.ones(1, 3)).sum().backward()
        watched.optimizer.step()
    gradient = weakref.ref(model.weight.grad)
    watched.optimizer.zero_grad()
    gc.collect()
    assert gradient() is None


@pytest.mark.parametrize(
    "dtypes", [("float32",), ("float64", "float32"), ("bfloat16",), ("float16", "float32")]
)
def test_norms_are_at_least_single_precision(dtypes):
    """A sum of 4096 squares of 0.01 in half precision would stop growing long before its end."""
    tensors = [torch.full((4096,), 0.01, dtype=getattr(torch, name)) for name in dtypes]
    for norm, tensor in zip(norms(tensors), tensors, strict=True):
        assert norm.dtype.itemsize >= 4
        assert float(norm) == pytest.approx(64 * float(tensor[0]), rel=1e-5)
    assert norms([]) == []


def test_the_norm_leaves_frozen_parameters_out():
    free, frozen = torch.ones(2, requires_grad=True), torch.ones(2)
    watched = guard(optim.Adam([{"params": [free]}, {"params": [frozen]}]), Script(needs=("norm",)))
    for _ in range(4):
        free.grad = frozen.grad = torch.tensor([3.0, 4.0])
        watched.optimizer.step()
    assert watched.policy.seen[-1].squared_gradient == pytest.approx(25)


def test_a_guard_whose_state_is_loaded_in_the_middle_of_a_run_counts_on():
    model = network()
    watched = guard(optim.Adam(model.parameters()), Script(needs=("norm",)))
    train(model, watched.optimizer, data(), 9)
    kept, state = watched.state_dict(), copy.deepcopy(watched.optimizer.state_dict())
    train(model, watched.optimizer, data(), 20)
    watched.load_state_dict(kept)
    watched.optimizer.load_state_dict(state)
    train(model, watched.optimizer, data(), 3)
    assert [(one.step, one.updates) for one in watched.policy.seen[-3:]] == [(9, 10), (10, 11), (11, 12)]


def _without(model, step, *, which):
    if which == "all" and step in (10, 11, 12):
        model.zero_grad()
    if which == "late" and step < 10:
        model[2].weight.grad = None
    if which == "first" and step > 10:
        model[0].weight.grad = None


@pytest.mark.parametrize("which", ["all", "late", "first"])
def test_a_glance_is_of_the_parameters_that_a_full_reading_would_be_of(which):
    """A parameter without a state is left out, and a step without gradients is passed over."""
    seen = []
    for needs in (("norm",), WHOLE):
        model = network()
        first, *others = model.parameters()
        groups = [{"params": [first], "betas": (0.5, 0.9)}, {"params": others}]
        watched = guard(optim.Adam(groups, lr=0.01), Script(needs=needs))
        for step in range(30):
            train(model, watched.optimizer, data(), 1, before=partial(_without, model, step, which=which))
        assert watched.summary().notes == ()
        seen.append(watched.policy.seen)
    for field in ("step", "updates", "squared_gradient", "lag", "growth", "grown_ratio"):
        glanced, read = ([getattr(one, field) for one in run] for run in seen)
        assert glanced == pytest.approx(read, rel=1e-12, nan_ok=True), field


def test_a_state_that_was_thrown_away_is_not_gone_on_from():
    model = network()
    watched = guard(optim.Adam(model.parameters()), Script(needs=("norm",)))
    train(model, watched.optimizer, data(), 9)
    watched.optimizer.state.clear()
    train(model, watched.optimizer, data(), 3)
    assert [(one.step, one.updates) for one in watched.policy.seen[-3:]] == [(8, 9), (10, 2), (11, 3)]


def test_a_state_that_was_emptied_in_place_is_read_anew():
    model = network()
    watched = guard(optim.Adam(model.parameters()), Script())
    train(model, watched.optimizer, data(), 9)
    watched.optimizer.state[next(model.parameters())].clear()
    train(model, watched.optimizer, data(), 3)
    assert watched.summary().notes == ()
    assert [(one.step, one.updates) for one in watched.policy.seen[-2:]] == [(10, 11), (11, 12)]


@pytest.mark.parametrize("place", [0, 3])
def test_a_state_that_begins_anew_has_its_own_number_of_updates(place):
    """Neurons or experts that are made anew: the others go on."""
    model = network()
    watched = guard(optim.Adam(model.parameters(), lr=0.01), Script())
    train(model, watched.optimizer, data(), 50)
    state = watched.optimizer.state[list(model.parameters())[place]]
    for value in state.values():
        value.zero_()
    train(model, watched.optimizer, data(), 1)
    twin = copy.deepcopy(model)
    other = guard(optim.Adam(twin.parameters(), lr=0.01), Script())
    other.optimizer.load_state_dict(copy.deepcopy(watched.optimizer.state_dict()))
    for run, trained in ((watched, model), (other, twin)):
        train(trained, run.optimizer, data(), 4)
    assert [one.updates for one in watched.policy.seen[-4:]] == [52, 53, 54, 55]
    # The other guard has read nothing yet, and its first step has no displacement.
    told, anew = ([one.secant for one in run.policy.seen[-3:]] for run in (watched, other))
    assert told == pytest.approx(anew, rel=1e-5)


def test_the_norm_of_complex_gradients_is_bitwise_that_of_a_full_reading():
    """A resumed run begins with a full reading where the one that went on glanced."""
    seen = []
    for needs in (("norm",), WHOLE):
        generator = torch.Generator().manual_seed(0)
        theta = nn.Parameter(torch.zeros(1001, dtype=torch.complex64))
        watched = guard(optim.Adam([theta]), Script(needs=needs))
        for _ in range(9):
            theta.grad = torch.randn(1001, dtype=torch.complex64, generator=generator)
            watched.optimizer.step()
        seen.append([(one.squared_gradient, one.lag) for one in watched.policy.seen[3:]])
    assert seen[0] == seen[1]


def test_a_state_that_was_exchanged_is_not_gone_on_from(reads):
    model = network()
    watched = guard(optim.Adam(model.parameters()), Script(needs=("norm",)))
    train(model, watched.optimizer, data(), 9)
    weight = next(model.parameters())
    watched.optimizer.state[weight] = copy.deepcopy(watched.optimizer.state[weight])
    train(model, watched.optimizer, data(), 3)
    assert len(reads) == 3


def test_a_parameter_that_was_added_is_seen(reads):
    model, other = network(), torch.ones(2, requires_grad=True)
    watched = guard(optim.Adam(model.parameters()), Script(needs=("norm",)))
    train(model, watched.optimizer, data(), 9)
    watched.optimizer.param_groups[0]["params"].append(other)
    other.grad = torch.ones(2)
    train(model, watched.optimizer, data(), 3, before=lambda: setattr(other, "grad", torch.full((2,), 99.0)))
    assert watched.policy.seen[-1].squared_gradient > 99**2
