"""What the product promises, on a GPU: skipped where there is none."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

import foreshock

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


class Attention(nn.Module):
    """One block of attention on bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(32, 16)
        self.mix = nn.Linear(16, 48)
        self.output = nn.Linear(16, 32)

    def forward(self, tokens):
        q, k, v = self.mix(self.token(tokens)).chunk(3, dim=-1)
        return self.output(functional.scaled_dot_product_attention(q, k, v, is_causal=True))


def regression():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(64, 12, generator=generator).cuda()
    model = nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 1)).cuda()
    return model, (inputs, inputs[:, :1].sin()), lambda m, batch: functional.mse_loss(m(batch[0]), batch[1])


def images():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(32, 1, 8, 8, generator=generator).cuda()
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)).cuda()
    labels = torch.arange(32).cuda() % 4
    return model, (inputs, labels), lambda m, batch: functional.cross_entropy(m(batch[0]), batch[1])


def language():
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(32, (16, 9), generator=generator).cuda()

    def loss_fn(m, batch):
        return functional.cross_entropy(m(batch[0]).flatten(0, 1), batch[1].flatten())

    return Attention().cuda(), (tokens[:, :-1], tokens[:, 1:]), loss_fn


MODELS = [regression, images, language]


@pytest.fixture(autouse=True)
def _deterministic(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def make_adam(model, **options):
    return torch.optim.AdamW(model.parameters(), lr=3e-3, **options)


def train(model, batch, loss_fn, optimizer, observe, steps=60):
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_fn(model, batch)
        loss.backward()
        observe(batch, loss)
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("options", [{}, {"fused": True}, {"capturable": True}], ids=str)
@pytest.mark.parametrize("build", MODELS)
def test_a_watched_training_is_the_plain_one_bit_by_bit(build, options):
    model, batch, loss_fn = build()
    twin = copy.deepcopy(model)
    plain = train(model, batch, loss_fn, make_adam(model, **options), lambda *_: None)
    optimizer = make_adam(twin, **options)
    with foreshock.Monitor(twin, optimizer, loss_fn, probe_every=7) as monitor:
        seen = []
        watched = train(twin, batch, loss_fn, optimizer, lambda b, x: seen.append(monitor.observe(b, x)))
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    assert seen[-1].stability_ratio > 0


@pytest.mark.parametrize("build", MODELS)
def test_an_idle_guard_changes_nothing(build):
    model, batch, loss_fn = build()
    twin = copy.deepcopy(model)
    plain = train(model, batch, loss_fn, make_adam(model), lambda *_: None, steps=20)
    optimizer = make_adam(twin)
    actions = []
    foreshock.guard(optimizer, on_action=actions.append)
    watched = train(twin, batch, loss_fn, optimizer, lambda *_: None, steps=20)
    assert not actions
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))


def test_a_step_that_logs_nothing_does_not_wait_for_the_device():
    model, batch, loss_fn = regression()
    optimizer = make_adam(model)
    monitor = foreshock.Monitor(model, optimizer, loss_fn, budget=0.0, log_every=10)
    quiet = 0
    for step in range(300):
        optimizer.zero_grad()
        loss = loss_fn(model, batch)
        loss.backward()
        settled = step >= 200
        torch.cuda.set_sync_debug_mode("error" if settled else "default")
        try:
            monitor.observe(batch, loss)
            quiet += settled
        except RuntimeError as error:
            if "synchroniz" not in str(error):
                raise
        finally:
            torch.cuda.set_sync_debug_mode("default")
        optimizer.step()
    assert quiet >= 85


@pytest.mark.parametrize("build", MODELS)
def test_the_eigenvalue_is_that_of_the_processor_within_its_error(build):
    model, batch, loss_fn = build()
    optimizer = make_adam(model)
    train(model, batch, loss_fn, optimizer, lambda *_: None, steps=30)
    found = foreshock.sharpness(model, loss_fn, batch)
    exact = foreshock.sharpness(
        copy.deepcopy(model).cpu().double(),
        loss_fn,
        tuple(part.cpu().double() if part.is_floating_point() else part.cpu() for part in batch),
    )
    assert found.value == pytest.approx(exact.value, abs=max(2 * found.error, 1e-3 * exact.value))


def test_a_probe_takes_the_memory_of_a_few_steps():
    model, batch, loss_fn = regression()
    optimizer = make_adam(model)
    with foreshock.Monitor(model, optimizer, loss_fn, probe_every=5) as monitor:
        train(model, batch, loss_fn, optimizer, lambda *_: None, steps=10)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        train(model, batch, loss_fn, optimizer, monitor.observe, steps=10)
        free = torch.cuda.memory_allocated()
    assert free - before < 40 * sum(p.numel() * 4 for p in model.parameters())
