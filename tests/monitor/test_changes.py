"""What a monitor writes down of a training that changes, and of gradients that jump or are not finite."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import foreshock
from foreshock.monitor.changes import ChangeWatch
from foreshock.monitor.overflow import locate_overflow


def make(frozen: bool = False):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    if frozen:
        for p in model[0].parameters():
            p.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    return model, optimizer


def loss_fn(model, batch):
    return (model(batch[0]) - batch[1]).square().mean()


def batches(n, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n):
        x = torch.randn(size, 3, generator=generator)
        yield x, x.sum(1, keepdim=True).sin()


def run(model, optimizer, data, folder, *, before=None, after=None, ids=False, monitor=None):
    monitor = monitor or foreshock.Monitor(model, optimizer, loss_fn, run=folder, probe_every=50)
    for step, batch in enumerate(data):
        if before:
            before(step)
        optimizer.zero_grad()
        loss = loss_fn(model, batch)
        loss.backward()
        if after:
            after(step)
        monitor.observe(batch, loss, ids=range(16 * step, 16 * step + 16) if ids else None)
        optimizer.step()
    monitor.close()
    return foreshock.read_run(folder)


def test_an_unfrozen_layer_is_a_change_with_its_names(tmp_path):
    model, optimizer = make(frozen=True)

    def before(step):
        if step == 25:
            for p in model[0].parameters():
                p.requires_grad_(True)
            optimizer.add_param_group({"params": list(model[0].parameters())})

    log = run(model, optimizer, batches(40), tmp_path, before=before)
    [change] = log.records["change"]
    assert (change["step"], change["what"]) == (25, "parameters")
    assert change["names"] == ["0.weight", "0.bias"]
    assert change["after"] == {"groups": 2, "tensors": 4, "new": 2, "gone": 0}


def test_an_option_that_changes_is_a_change_and_a_schedule_is_none(tmp_path):
    model, optimizer = make()

    def before(step):
        optimizer.param_groups[0]["lr"] = 1e-3 / (1 + step)
        if step == 12:
            optimizer.param_groups[0]["betas"] = (0.9, 0.9)

    log = run(model, optimizer, batches(20), tmp_path, before=before)
    [change] = log.records["change"]
    assert (change["step"], change["before"], change["after"]) == (
        12,
        {"betas": [0.9, 0.999]},
        {"betas": [0.9, 0.9]},
    )


def data_changes(log):
    return [(row["step"], row["after"]["same"]) for row in log.records["change"] if row["what"] == "data"]


def test_data_that_are_replaced_or_written_to_are_a_change(tmp_path):
    one, other = batches(2)
    data = [one if step < 20 else other for step in range(40)]

    def before(step):
        if step == 30:
            other[1].add_(1.0)

    log = run(*make(), data, tmp_path, before=before)
    assert data_changes(log) == [(1, True), (20, False), (21, True), (30, False), (31, True)]


def test_batches_that_differ_are_no_change_and_many_changes_end_in_one_that_knows_nothing(tmp_path):
    log = run(*make(), batches(30), tmp_path / "differ")
    assert "change" not in log.records
    one, other = batches(2)
    data = [one, one, other, other] * 110
    log = run(*make(), data, tmp_path / "many")
    found = data_changes(log)
    assert len(found) <= 402
    assert found[-1][1] is False
    assert found[-1][0] < len(data) - 20


def test_experts_without_a_gradient_now_and_then_are_said_once_each():
    model, optimizer = make()
    watch, found = ChangeWatch(model, [optimizer]), []
    for step in range(100):
        for place, p in enumerate(model.parameters()):
            p.grad = None if place == step % 2 else torch.ones_like(p)
        found += watch.compare(step)
    assert len(found) == 1


def test_a_gradient_that_jumps_is_logged_with_its_tensors_and_the_ids_of_the_batch(tmp_path):
    model, optimizer = make()
    # Trained to near zero first, so that what is usual is small.
    data = list(batches(120))
    x, y = data[90]
    data[90] = x, y + 100
    log = run(model, optimizer, data, tmp_path, ids=True)
    jumps = {row["step"]: row for row in log.records["gradients"]}
    assert 90 in jumps
    row = jumps[90]
    assert row["ids"] == list(range(1440, 1456))
    assert row["non_finite"] == []
    assert {one["name"] for one in row["rows"]} == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert all(one["norm"] > 10 * one["usual"] for one in row["rows"])


@pytest.mark.parametrize(("at", "what"), [(30, "gradient"), (33, "weight")])
def test_tensors_with_a_gradient_that_is_not_finite_are_named(tmp_path, at, what):
    model, optimizer = make()

    def after(step):
        if step == at:
            model[2].bias.grad.fill_(math.inf)

    log = run(model, optimizer, batches(45), tmp_path, after=after)
    first = log.records["gradients"][0]
    assert (first["step"], first["non_finite"]) == (at, ["2.bias"])
    tables = [row for row in log.records["tensors"] if row["reason"] == "non-finite"]
    assert tables
    assert log.records["overflow"][0]["what"] == what  # numbers are read back every ten steps


def test_a_resume_says_what_the_state_was_and_is(tmp_path):
    model, optimizer = make()
    monitor = foreshock.Monitor(model, optimizer, loss_fn, run=tmp_path)
    for batch in batches(40):
        optimizer.zero_grad()
        loss = loss_fn(model, batch)
        loss.backward()
        monitor.observe(batch, loss)
        optimizer.step()
    state = monitor.state_dict()
    monitor.close()
    fresh = torch.optim.AdamW(model.parameters(), lr=2e-3)
    other = foreshock.Monitor(model, fresh, loss_fn, run=tmp_path)
    other.load_state_dict(state)
    log = run(model, fresh, batches(20, seed=5), tmp_path, monitor=other)
    [change] = [row for row in log.records["change"] if row["what"] == "resume"]
    assert change["step"] == 40

    assert change["before"]["updates"] == 40
    assert change["after"]["updates"] == 1
    assert change["before"]["learning_rate"] == 1e-3
    assert change["after"]["learning_rate"] == 2e-3


def test_an_overflow_is_found_where_it_happens_and_is_finite_in_double_precision():
    class Squared(nn.Module):
        def forward(self, x):
            return x.square().square()

    model = nn.Sequential(nn.Linear(4, 4), Squared(), nn.Linear(4, 1))
    with torch.no_grad():
        model[0].weight.fill_(1e10)
    before = [p.clone() for p in model.parameters()]
    found = locate_overflow(7, model, lambda m, b: m(b).mean(), torch.ones(2, 4))
    assert (found.what, found.names, found.dtype) == ("forward", ("1",), "float32")
    assert 1e10 < found.largest < 1e11
    assert math.isfinite(found.double_loss)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_an_input_that_is_not_finite_is_no_overflow_of_the_model():
    model, _ = make()
    x = torch.ones(2, 3)
    x[1, 2] = math.nan
    found = locate_overflow(0, model, loss_fn, (x, torch.ones(2, 1)))
    assert (found.what, found.batch) == ("input", True)
    # After a step the weights are lost as well: which came first is known of the batch alone.
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    found = locate_overflow(5, model, loss_fn, (x, torch.ones(2, 1)))
    assert (found.what, found.batch) == ("weight", True)
    assert not locate_overflow(5, model, loss_fn, (torch.ones(2, 3), torch.ones(2, 1))).batch


def test_looking_for_an_overflow_leaves_what_the_loss_function_reaches_alone():
    watched, other = nn.Linear(2, 1), nn.BatchNorm1d(2)
    before = {name: one.clone() for name, one in other.state_dict().items()}

    def loss_fn(model, batch):
        return model(other(batch).to(model.weight.dtype)).mean() / 0

    locate_overflow(3, watched, loss_fn, torch.ones(4, 2))
    assert all(torch.equal(one, before[name]) for name, one in other.state_dict().items())
