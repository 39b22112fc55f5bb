"""How Hessian products are made where a user, or the memory, decides it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import foreshock
from foreshock.curvature import Prober, require_method
from foreshock.curvature.choosing import Sharing
from foreshock.distributed import ALONE
from foreshock.distributed import room as room_module
from foreshock.distributed.room import free_memory, why_not_whole
from foreshock.failures import ProbeRefusedError
from foreshock.operators.backend import CENTRAL_DIFFERENCES
from foreshock.preconditioner import read_preconditioner
from foreshock.runlog import read_run


def loss_fn(model, batch):
    return model(batch).square().mean()


def trained(middle):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), middle, nn.Linear(8, 1)).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    batch = torch.randn(16, 3, dtype=torch.float64)
    for _ in range(3):
        optimizer.zero_grad()
        loss_fn(model, batch).backward()
        optimizer.step()
    return model, optimizer, batch


def probed(hvp, middle):
    model, optimizer, batch = trained(middle)
    prober = Prober(model, loss_fn, hvp=hvp)
    return prober.probe(batch, read_preconditioner(optimizer), step=1), prober.backend


def test_differences_that_were_asked_for_are_taken_and_agree():
    exact, _ = probed("exact", nn.Tanh())
    found, backend = probed("difference", nn.Tanh())
    assert exact.backend == "double backward"
    assert found.backend == backend.name == CENTRAL_DIFFERENCES
    assert backend.verified
    assert "asked for by hvp='difference'" in backend.reason
    assert found.predicted_loss_change == pytest.approx(exact.predicted_loss_change, rel=1e-6)
    assert found.stability_ratio == pytest.approx(exact.stability_ratio, rel=0.02)


def test_differences_across_kinks_are_not_called_verified():
    _, backend = probed("difference", nn.ReLU())
    assert not backend.verified
    assert "kinks (Relu)" in backend.reason


def test_double_backward_that_does_not_work_is_refused_where_it_was_asked_for():
    torch.manual_seed(0)
    model = nn.EmbeddingBag(5, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch = torch.tensor([[0, 1], [2, 3]])
    loss_fn(model, batch).backward()
    prober = Prober(model, loss_fn, hvp="exact")
    with pytest.raises(ProbeRefusedError, match="leave hvp at 'auto'"):
        prober.probe(batch, read_preconditioner(optimizer), step=1)


def test_a_monitor_says_in_its_log_how_products_are_made(tmp_path):
    model, optimizer, batch = trained(nn.Tanh())
    options = {"probe_every": 1, "full_batch": True, "run": tmp_path}
    with foreshock.Monitor(model, optimizer, loss_fn, hvp="difference", **options) as monitor:
        loss = loss_fn(model, batch)
        loss.backward()
        monitor.observe(batch, loss)
    log = read_run(tmp_path).records
    assert log["curvature"][0]["backend"] == CENTRAL_DIFFERENCES
    assert "hvp='difference'" in next(one["message"] for one in log["event"] if one["name"] == "backend")


def test_another_method_is_refused():
    assert require_method("auto") == "auto"
    with pytest.raises(ValueError, match="hvp is 'fast'; pass 'auto'"):
        foreshock.Monitor(*trained(nn.Tanh())[:2], hvp="fast")


def test_whole_parameters_fit_or_not(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(room_module, "free_memory", lambda device: 10**9)
    assert why_not_whole(28 * 10**6, torch.float32, cpu) == ""  # 8 vectors of 4 bytes: 0.896 GB of 0.9
    assert "take about 0.928 GB, and 1 GB are free" in why_not_whole(29 * 10**6, torch.float32, cpu)
    monkeypatch.setattr(room_module, "free_memory", lambda device: None)
    assert why_not_whole(10**15, torch.float32, cpu) == ""


def test_free_memory_is_shared_by_the_processes_of_a_host(monkeypatch):
    whole = free_memory(torch.device("cpu"))
    if whole is None:
        pytest.skip("this system does not say how much memory is free")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_memory(torch.device("cpu")) == pytest.approx(whole / 4, rel=0.5)


def test_one_process_alone_has_its_parameters_whole():
    model = nn.Linear(2, 1)
    with Sharing("difference").probe(ALONE, model, list(model.parameters())) as joint:
        assert joint is ALONE
