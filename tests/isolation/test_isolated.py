"""A probe may do what it likes inside: outside nothing changes."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from cases import CASES
from foreshock.isolation import RandomState, Replay, isolated


def random_state():
    numpy_state = np.random.get_state()
    return (
        torch.get_rng_state().tolist(),
        random.getstate(),
        numpy_state[1].tolist(),
        numpy_state[2],
    )


def misbehave(model: nn.Module, batch) -> None:
    """Do everything that a loss function could do to training state, parameters aside."""
    model.eval()
    model.train()
    model(batch[0]).sum().backward()
    model[1].running_mean = torch.full((3,), 5.0)
    model[4].eval()
    torch.rand(3), np.random.rand(3), random.random()


def test_everything_is_put_back():
    case = next(case for case in CASES if case.name == "cnn-batch-norm")
    model, batch = case.build()
    model.train()
    model[5].eval()
    case.loss_fn(model, batch).backward()
    gradients = [p.grad for p in model.parameters()]
    buffers = dict(model.named_buffers())
    contents = {name: buffer.clone() for name, buffer in buffers.items()}
    values = [gradient.clone() for gradient in gradients]
    modes = [module.training for module in model.modules()]
    before = random_state()
    with isolated(model):
        misbehave(model, batch)
        assert random_state() != before
    assert random_state() == before
    assert [p.grad for p in model.parameters()] == gradients or all(
        p.grad is g for p, g in zip(model.parameters(), gradients, strict=True)
    )
    assert all(torch.equal(g, v) for g, v in zip(gradients, values, strict=True))
    after = dict(model.named_buffers())
    assert all(after[name] is buffer for name, buffer in buffers.items())
    assert all(torch.equal(after[name], content) for name, content in contents.items())
    assert [module.training for module in model.modules()] == modes


def test_everything_is_put_back_after_a_failure():
    case = next(case for case in CASES if case.name == "cnn-batch-norm")
    model, batch = case.build()
    before = random_state()
    content = model[1].running_mean.clone()

    def fail() -> None:
        with isolated(model):
            misbehave(model, batch)
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fail()
    assert random_state() == before
    assert torch.equal(model[1].running_mean, content)
    assert all(p.grad is None for p in model.parameters())


def test_untouched_buffers_keep_their_version():
    model = nn.BatchNorm1d(2)
    version = model.running_mean._version
    with isolated(model):
        pass
    assert model.running_mean._version == version


def draw():
    return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()


def test_random_state_brings_back_every_generator():
    state = RandomState.capture([])
    first = draw()
    assert draw() != first
    state.restore()
    assert draw() == first


def test_replay_starts_from_the_same_numbers_and_leaves_those_outside():
    replay = Replay(None)
    with replay():
        first = draw()
    draw()
    before = random_state()
    with replay():
        assert draw() == first
    assert random_state() == before


def test_replay_starts_from_the_same_buffers_also_after_a_failure():
    model = nn.BatchNorm1d(2)
    start = {name: buffer.clone() for name, buffer in model.named_buffers()}
    replay = Replay(model)

    def fail() -> None:
        with replay():
            model(torch.randn(4, 2))
            model.running_var = torch.zeros(2)
            raise RuntimeError("out of memory")

    buffers = dict(model.named_buffers())
    with pytest.raises(RuntimeError, match="out of memory"):
        fail()
    assert all(torch.equal(buffer, start[name]) for name, buffer in model.named_buffers())
    assert all(buffer is buffers[name] for name, buffer in model.named_buffers())


def test_an_attribute_under_another_name_is_put_back():
    model = nn.Linear(1, 1)
    model.first = None
    with isolated(model):
        del model.first
        model.second = None
    assert "second" not in vars(model)
    assert model.first is None


@pytest.mark.parametrize("normal", [False, True])
def test_a_state_that_is_read_again_sees_what_was_drawn_in_between(normal):
    """numpy's state is read anew only where it has changed, as far as that can be seen."""
    np.random.seed(3)
    start = RandomState.capture([torch.zeros(1)])
    unchanged = start.now()
    assert unchanged.numpy is start.numpy
    assert unchanged.python == start.python
    np.random.normal() if normal else np.random.random(1)
    random.random()
    torch.rand(1)
    drawn = start.now()
    expected = np.random.normal(size=3), random.random(), torch.rand(1)
    for state, same in ((drawn, True), (start, False)):
        state.restore()
        again = np.random.normal(size=3), random.random(), torch.rand(1)
        assert np.array_equal(again[0], expected[0]) == same
        assert (again[1:] == expected[1:]) == same


def test_a_state_is_read_again_with_or_without_generators_of_modules():
    own = np.random.default_rng(0)
    start = RandomState.capture([], [own])
    first = own.random()
    [(generator, state)] = start.now().others
    assert generator is own
    assert state == own.bit_generator.state
    assert list(start.now(others=False).others) == []
    start.restore()
    assert own.random() == first
