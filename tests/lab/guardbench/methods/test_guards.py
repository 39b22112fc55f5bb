"""Foreshock's guards as the benchmark attaches them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foreshock.lab.guardbench.methods import METHODS, Subject, method
from foreshock.lab.guardbench.methods.guards import CountedLoss
from foreshock.lab.tasks import OptimizerConfig

GUARDS = [one.name for one in METHODS if one.source == "foreshock"]


def loss_fn(model, batch):
    inputs, targets = batch
    return (model(inputs) - targets).square().mean()


def data(seed, examples=8):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(examples, 3, generator=generator), torch.randn(examples, 1, generator=generator)


def run(name, *, batches, steps=30):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    helper = method(name).intervene(Subject(model, optimizer, loss_fn, 80, len(batches) == 1))
    acted = []
    for step in range(steps):
        batch = batches[step % len(batches)]
        optimizer.zero_grad()
        loss = loss_fn(model, batch)
        loss.backward()
        helper.before_step(batch, loss.item())
        optimizer.step()
        acted.append(helper.after_step())
    return helper, acted, optimizer


@pytest.mark.parametrize("name", GUARDS)
def test_every_guard_runs_and_lets_go(name):
    helper, acted, optimizer = run(name, batches=[data(0)])
    assert len(acted) == 30
    assert helper.passes >= 0
    helper.buffers()
    helper.close()
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_beside_muon_adamw_is_guarded():
    pytest.importorskip("torch", minversion="2.9")
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 1))
    chosen = method("guard-muon")
    optimizer = chosen.build(model, OptimizerConfig("adamw", 0.01))
    helper = chosen.intervene(Subject(model, optimizer, loss_fn))
    hooked = {type(part).__name__: bool(part._optimizer_step_pre_hooks) for part in optimizer.parts}
    assert hooked == {"AdamW": True, "Muon": False}
    assert not optimizer._optimizer_step_pre_hooks
    helper.close()


def test_pairs_cost_what_the_loss_function_was_asked_for():
    """Two gradients of each half are two passes of a batch; the first few measurements take one more."""
    passes = []
    for steps in (701, 801):
        helper, _, _ = run("guard-auto", batches=[data(i) for i in range(10)], steps=steps)
        passes.append(helper.passes)
        helper.close()
    assert passes[1] - passes[0] == pytest.approx(2)


def test_the_full_batch_needs_no_pairs():
    helper, _, _ = run("guard-auto", batches=[data(0)], steps=101)
    assert helper.passes == 0
    helper.close()


def test_the_monitor_s_probes_are_counted():
    helper, _, _ = run("guard-curvature", batches=[data(0)], steps=30)
    # Three probes, each with the graph of a Hessian and at least two products.
    assert helper.passes >= 3 * (3 + 2 * 2)
    helper.close()


def test_a_monitored_guard_costs_what_its_monitor_measures():
    helper, _, _ = run("guard-monitor", batches=[data(i) for i in range(10)], steps=200)
    assert 0 < helper.passes < 0.05 * 200 + 40  # its budget, and what its opening may cost before it is paid
    helper.close()


def test_a_loss_is_counted_by_the_share_of_the_batch():
    counted = CountedLoss(loss_fn)
    counted.examples = 8
    counted(nn.Linear(3, 1), data(0, examples=4))
    counted(nn.Linear(3, 1), data(0, examples=8))
    assert counted.passes == 1.5
