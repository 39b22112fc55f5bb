"""How often snapshots are taken: by what they cost and how long steps are, at alarms within a bound."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from foreshock.recorder import Recorder, pace, recorder


@pytest.fixture
def clock(monkeypatch):
    """Seconds that go by only where a test says so."""
    now = SimpleNamespace(seconds=0.0)
    fake = SimpleNamespace(perf_counter=lambda: now.seconds)
    monkeypatch.setattr(pace, "time", fake)
    monkeypatch.setattr(recorder, "time", fake)
    return now


def steps(pace, clock, lengths):
    for length in lengths:
        pace.see()
        clock.seconds += length


def taken(pace, clock, seconds):
    clock.seconds += seconds
    pace.took(seconds)


def test_a_pause_is_no_reason_for_more_snapshots(clock):
    found = pace.Pace()
    for _ in range(6):
        steps(found, clock, [0.1] * 29 + [60.0])  # an evaluation
        found.see()
        taken(found, clock, 0.02)
    assert found.spacing(0.005) == 40
    assert found.share == pytest.approx(6 * 0.02 / (6 * 31 * 0.1), rel=0.02), (
        "six minutes are none of its steps"
    )


def test_what_writing_takes_leaves_less_for_alarms(clock):
    found = pace.Pace()
    steps(found, clock, [0.1] * 100)
    found.see()
    taken(found, clock, 0.05)
    assert found.spares(0.01, besides=0.0)
    assert found.spares(0.01, besides=0.04)
    assert not found.spares(0.01, besides=0.06)


def train(clock, *, alarm, seconds, count=2000, **options):
    """Let a recorder see steps of 0.1 s, and snapshots of so many; return it."""
    made = Recorder(**options)
    model = nn.Linear(2, 1)
    made.attach(model, [torch.optim.Adam(model.parameters())])
    take = made._take

    def slow(*given):
        clock.seconds += seconds
        take(*given)

    made._take = slow
    for step in range(count):
        made.take(step, dense=alarm(step))
        clock.seconds += 0.1
    return made.summary()


def test_alarms_make_snapshots_denser_within_the_share(clock):
    at_rest = train(clock, alarm=lambda _: False, seconds=0.02)
    rare = train(clock, alarm=lambda step: 1000 <= step < 1100, seconds=0.02)
    always = train(clock, alarm=lambda _: True, seconds=0.02)
    assert at_rest.share == pytest.approx(0.005, rel=0.1)
    assert max(rare.steps) > 1000
    assert rare.taken >= at_rest.taken + 5, "100 steps with ten snapshots, and not two or three"
    assert at_rest.share < always.share <= 0.0101
    own = train(clock, alarm=lambda _: True, seconds=0.02, every=40, count=400)
    assert own.taken == 40, "who says how often gets it four times as often at alarms"


def test_a_training_is_finite_whatever_its_gradients_are():
    made, model = Recorder(), nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert not made.is_finite(), "it records none"
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(4, 2)).sum().backward()
    optimizer.step()
    made.attach(model, [optimizer])
    model[0].weight.grad.fill_(torch.nan)
    model[1].register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    assert made.is_finite()
    for tensor in (model[0].weight.data, model[1].running_mean, optimizer.state[model[0].bias]["exp_avg"]):
        before = tensor.clone()
        tensor.view(-1)[0] = torch.nan
        assert not made.is_finite()
        tensor.copy_(before)
    assert made.is_finite()


def test_steps_that_become_longer_do_not_wait_for_a_snapshot_that_was_due_after_thousands(clock):
    made, model = Recorder(), nn.Linear(2, 1)
    made.attach(model, [torch.optim.Adam(model.parameters())])
    take = made._take

    def slow(*given):
        clock.seconds += 0.02
        take(*given)

    made._take = slow
    for step in range(400):
        made.take(step)
        clock.seconds += 0.001 if step < 100 else 0.1
    assert made.summary().every == 40
    assert made.summary().steps[-1] >= 360


@pytest.mark.parametrize("every", [None, 10])
def test_processes_have_common_steps_although_one_has_alarms(every, monkeypatch):
    monkeypatch.setattr(recorder, "several_processes", lambda: True)
    found = []
    for alarms in (range(70, 90), range(0)):
        made, model = Recorder(every=every), nn.Linear(2, 1)
        made.attach(model, [torch.optim.Adam(model.parameters())])
        for step in range(170):
            made.take(step, dense=step in alarms)
        found.append(made.summary())
    assert found[0].taken > found[1].taken, "more at its alarms"
    assert found[0].steps[-1] == found[1].steps[-1], "and the newest is the same"
    assert len({*found[0].steps} & {*found[1].steps}) >= 3


def test_a_state_that_can_not_be_read_ends_no_training():
    model = nn.Linear(2, 1)
    scheduler = SimpleNamespace(state_dict=dict, load_state_dict=lambda state: None)
    made = Recorder(scheduler=scheduler)
    made.attach(model, [torch.optim.Adam(model.parameters())])
    scheduler.state_dict = lambda: 1 / 0
    assert made.is_finite()
