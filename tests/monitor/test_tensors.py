"""The table of tensors beside the formulas, computed by hand from Adam's state in double precision."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import foreshock
from foreshock.explain import TensorTable
from foreshock.monitor.tensors import TensorReader

BETA1, BETA2, EPS, RATE = 0.9, 0.99, 1e-8, 0.05


def trained(steps: int = 30, dtype: torch.dtype = torch.float64):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).to(dtype)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, betas=(BETA1, BETA2), eps=EPS)
    x = torch.randn(16, 3, dtype=dtype)
    for step in range(steps):
        optimizer.zero_grad()
        (model(x).square().mean() + model(x).sin().mean()).backward()
        if step < steps - 1:
            optimizer.step()
    return model, optimizer


def test_each_measure_is_that_of_its_formula():
    model, optimizer = trained()
    size = sum(p.numel() for p in model.parameters())
    vector = torch.randn(size, dtype=torch.float64)
    table = TensorReader(model, [optimizer]).read(29, "asked", vector=vector)
    rows = {row.name: row for row in table.rows}
    assert list(rows) == [
        row.name for row in sorted(table.rows, key=lambda row: -row.share)
    ]  # by the share of the eigenvector
    first = 0
    for name, p in model.named_parameters():
        state, g, t, row = optimizer.state[p], p.grad, 30, rows[name]
        m = (BETA1 * state["exp_avg"] + (1 - BETA1) * g) / (1 - BETA1**t)
        v = (BETA2 * state["exp_avg_sq"] + (1 - BETA2) * g**2) / (1 - BETA2**t)
        root = v.sqrt() + EPS
        update, part = RATE * m / root, vector[first : first + p.numel()]
        first += p.numel()
        expected = {
            "gradient_norm": g.norm(),
            "update_rms": update.square().mean().sqrt(),
            "relative_update": update.norm() / p.norm(),
            "lag": root.square().sum() / g.square().sum(),
            "burst": (g / root).square().mean().sqrt(),
            "share": part.square().sum() / vector.square().sum(),
            "norm": p.norm(),
            "norm_growth": torch.tensor(1.0),
        }
        for field, value in expected.items():
            assert getattr(row, field) == pytest.approx(value.item(), rel=1e-8), (name, field)
        assert row.size == p.numel()
        assert row.non_finite == ""
        assert math.isnan(row.lost)


def test_norms_grow_from_the_first_table_on_also_after_a_resume():
    model, optimizer = trained()
    reader = TensorReader(model, [optimizer])
    reader.read(10, "asked")
    with torch.no_grad():
        model[2].weight.mul_(3)
    other = TensorReader(model, [optimizer])
    other.load_state_dict(reader.state_dict())
    table = other.read(20, "asked")
    assert table.since == 10
    growth = {row.name: row.norm_growth for row in table.rows}
    assert growth.pop("2.weight") == pytest.approx(3, rel=1e-6)
    assert set(growth.values()) == {1.0}


def test_a_monitor_compares_norms_with_those_of_its_beginning(tmp_path):
    model, optimizer = trained(dtype=torch.float32)
    monitor = foreshock.Monitor(model, optimizer, run=tmp_path, log_every=1)
    monitor.observe(torch.ones(1), 1.0)
    monitor.observe(torch.ones(1), 1.0)
    with torch.no_grad():
        model[0].bias.mul_(2)
    growth = {row.name: row.norm_growth for row in monitor.tensor_table().rows}
    assert growth["0.bias"] == pytest.approx(2, rel=1e-6)
    assert growth["0.weight"] == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("what", ["weight", "gradient", "second moment"])
def test_what_is_not_finite_is_named(what):
    model, optimizer = trained()
    p = model[2].weight
    target = {"weight": p.data, "gradient": p.grad, "second moment": optimizer.state[p]["exp_avg_sq"]}[what]
    target[0, 0] = math.nan
    table = TensorReader(model, [optimizer]).read(3, "non-finite")
    assert {row.name: row.non_finite for row in table.rows if row.non_finite} == {"2.weight": what}


def test_updates_that_rounding_loses_are_counted():
    model, optimizer = trained(dtype=torch.bfloat16)
    with torch.no_grad():
        model[2].weight.fill_(1000.0)  # a spacing of 4, far above a step of .05
    table = TensorReader(model, [optimizer]).read(3, "asked")
    lost = {row.name: row.lost for row in table.rows}
    assert lost["2.weight"] == 1
    assert lost["0.weight"] < 0.2


def test_an_optimizer_without_second_moment_has_no_lag():
    model, _ = trained()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    table = TensorReader(model, [optimizer]).read(3, "asked")
    assert all(math.isnan(row.lag) and math.isnan(row.burst) for row in table.rows)
    assert table.by("relative_update")[0].relative_update > 0


def test_a_table_changes_nothing_and_survives_the_log(tmp_path):
    model, optimizer = trained()
    monitor = foreshock.Monitor(model, optimizer, run=tmp_path)
    before = [t.clone() for p in model.parameters() for t in (p, p.grad, *optimizer.state[p].values())]
    table = monitor.tensor_table()
    after = [t for p in model.parameters() for t in (p, p.grad, *optimizer.state[p].values())]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    log = foreshock.runlog.RunLogWriter(tmp_path / "other")
    log.write("tensors", table)
    log.close()
    [record] = foreshock.read_run(tmp_path / "other").records["tensors"]
    assert TensorTable.from_record(record) == table or repr(TensorTable.from_record(record)) == repr(table)


def test_a_measure_that_does_not_exist_is_refused():
    model, optimizer = trained()
    table = TensorReader(model, [optimizer]).read(3, "asked")
    with pytest.raises(ValueError, match="'size'; it must be one of share, update_rms"):
        table.by("size")


def test_of_many_tensors_the_log_keeps_those_that_come_first_by_some_measure():
    rows = [foreshock.explain.TensorRow(f"p{i}", 1, burst=float(i)) for i in range(400)]
    short = TensorTable(1, "alarm", tuple(rows)).shortened()
    assert len(short.rows) + short.left_out == 400
    assert short.by("burst")[0].name == "p399"
    assert len(short.rows) <= 60
