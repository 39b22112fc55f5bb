"""Monitors and guards in a checkpoint of torch.distributed.checkpoint, here in one process."""

from __future__ import annotations

import pytest
import torch
import torch.distributed.checkpoint as dcp

import foreshock

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def loss_fn(model, batch):
    return model(batch).square().mean()


def trained(guard, steps=0):
    """Return a monitor and its guard after some steps of a small training."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    monitor = foreshock.Monitor(model, optimizer, loss_fn, guard=guard, probe_every=5, full_batch=True)
    batch = torch.randn(16, 3, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_fn(model, batch)
        loss.backward()
        monitor.observe(batch, loss)
        optimizer.step()
    return monitor


def test_a_checkpoint_has_what_was_known_without_the_vectors(tmp_path):
    monitor = trained("secant", steps=31)
    dcp.save({"monitor": foreshock.Checkpointed(monitor)}, checkpoint_id=tmp_path)
    resumed = trained("secant")
    dcp.load({"monitor": foreshock.Checkpointed(resumed)}, checkpoint_id=tmp_path)
    assert str(resumed.state_dict(vectors=False)["run"]) == str(monitor.state_dict(vectors=False)["run"])
    assert resumed.guard.step == monitor.guard.step == 31
    assert resumed.forecast.stability_ratio == monitor.forecast.stability_ratio > 0
    assert monitor.state_dict()["probes"]["prober"]["starts"] is not None
    assert resumed.state_dict()["probes"]["prober"]["starts"] is None
    assert len(foreshock.Checkpointed(monitor).state_dict()["state"]) < 40_000
    assert repr(foreshock.Checkpointed(monitor)).startswith("<Checkpointed <Monitor of Adam")


def test_what_is_no_state_of_a_monitor_is_refused():
    with pytest.raises(ValueError, match="has NoneType where the state of a monitor"):
        foreshock.Checkpointed(trained(None)).load_state_dict({"other": b""})
    state = foreshock.Checkpointed(trained("secant", steps=3).guard).state_dict()
    with pytest.raises(ValueError, match="'secant'"):
        foreshock.Checkpointed(trained("mean_square").guard).load_state_dict(state)
