"""Checkpoints of a monitor stay loadable when other parameters are trained than when they were made."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn, optim

from foreshock import Monitor


def mean_square(model, batch):
    return model(batch).square().mean()


def build():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    return model, optim.Adam(model.parameters(), lr=0.01)


def run(model, optimizer, monitor, steps, *, change=None):
    draw = torch.Generator().manual_seed(1)
    for step in range(steps):
        if change is not None and step == steps - 2:
            model[0].requires_grad_(change)
            model[0].weight.grad = model[0].bias.grad = None
        batch = torch.randn(16, 4, generator=draw)
        optimizer.zero_grad()
        loss = mean_square(model, batch)
        loss.backward()
        monitor.observe(batch, loss)
        optimizer.step()


@pytest.mark.parametrize("frozen_first", [True, False])
@pytest.mark.parametrize("full_batch", [True, False])
def test_freezing_and_unfreezing_keep_checkpoints_loadable(frozen_first, full_batch, caplog):
    model, optimizer = build()
    model[0].requires_grad_(not frozen_first)
    options = {"probe_every": 5, "full_batch": full_batch}
    monitor = Monitor(model, optimizer, mean_square, guard="auto", **options)
    run(model, optimizer, monitor, 8, change=frozen_first)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), monitor.state_dict()))
    again, second = build()
    again[0].requires_grad_(frozen_first)
    resumed = Monitor(again, second, mean_square, guard="auto", **options)
    again.load_state_dict(saved[0])
    second.load_state_dict(saved[1])
    resumed.load_state_dict(saved[2])
    assert "the vectors of the last probes were dropped" in caplog.text
    run(again, second, resumed, 8)
    assert resumed.forecast.stability_ratio > 0 or not full_batch
    assert resumed.guard.step == 16


def test_layers_that_join_the_optimizer_keep_checkpoints_loadable():
    model, _ = build()
    optimizer = optim.Adam(model[2].parameters(), lr=0.01)
    monitor = Monitor(model, optimizer, mean_square, guard="auto", probe_every=2)
    run(model, optimizer, monitor, 6)
    saved = copy.deepcopy(monitor.state_dict())
    wider = optim.Adam(model.parameters(), lr=0.01)
    resumed = Monitor(model, wider, mean_square, guard="auto", probe_every=2)
    resumed.load_state_dict(saved)
    run(model, wider, resumed, 6)
    assert any("the last displacement" in note for note in resumed.guard.summary().notes)
    assert resumed.forecast.step == 11
