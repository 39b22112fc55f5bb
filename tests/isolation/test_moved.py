"""Probes that copy only what moved before, and what they do when something else moves."""

from __future__ import annotations

import copy
import functools
import gc
import pickle
import weakref

import pytest
import torch
from torch import nn

import foreshock
from foreshock.failures import ProbeRefusedError
from foreshock.isolation import MovedMemory, isolated
from foreshock.isolation.copies import Copies
from isolation.side_effects import state_of

SIZE = 80  # a weight that is too large to be copied together with others


class Moving(nn.Module):
    """A network that writes into one of its two large weights while told to."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.still, self.moving = nn.Linear(SIZE, SIZE, bias=False), nn.Linear(SIZE, SIZE, bias=False)
        self.norm, self.how = nn.BatchNorm1d(SIZE), ""

    def forward(self, x):
        weight = self.moving.weight
        if self.how == "in place":
            with torch.no_grad():
                weight.mul_(0.5)
        if self.how == "one value":  # none of those that are sampled in the fifth probe
            with torch.no_grad():
                weight.view(-1)[:1].mul_(0.5)
        if self.how == "unseen":
            weight.data.mul_(0.5)
        if self.how == "elsewhere":
            weight.data = weight.data * 0.5
        return self.norm(self.moving(torch.tanh(self.still(x))))


def loss_fn(model, batch):
    return model(batch).square().mean()


def probe(model, memory, function=loss_fn):
    with isolated(model, function, memory):
        function(model, torch.ones(4, SIZE)).backward()


def copied(monkeypatch):
    """Return a list to which the names of the weights that are copied by themselves will be appended."""
    names = []
    usual = Copies._restore_copied
    monkeypatch.setattr(
        Copies, "_restore_copied", lambda self, one: (names.append(one.name), usual(self, one))
    )
    return names


def test_only_what_moved_is_copied_after_three_probes_and_everything_at_each_fiftieth(monkeypatch):
    names, model, memory = copied(monkeypatch), Moving(), MovedMemory()
    model.how = "in place"
    both, found = ["still.weight", "moving.weight"], []
    before = state_of(model)
    for _ in range(51):
        names.clear()
        probe(model, memory)
        found.append(list(names))
        assert state_of(model) == before
    assert found[:3] == [both] * 3
    assert found[3:49] == [["moving.weight"]] * 46
    assert found[49:] == [both, ["moving.weight"]]


@pytest.mark.parametrize("how", ["in place", "unseen", "one value"])
def test_what_moves_later_is_told_once_and_copied_from_then_on(how):
    model, memory = Moving(), MovedMemory()
    for _ in range(4):
        probe(model, memory)
    before = state_of(model)
    model.how = how
    with pytest.raises(RuntimeError, match=r"loss_fn moved moving\.weight, which stood still") as raised:
        probe(model, memory)
    assert not isinstance(raised.value, ProbeRefusedError)  # later probes are made
    model.how = ""
    after = state_of(model)
    assert after != before  # there was no copy; all else is as it was
    changed = model.moving.weight.data.view(-1)[: 1 if how == "one value" else None]
    changed.mul_(2)
    assert state_of(model) == before
    model.how = how
    before = state_of(model)
    for _ in range(5):
        probe(model, memory)
        assert state_of(model) == before


def test_a_weight_that_is_set_to_other_memory_is_put_back_without_a_copy():
    model, memory = Moving(), MovedMemory()
    for _ in range(4):
        probe(model, memory)
    model.how = "elsewhere"
    before, where = state_of(model), model.moving.weight.data_ptr()
    probe(model, memory)
    assert state_of(model) == before
    assert model.moving.weight.data_ptr() == where


def test_a_surprise_is_told_also_where_the_probe_is_refused():
    model, memory = Moving(), MovedMemory()
    for _ in range(4):
        probe(model, memory)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.how = "in place"

    def steps(model, batch):
        loss = loss_fn(model, batch)
        optimizer.step()
        return loss

    # The same code object, so that the memory goes on.
    steps.__code__, memory._of = steps.__code__, (*memory._of[:2], steps.__code__)
    with pytest.raises(ProbeRefusedError, match=r"calls step\(\) of SGD.*; loss_fn moved moving\.weight"):
        probe(model, memory, steps)


def test_another_model_mode_or_function_is_learned_anew(monkeypatch):
    names, model, memory = copied(monkeypatch), Moving(), MovedMemory()

    def learn():
        for _ in range(4):
            names.clear()
            probe(model, memory)
        assert not names

    learn()
    model.eval()
    probe(model, memory)
    assert len(names) == 2
    learn()
    probe(model, memory, lambda model, batch: loss_fn(model, batch))
    assert len(names) == 2
    learn()
    model = Moving()
    probe(model, memory)
    assert len(names) == 2


def test_a_function_that_is_made_anew_at_each_step_is_the_same(monkeypatch):
    names, model, memory = copied(monkeypatch), Moving(), MovedMemory()
    for scale in range(4):
        names.clear()
        probe(
            model, memory, functools.partial(lambda scale, model, batch: scale * loss_fn(model, batch), scale)
        )
    assert not names


def test_a_parameter_that_replaces_another_is_copied(monkeypatch):
    names, model, memory = copied(monkeypatch), Moving(), MovedMemory()
    for _ in range(4):
        probe(model, memory)
    names.clear()
    model.still.weight = nn.Parameter(model.still.weight.detach().clone())
    gc.collect()
    # As if its id were that of one that is gone.
    memory._known[id(model.still.weight)] = (weakref.ref(model.norm.weight), 3)
    probe(model, memory)
    assert names == ["still.weight"]


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])  # noqa: S301
def test_a_copy_of_a_memory_remembers_nothing(copy_of):
    model, memory = Moving(), MovedMemory()
    for _ in range(4):
        probe(model, memory)
    assert memory.stood_still(model.still.weight)
    assert not copy_of(memory).stood_still(model.still.weight)


@pytest.mark.parametrize("shape", [(SIZE, SIZE), (8, 8, 10, 10)])
def test_weights_in_any_order_of_memory_are_put_back(shape):
    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            weight = torch.arange(6400.0).view(shape)
            self.one = nn.Parameter(
                weight.to(memory_format=torch.channels_last) if weight.ndim == 4 else weight.t()
            )
            self.small = nn.Parameter(weight[:5, :5].transpose(0, 1))

    model, memory = Holder(), MovedMemory()
    for _ in range(3):
        before = state_of(model)
        with isolated(model, None, memory):
            model.one.data.neg_(), model.small.data.neg_()
        assert state_of(model) == before


def test_a_monitor_tells_it_and_probes_on(tmp_path, caplog):
    model = Moving()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    monitor = foreshock.Monitor(
        model, optimizer, loss_fn, probe_every=1, full_batch=True, run=tmp_path / "run"
    )
    batch = torch.randn(8, SIZE, generator=torch.Generator().manual_seed(0))
    for step in range(9):
        model.how = ""
        optimizer.zero_grad()
        loss = loss_fn(model, batch)
        loss.backward()
        model.how = "in place" if step >= 6 else ""
        monitor.observe(batch, loss)
        optimizer.step()
    records = foreshock.read_run(tmp_path / "run").records
    told = [one for one in records["event"] if "stood still" in one["message"]]
    assert [one["step"] for one in told] == [6], records["event"]
    assert caplog.text.count("which stood still in earlier probes") == 1
    assert records["curvature"][-1]["step"] == 8
