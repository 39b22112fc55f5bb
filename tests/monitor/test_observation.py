"""The free signals of a step: Σv by its recursion is the true Σv, and is read where it can't hold."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn, optim

import foreshock
from foreshock.monitor import observation
from foreshock.monitor.following import GradientSize
from foreshock.monitor.observation import FreeSignals
from foreshock.preconditioner import read_gradient_norm, read_second_moment_sums
from foreshock.runlog import read_run


def network(seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double(), torch.randn(64, 4).double()


def backward(model, data, step, optimizers):
    for optimizer in optimizers:
        optimizer.zero_grad()
    batch = data[torch.arange(8) * (step % 7 + 1) % 64]
    loss = (model(batch) - batch.sum(dim=1, keepdim=True)).square().mean()
    loss.backward()
    return loss.item()


def true(optimizers, scale=1.0):
    sums = read_second_moment_sums(optimizers, gradient_scale=scale)
    moment = sum(part.corrected for part in sums) if sums else math.nan
    return moment, read_gradient_norm(optimizers, gradient_scale=scale)


def observe(signals, loss, *, step, scale=1.0):
    signals.take(loss, step=step, size=GradientSize(scale))
    [seen] = signals.fetch()
    return seen


def halves(model, make):
    first, second = model[0].parameters(), model[2].parameters()
    return make([{"params": list(first)}, {"params": list(second), "betas": (0.9, 0.99)}])


KINDS = {
    "Adam": lambda model: [optim.Adam(model.parameters(), lr=1e-2)],
    "AdamW": lambda model: [optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.3)],
    "two groups": lambda model: [halves(model, lambda groups: optim.Adam(groups, lr=1e-2))],
    "coupled decay": lambda model: [optim.Adam(model.parameters(), lr=1e-2, weight_decay=1.0)],
    "amsgrad": lambda model: [optim.Adam(model.parameters(), lr=1e-2, amsgrad=True)],
    "RMSprop": lambda model: [optim.RMSprop(model.parameters(), lr=1e-3, alpha=0.95)],
    "NAdam": lambda model: [optim.NAdam(model.parameters(), lr=1e-2)],
    "Adafactor": lambda model: [optim.Adafactor(model.parameters(), lr=1e-2)],
    "SGD": lambda model: [optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)],
    "two optimizers": lambda model: [
        optim.Adam(model[0].parameters(), lr=1e-2),
        optim.SGD(model[2].parameters(), lr=1e-3),
    ],
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_signals_are_those_of_a_true_reading_at_every_step(kind):
    model, data = network()
    optimizers = KINDS[kind](model)
    signals = FreeSignals(optimizers)
    for step in range(150):
        loss = backward(model, data, step, optimizers)
        moment, norm = true(optimizers)
        seen = observe(signals, loss, step=step)
        assert seen.second_moment == pytest.approx(moment, rel=1e-9, nan_ok=True), step
        assert seen.gradient_norm == pytest.approx(norm, rel=1e-12)
        assert seen.learning_rate == max(group["lr"] for one in optimizers for group in one.param_groups)
        for optimizer in optimizers:
            optimizer.step()


@pytest.fixture
def readings(monkeypatch):
    """Return a list that grows with each true reading."""
    made = []

    def read(*arguments, **options):
        made.append(1)
        return read_second_moment_sums(*arguments, **options)

    monkeypatch.setattr(observation, "read_second_moment_sums", read)
    return made


def run(signals, model, data, optimizers, steps, *, before=lambda step: None, start=0):
    for step in range(start, start + steps):
        loss = backward(model, data, step, optimizers)
        before(step)
        moment, _ = true(optimizers)
        seen = observe(signals, loss, step=step)
        assert seen.second_moment == pytest.approx(moment, rel=1e-9), step
        for optimizer in optimizers:
            optimizer.step()


def test_the_state_is_read_after_1_2_4_and_then_every_50_steps(readings):
    model, data = network()
    optimizers = KINDS["Adam"](model)
    run(FreeSignals(optimizers), model, data, optimizers, 300)
    # Steps 0, 1, 3, 7, 15, 31, 63, and then each 50.
    assert len(readings) == 7 + 4


def test_where_the_recursion_fails_the_state_is_read_at_every_step(readings):
    model, data = network()
    optimizers = KINDS["coupled decay"](model)
    signals = FreeSignals(optimizers)
    for step in range(120):
        loss = backward(model, data, step, optimizers)
        observe(signals, loss, step=step)
        optimizers[0].step()
    assert len(readings) > 110


def test_what_the_recursion_can_not_know_is_noticed():
    model, data = network()
    [optimizer] = optimizers = KINDS["Adam"](model)
    signals = FreeSignals(optimizers)
    run(signals, model, data, optimizers, 40)
    saved = optimizer.state_dict()
    run(signals, model, data, optimizers, 20, start=40)
    optimizer.load_state_dict(saved)
    run(signals, model, data, optimizers, 10, start=60)
    for group in optimizer.param_groups:
        group["betas"] = (0.9, 0.9)
    run(signals, model, data, optimizers, 10, start=70)
    model[0].bias.requires_grad_(requires_grad=False)
    model[0].bias.grad = None
    run(signals, model, data, optimizers, 10, start=80)
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2).double())], "lr": 0.5})
    run(signals, model, data, optimizers, 10, start=90)


def test_a_skipped_step_is_noticed_and_a_gradient_that_is_no_number():
    model, data = network()
    optimizers = KINDS["Adam"](model)
    signals = FreeSignals(optimizers)
    run(signals, model, data, optimizers, 35)
    loss = backward(model, data, 0, optimizers)
    model[0].bias.grad[0] = math.inf
    seen = observe(signals, loss, step=35)
    assert seen.gradient_norm == math.inf
    # As a gradient scaler does, the step is left out.
    run(signals, model, data, optimizers, 20, start=36)


def test_the_scale_of_the_gradients_is_divided_out():
    model, data = network()
    [optimizer] = optimizers = KINDS["Adam"](model)
    signals = FreeSignals(optimizers)
    for step in range(40):
        loss = backward(model, data, step, optimizers)
        moment, norm = true(optimizers)
        for parameter in model.parameters():
            parameter.grad *= 1024
        seen = observe(signals, loss, step=step, scale=1024.0)
        assert (seen.second_moment, seen.gradient_norm) == pytest.approx((moment, norm), rel=1e-9)
        for parameter in model.parameters():
            parameter.grad /= 1024
        optimizer.step()


def test_raises_of_a_guard_are_in_the_signals_of_a_monitor(tmp_path):
    """A policy raises all of v now and then; the monitor's Σv is the optimizer's own."""

    class Raise(foreshock.guarding.Secant):
        def decide(self, seen):
            wanted = seen.step % 9 == 8
            return (foreshock.guarding.Decision("raise all", 1.3, "test", 1.0, 0.9),) if wanted else ()

    model, data = network()
    [optimizer] = optimizers = KINDS["Adam"](model)
    monitor = foreshock.Monitor(model, optimizer, guard=Raise(), run=tmp_path)
    moments = []
    for step in range(60):
        loss = backward(model, data, step, optimizers)
        moment, _ = true(optimizers)
        monitor.observe(data, loss)
        moments.append(moment)
        optimizer.step()
    assert len(monitor.guard.actions) == 6
    monitor.close()
    assert read_run(tmp_path).column("step", "second_moment") == pytest.approx(moments, rel=1e-9)


@pytest.mark.parametrize("kind", ["Adam", "two groups", "SGD", "RMSprop"])
def test_what_gathers_on_the_device_is_the_same_as_reading_each_step(kind):
    model, data = network()
    optimizers = KINDS[kind](model)
    signals, expected, seen = FreeSignals(optimizers), [], []
    for step in range(90):
        loss = backward(model, data, step, optimizers)
        expected.append(true(optimizers))
        # A tensor that is overwritten before it is fetched, as a loop that scales its loss in place does.
        value = torch.tensor(loss, dtype=torch.float64)
        signals.take(value, step=step, size=GradientSize())
        value.fill_(-1.0)
        if step % 13 == 12:
            seen += signals.fetch()
        for optimizer in optimizers:
            optimizer.step()
    seen += signals.fetch()
    assert [one.step for one in seen] == list(range(90))
    assert all(one.loss > 0 for one in seen)
    moments = [moment for moment, _ in expected]
    assert [one.second_moment for one in seen] == pytest.approx(moments, rel=1e-9, nan_ok=True)
    assert [one.gradient_norm for one in seen] == pytest.approx([n for _, n in expected], rel=1e-12)


def test_a_norm_that_clipping_computed_is_taken_for_what_the_optimizer_gets():
    model, data = network()
    [optimizer] = optimizers = KINDS["Adam"](model)
    signals, seen, expected = FreeSignals(optimizers), [], []
    for step in range(60):
        loss = backward(model, data, step, optimizers)
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        expected.append(true(optimizers))
        signals.take(loss, step=step, size=GradientSize(norm=norm, max_norm=1.0))
        optimizer.step()
    seen = signals.fetch()
    assert signals.wrong_norm is None
    assert [one.gradient_norm for one in seen] == pytest.approx([n for _, n in expected], rel=1e-6)
    assert [one.second_moment for one in seen] == pytest.approx([m for m, _ in expected], rel=1e-6)


def test_a_norm_that_is_not_that_of_the_gradient_is_noticed_and_left_alone():
    model, data = network()
    [optimizer] = optimizers = KINDS["Adam"](model)
    signals, expected = FreeSignals(optimizers), []
    for step in range(60):
        loss = backward(model, data, step, optimizers)
        expected.append(true(optimizers)[1])
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        signals.take(loss, step=step, size=GradientSize(norm=norm))
        optimizer.step()
    own, given = signals.wrong_norm
    assert own == pytest.approx(1e-3, rel=1e-2)
    assert given == pytest.approx(expected[0])
    assert [one.gradient_norm for one in signals.fetch()] == pytest.approx(
        [min(norm, 1e-3) for norm in expected], rel=1e-2
    )


def test_a_gradient_whose_square_no_float_holds_ends_no_training():
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=1e-300)
    model = nn.Module()
    model.weight = weight
    with foreshock.Monitor(model, optimizer) as monitor:
        for _ in range(40):
            weight.grad = torch.full_like(weight, 1e200)
            monitor.observe(None, 1.0)
            optimizer.step()
