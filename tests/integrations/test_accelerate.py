"""`AccelerateMonitor` in loops with a real ``Accelerator``."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import foreshock
from compatibility.state import bits

accelerate = pytest.importorskip("accelerate")
pytestmark = pytest.mark.filterwarnings("ignore")  # of other packages, about each other


def loss_fn(model, batch):
    return functional.cross_entropy(model(batch[0]), batch[1])


def train(run=None, *, accumulated=3, precision="no", clip=0.5, **options):
    """Return what training leaves behind, and the monitor; without a `run` it is not watched."""
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()
    torch.manual_seed(0)
    accelerator = accelerate.Accelerator(
        gradient_accumulation_steps=accumulated, mixed_precision=precision, cpu=True
    )
    model = torch.nn.Sequential(torch.nn.Linear(10, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))
    data = TensorDataset(2 * torch.randn(120, 10), torch.randint(3, (120,)))
    model, optimizer, loader = accelerator.prepare(
        model, torch.optim.AdamW(model.parameters(), lr=5e-3), DataLoader(data, 16, shuffle=True)
    )
    watch = run and import_module("foreshock.integrations.accelerate").AccelerateMonitor(
        accelerator, model, optimizer, loss_fn, run, **options
    )
    for _ in range(3):
        for batch in loader:
            with accelerator.accumulate(model):
                loss = loss_fn(model, batch)
                accelerator.backward(loss)
                if clip and accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), clip)
                if watch:
                    watch.observe(batch, loss)
                optimizer.step()
                optimizer.zero_grad()
    if watch:
        watch.close()
    state = [value for one in optimizer.state_dict()["state"].values() for value in one.values()]
    left = [bits(tensor) for tensor in (*model.parameters(), *state, torch.get_rng_state())]
    return left, sorted(vars(accelerator)), watch


@pytest.mark.parametrize(
    ("accumulated", "precision", "clip"), [(1, "no", 0.2), (3, "bf16", 0.2), (3, "no", 0)]
)
def test_a_watched_loop_is_the_same_and_its_loss_is_measured(tmp_path, accumulated, precision, clip):
    plain = train(accumulated=accumulated, precision=precision, clip=clip)
    watched = train(tmp_path, accumulated=accumulated, precision=precision, clip=clip, probe_every=1)
    assert watched[:2] == plain[:2]
    run = foreshock.read_run(tmp_path)
    steps = 24 if accumulated == 1 else 9
    assert [row["step"] for row in run.records["step"]] == list(range(steps))
    assert [event for event in run.records["event"] if "misuse" in event["name"]] == []
    assert max(row["loss_mismatch"] for row in run.records["noise"]) < 1e-3
    norms = [row["gradient_norm"] for row in run.records["step"]]
    assert max(norms) == pytest.approx(0.2, rel=1e-4) if clip else max(norms) > 0.25


def test_a_guard_leaves_with_the_monitor(tmp_path):
    *_, watch = train(tmp_path, guard=True)
    assert watch.monitor.guard.step == 9
    assert watch.monitor.guard.state_dict()["engine"]["measurer"]["agreed"]  # the clipped norm is used
    assert foreshock.guard(watch.monitor.guard.optimizer).step == 0  # an optimizer has one guard at most
