"""A device without memory enough for a probe: it is left out, what it held is free, training goes on."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

from foreshock import Monitor
from foreshock.operators import choose_backend
from foreshock.runlog import read_run


class Full(torch.autograd.Function):
    """The identity, on a device that is full once its backward is differentiated; notes what it holds."""

    held: list[weakref.ref] = []  # noqa: RUF012 - emptied by each test

    @staticmethod
    def forward(context, x):
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        if torch.is_grad_enabled():
            large = gradient.clone()
            Full.held.append(weakref.ref(large))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has none.")
        return gradient


class Tight(nn.Module):
    """A layer in front of what fills the device."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 8), nn.Linear(8, 1)])
        self.fills = True

    def forward(self, x):
        hidden = self.layers[0](x).tanh()
        return self.layers[1](Full.apply(hidden) if self.fills else hidden)


@pytest.fixture(autouse=True)
def _empty():
    Full.held.clear()


def square(model, batch):
    return model(batch).square().mean()


def test_where_double_backward_does_not_fit_differences_are_taken_with_its_memory_free(monkeypatch):
    model, batch = Tight(), torch.randn(16, 3)
    held = []
    evaluated = model.forward
    monkeypatch.setattr(model, "forward", lambda x: held.append(_held()) or evaluated(x))
    choice = choose_backend(lambda: square(model, batch), list(model.parameters()), model=model)
    assert choice.name == "central differences"
    assert choice.reason.startswith("double backward failed: OutOfMemoryError: CUDA out of memory")
    # One evaluation that fails, and those of the differences after it, to which nothing is left of it.
    assert len(held) > 2
    assert held[1:] == [0] * (len(held) - 1)


def test_a_probe_that_does_not_fit_is_left_out_and_training_goes_on_bit_by_bit(tmp_path):
    def train(watch):
        torch.manual_seed(0)
        model = Tight()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        monitor = Monitor(model, optimizer, lacking, run=tmp_path, probe_every=5) if watch else None
        for _ in range(12):
            batch = torch.randn(16, 3)
            optimizer.zero_grad()
            loss = square(model, batch)
            loss.backward()
            if monitor is not None:
                monitor.observe(batch, loss)
                assert _held() == 0
            optimizer.step()
        if monitor is not None:
            monitor.close()
        return [p.detach().clone() for p in model.parameters()]

    def lacking(model, batch):
        large = torch.ones(3)
        Full.held.append(weakref.ref(large))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has none.")

    plain, watched = train(watch=False), train(watch=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    events = [one for one in read_run(tmp_path).records["event"] if one["name"] == "probe failed"]
    assert len(events) == 3
    assert "Tried to allocate 2.00 GiB. A probe needs more memory than a step" in events[0]["message"]
    assert "MicroBatches" in events[0]["message"]


def _held():
    return sum(reference() is not None for reference in Full.held)
