"""Whatever a loss function does in a probe, training goes on bit by bit as if there had been none."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
from torch import nn

import foreshock
from foreshock.failures import ProbeRefusedError
from foreshock.isolation import isolated
from isolation.side_effects import EFFECTS, MODELS, Loop, Plain, draws, mean_square, runs_another, state_of


def batch_of(seed=0):
    draw = torch.Generator().manual_seed(seed)
    x, y, z = (torch.randn(8, 4, generator=draw) for _ in range(3))
    return {"x": x, "y": y, "z": z, "w": "label"}


def begin(model="plain", effect=None):
    torch.manual_seed(0)
    loop = Loop(MODELS[model]())

    def loss_fn(one, batch):
        if effect is not None:
            effect(loop, one, batch)
        return mean_square(one, batch)

    return loop, loss_fn


def train_one(loop, batch):
    loop.optimizer.zero_grad()
    loss = mean_square(loop.model, batch)
    loss.backward()
    return loss


@pytest.mark.parametrize(
    ("model", "full_batch"), [*((model, True) for model in MODELS), ("attributes", False)]
)
@pytest.mark.parametrize("effect", [None, *EFFECTS])
def test_a_probe_moves_nothing(model, effect, full_batch):
    loop, loss_fn = begin(model, effect)
    monitor = foreshock.Monitor(loop.model, loop.optimizer, loss_fn, probe_every=1, full_batch=full_batch)
    batch = batch_of()
    for _ in range(2):
        loss = train_one(loop, batch)
        before = state_of(*loop.everything(), batch)
        monitor.observe(batch, loss)
        assert state_of(*loop.everything(), batch) == before
        loop.optimizer.step()


@pytest.mark.parametrize("effect", EFFECTS)
def test_a_measurement_of_a_guard_moves_nothing(effect):
    loop, loss_fn = begin("attributes", effect)
    watched = foreshock.guard(loop.optimizer, "mean_square")
    spent = []
    for step in range(6):
        batch = batch_of(step)
        train_one(loop, batch)
        before = state_of(*loop.everything(), batch)
        spent.append(watched.measure(loop.model, loss_fn, batch, every=1))
        assert state_of(*loop.everything(), batch) == before
        loop.optimizer.step()
    assert spent[5]


@pytest.mark.parametrize("model", ["key encoder", "largest norm", "attributes"])
def test_a_single_measurement_moves_nothing(model):
    loop, loss_fn = begin(model)
    batch = batch_of()
    before = state_of(*loop.everything(), batch)
    foreshock.sharpness(loop.model, loss_fn, batch)
    assert state_of(*loop.everything(), batch) == before


def test_a_kept_graph_beside_batch_normalisation_survives():
    loop, loss_fn = begin()
    monitor = foreshock.Monitor(loop.model, loop.optimizer, loss_fn, probe_every=1)
    batch = batch_of()
    out = loop.model(batch["x"])
    loss, extra = out.square().mean(), out.abs().mean()
    loss.backward(retain_graph=True)
    expected = torch.autograd.grad(extra, list(loop.model.parameters()), retain_graph=True)
    monitor.observe(batch, loss)
    got = torch.autograd.grad(extra, list(loop.model.parameters()))
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))


def test_other_networks_are_found_where_they_run():
    """Nothing that can be seen from outside leads to the second network: it is noticed when it is called."""
    loop, _ = begin()
    hidden = {"".join(["other", str(index)]): loop.other if index == 150 else None for index in range(200)}
    before = state_of(*loop.everything())
    with isolated(loop.model, lambda model, batch: hidden["other150"](batch)):
        hidden["other150"](torch.ones(3, 4)).sum().backward()
    assert state_of(*loop.everything()) == before


def numbers():
    yield from range(100)


class Stream:
    def __init__(self):
        self.at = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.at += 1
        return self.at


ITERATORS = {
    "range": lambda: iter(range(99)),
    "list": lambda: iter([1] * 99),
    "generator": numbers,
    "count": itertools.count,
    "cycle": lambda: itertools.cycle([1, 2, 3]),
    "zip": lambda: zip(range(99), itertools.count(), strict=False),
    "enumerate": lambda: enumerate(numbers()),
    "class": Stream,
    "loader": lambda: iter(torch.utils.data.DataLoader(list(range(99)))),
}


@pytest.mark.parametrize("kind", ITERATORS)
def test_an_iterator_that_is_advanced_is_told_once_and_ends_the_probes(kind, caplog, tmp_path):
    loop, _ = begin()
    iterator = ITERATORS[kind]()
    calls = []

    def loss_fn(model, batch):
        calls.append(next(iterator))
        return mean_square(model, batch)

    monitor = foreshock.Monitor(loop.model, loop.optimizer, loss_fn, probe_every=1, run=tmp_path / "run")
    batch = batch_of()
    for _ in range(3):
        monitor.observe(batch, train_one(loop, batch))
        made = len(calls)
        loop.optimizer.step()
    assert len(calls) == made > 0
    assert caplog.text.count("loss_fn moves the iterator iterator each time that it is called") == 1


def test_an_iterator_that_stands_still_is_no_harm():
    loop, loss_fn = begin()
    for kind, make in ITERATORS.items():
        iterator = make()
        next(iterator)

        def held(model, batch, iterator=iterator):
            return loss_fn(model, batch)

        with isolated(loop.model, held):
            held(loop.model, batch_of()), kind


def test_a_step_in_a_loss_function_is_refused_before_it_moves_anything():
    loop, _ = begin()
    batch = batch_of()

    def trains(model, batch):
        loss = mean_square(model, batch)
        loss.backward()
        loop.optimizer.step()
        return loss

    monitor = foreshock.Monitor(loop.model, loop.optimizer, trains, probe_every=1)
    loss = train_one(loop, batch)
    before = state_of(*loop.everything())
    monitor.observe(batch, loss)
    assert state_of(*loop.everything()) == before
    with pytest.raises(ProbeRefusedError, match=r"loss_fn calls step\(\) of Adam"):
        foreshock.sharpness(loop.model, trains, batch)
    loop.optimizer.step()  # outside it is allowed again


class Adapter(nn.Module):
    """A small trained part on large frozen weights, into which forward writes."""

    def __init__(self, *, moves):
        super().__init__()
        self.large = nn.Parameter(torch.ones(2**12, 2**13), requires_grad=False)
        self.small, self.moves = nn.Linear(4, 4), moves

    def forward(self, x):
        if self.moves == "in place":
            with torch.no_grad():
                self.large.mul_(0.5)
        if self.moves == "unseen":
            self.large.data.mul_(0.5)
        return self.small(x) * self.large[0, 0]


@pytest.mark.parametrize("moves", ["in place", "unseen"])
def test_what_is_too_large_to_be_copied_is_told(moves):
    model = Adapter(moves=moves)
    with pytest.raises(ProbeRefusedError, match="loss_fn moves the content of large each time"):
        foreshock.sharpness(model, mean_square, batch_of())


def test_large_frozen_weights_that_stand_still_are_no_harm():
    model = Adapter(moves="")
    assert foreshock.sharpness(model, mean_square, batch_of()).value > 0


def test_what_a_loss_function_reaches_by_methods_partials_and_defaults_is_put_back():
    loop, _ = begin()

    class Trainer:
        def __init__(self):
            self.loop = loop

        def helper(self, batch):
            runs_another(self.loop, loop.model, batch)
            draws(self.loop, loop.model, batch)
            self.loop.optimizer.param_groups[0]["lr"] = 7.0

        def loss(self, model, batch):
            self.helper(batch)
            return mean_square(model, batch)

    def partly(trainer, model, batch, *, again=loop.other):
        again(batch["x"])
        return trainer.loss(model, batch)

    batch = batch_of()
    for loss_fn in (Trainer().loss, functools.partial(partly, Trainer())):
        before = state_of(*loop.everything(), batch)
        foreshock.sharpness(loop.model, loss_fn, batch)
        assert state_of(*loop.everything(), batch) == before


def test_minus_zero_is_not_zero():
    model = Plain()
    with torch.no_grad():
        model.first.bias.zero_()
    before = state_of(model)
    with isolated(model):
        model.first.bias.data.neg_()
    assert state_of(model) == before


def test_a_tensor_that_was_set_to_other_memory_has_its_own_back():
    model = Plain()
    before = state_of(model)
    with isolated(model):
        model.first.weight.data = torch.zeros(3, 3, dtype=torch.float64)
        model.norm.running_mean.data = torch.zeros(1)
    assert state_of(model) == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_inside_is_raised_and_everything_put_back(error):
    loop, _ = begin("key encoder")
    before = state_of(*loop.everything())

    def fail():
        with isolated(loop.model):
            mean_square(loop.model, batch_of()).backward()
            torch.set_grad_enabled(False)
            raise error

    with pytest.raises(error):
        fail()
    assert state_of(*loop.everything()) == before


def turned_off(model, batch):
    torch.set_grad_enabled(False)
    return model(batch).square().mean()


def test_a_loss_function_that_turns_gradients_off_is_refused_once_with_the_remedy(tmp_path, caplog):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    monitor = foreshock.Monitor(model, optimizer, turned_off, probe_every=1, run=tmp_path / "run")
    watched = foreshock.guard(torch.optim.Adam(model.parameters(), lr=0.01))
    for seed in range(4):
        batch = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))
        loss = model(batch).square().mean()
        loss.backward()
        monitor.observe(batch, loss)
        watched.measure(model, turned_off, batch, every=1)
        assert torch.is_grad_enabled()
        optimizer.step()
    events = [one["name"] for one in foreshock.read_run(tmp_path / "run").records["event"]]
    assert events.count("no probe") == 1
    assert "probe failed" not in events
    assert caplog.text.count("not after torch.set_grad_enabled(False) (it is not tried again)") == 2


@pytest.mark.parametrize("kind", ["inside itself", "can't be read"])
def test_an_odd_batch_ends_nothing(kind):
    class Raising(dict):
        def items(self):
            raise OSError("the file is gone")

        values = keys = __iter__ = items

    model = nn.Linear(3, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def loss_fn(model, batch):
        return model(torch.ones(4, 3)).square().mean()

    monitor = foreshock.Monitor(model, optimizer, loss_fn, probe_every=1)
    watched = foreshock.guard(optimizer)
    for _ in range(4):
        batch = [torch.ones(4, 3)]
        batch.append(batch if kind == "inside itself" else Raising())
        loss = loss_fn(model, batch)
        loss.backward()
        for odd in (batch, batch[1]):
            monitor.observe(odd, loss)
            watched.measure(model, loss_fn, odd, every=1)
        optimizer.step()
