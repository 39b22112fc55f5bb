"""`guard.measure`: whatever model, batch and schedule do, training goes on and is left as it was."""

from __future__ import annotations

import copy
import logging
import math

import pytest
import torch
from torch import nn, optim

from foreshock.guarding import Guard, MeanSquare, guard
from guarding.training import data, network, squared, weights


def half_batches(steps):
    """Yield batches that differ."""
    for step in range(steps):
        yield tuple(part[step % 2 :: 2].clone() for part in data())


def inputs_alone(steps):
    """Yield the same without targets."""
    for inputs, _ in half_batches(steps):
        yield (inputs,)


def same(ours, theirs):
    return all(map(torch.equal, ours, theirs))


def train(model, optimizer, watched, steps, *, loss_fn=squared, start=0, before=None, batches=half_batches):
    """Train on batches that differ; return on which steps something was measured."""
    spent = []
    for step, batch in enumerate(batches(start + steps)):
        if step < start:
            continue
        if before is not None:
            before(step)
        optimizer.zero_grad()
        loss_fn(model, batch).backward()
        if watched.measure(model, loss_fn, batch):
            spent.append(step)
        optimizer.step()
    return spent


@pytest.fixture(autouse=True)
def lagging(monkeypatch):
    """Let v always lag, so that a measurement is due every ten steps."""
    monkeypatch.setattr(Guard, "lag", 9.0)


def test_a_network_that_is_no_part_of_the_model_is_trained_as_without_a_guard():
    ends = []
    for guarded in (False, True):
        torch.manual_seed(0)
        model, head = network(), nn.Linear(1, 1)
        optimizers = optim.AdamW(model.parameters()), optim.SGD(head.parameters(), lr=0.01)
        watched = guard(optimizers[0]) if guarded else None

        def loss_fn(model, batch, head=head):
            return (head(model(batch[0]).mean(dim=1, keepdim=True)) - 1).square().mean()

        for batch in half_batches(30):
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss_fn(model, batch).backward()
            if watched is not None:
                watched.measure(model, loss_fn, batch)
            for optimizer in optimizers:
                optimizer.step()
        assert watched is None or watched.mean_square_ratio != 0
        ends.append(weights(model) + weights(head))
    assert same(*ends)


@pytest.mark.parametrize(
    ("policy", "mean", "spent"),
    [
        ("auto", 0.2, [100, 200]),  # .2/.95 of where it acts
        ("auto", 0.4, [40, 80, 120, 160, 200]),
        ("auto", 0.6, [*range(20, 201, 20)]),
        (MeanSquare(threshold=1.9), 0.4, [100, 200]),
        (MeanSquare(threshold=0.1), 0.2, [*range(20, 201, 20)]),
    ],
)
def test_how_often_is_measured_depends_on_how_far_the_noise_is_from_where_the_policy_acts(
    policy, mean, spent, monkeypatch
):
    model = network()
    optimizer = optim.AdamW(model.parameters(), lr=1e-4)
    watched = guard(optimizer, policy)
    for _ in range(5):
        watched.record_noise(mean=mean, variance=0.0, noise_factor=19.0)
    monkeypatch.setattr(Guard, "record_noise", lambda *_, **__: None)  # it stays as it is
    assert train(model, optimizer, watched, 201) == spent


def test_the_loss_function_of_this_very_call_is_measured():
    model = network()
    optimizer = optim.Adam(model.parameters(), lr=1e-4)
    watched = guard(optimizer)
    asked = []
    for step, batch in enumerate(half_batches(41)):
        optimizer.zero_grad()
        squared(model, batch).backward()

        def loss_fn(model, batch, step=step):
            asked.append(step)
            return squared(model, batch)

        watched.measure(model, loss_fn, batch)
        optimizer.step()
    assert sorted(set(asked)) == [20, 40]


@pytest.mark.training
@pytest.mark.parametrize("place", [110, 111, 115])
def test_a_resumed_run_measures_and_acts_as_one_that_was_not_interrupted(perturbed, place):
    """Bit for bit in every start; that it acts at all after the place, in most."""
    acted = perturbed(lambda: resumed_as_not_interrupted(place))
    acted.at_least(4, lambda count: count > 0)


def resumed_as_not_interrupted(place):
    """Assert it of one training, and return how often it acted."""
    policy = MeanSquare(threshold=0.06, lag=0.1)
    model = network()
    optimizer = optim.AdamW(model.parameters(), lr=0.1)
    watched = guard(optimizer, policy)
    train(model, optimizer, watched, place)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), watched.state_dict()))
    spent = train(model, optimizer, watched, 100, start=place)

    again = network()
    resumed = optim.AdamW(again.parameters(), lr=0.1)
    other = guard(resumed, policy)
    again.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    other.load_state_dict(saved[2])
    assert train(again, resumed, other, 100, start=place) == spent
    assert same(weights(model), weights(again))
    return watched.summary().acted


def test_parameters_that_are_frozen_unfrozen_or_added_do_not_end_measuring():
    model = network()
    model[0].requires_grad_(False)
    optimizer = optim.AdamW(model[2].parameters(), lr=1e-4)
    watched = guard(optimizer)

    def change(step):
        if step == 25:
            optimizer.add_param_group({"params": list(model[0].parameters())})
            model[0].requires_grad_(True)
        if step == 45:
            model[2].requires_grad_(False)
            model.zero_grad()

    spent = train(model, optimizer, watched, 70, before=change)
    assert spent == [20, 40, 60]
    assert watched.summary().notes == ()


def test_a_state_of_other_parameters_does_not_end_training():
    model = network()
    optimizer = optim.AdamW(model.parameters())
    watched = guard(optimizer)
    train(model, optimizer, watched, 25)
    frozen = network()
    frozen[0].requires_grad_(False)
    other = optim.AdamW(frozen.parameters())
    resumed = guard(other)
    resumed.load_state_dict(watched.state_dict())
    assert train(frozen, other, resumed, 25, start=25) == [40]


def test_a_learning_rate_of_zero_costs_nothing_and_is_no_failure():
    model = network()
    optimizer = optim.AdamW(model.parameters(), lr=0.0)
    watched = guard(optimizer)

    def change(step):
        optimizer.param_groups[0]["lr"] = 0.0 if step < 55 else 1e-4

    assert train(model, optimizer, watched, 90, before=change) == [60, 80]
    assert watched.summary().notes == ()


def test_a_guard_that_let_go_measures_nothing():
    model = network()
    optimizer = optim.AdamW(model.parameters(), lr=1e-4)
    watched = guard(optimizer)
    assert train(model, optimizer, watched, 40) == [20]
    watched.detach()  # at a step at which it would measure
    assert train(model, optimizer, watched, 40) == []


def test_batches_with_tensors_made_for_inference():
    model = network()
    optimizer = optim.AdamW(model.parameters(), lr=1e-4)
    watched = guard(optimizer)
    with torch.inference_mode():
        places = torch.arange(8)
    spent = []
    for x, y in half_batches(41):
        batch = {"x": x, "y": y, "places": places}
        optimizer.zero_grad()
        loss_fn = lambda model, batch: squared(model, (batch["x"], batch["y"]))  # noqa: E731
        loss_fn(model, batch).backward()
        spent.append(watched.measure(model, loss_fn, batch))
        optimizer.step()
    assert sum(spent) == 2


def test_complex_parameters_are_named_as_what_is_not_measured():
    weight = nn.Parameter(torch.ones(3, dtype=torch.complex64))
    model = nn.Module()
    model.weight = weight
    optimizer = optim.Adam([weight], lr=1e-4)
    watched = guard(optimizer)
    loss_fn = lambda model, batch: (model.weight * batch).abs().square().mean()  # noqa: E731
    for _ in range(41):
        batch = torch.randn(4, 3)
        optimizer.zero_grad()
        loss_fn(model, batch).backward()
        assert not watched.measure(model, loss_fn, batch)
        optimizer.step()
    assert watched.summary().notes == (
        "the noise of mini-batches is not measured where parameters are complex",
    )


@pytest.mark.parametrize("short_at", [40, None])
def test_one_batch_that_is_too_short_is_told_only_if_none_was_measured(short_at, caplog):
    model = network()
    optimizer = optim.AdamW(model.parameters(), lr=1e-4)
    watched = guard(optimizer)
    spent = []
    for step, batch in enumerate(half_batches(61)):
        short = tuple(part[:1].clone() for part in batch) if short_at in (step, None) else batch
        optimizer.zero_grad()
        squared(model, short).backward()
        if watched.measure(model, squared, short):
            spent.append(step)
        optimizer.step()
    # The next batch is measured in the place of the short one.
    assert spent == ([] if short_at is None else [20, 41, 60])
    told = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert ("can't be split" in str(watched.summary())) == (short_at is None)
    assert len(told) == (short_at is None)


def test_a_measurement_that_is_not_due_yet_is_not_called_missing():
    model = network()
    optimizer = optim.AdamW(model.parameters(), lr=1e-4)
    watched = guard(optimizer)
    train(model, optimizer, watched, 5)
    assert watched.summary().notes == ()


def test_a_policy_that_needs_a_monitor_says_so():
    model = network()
    optimizer = optim.AdamW(model.parameters(), lr=1e-4)
    watched = guard(optimizer, "curvature")
    train(model, optimizer, watched, 5)
    assert "pass the guard to a Monitor, or take the policy 'secant'" in str(watched.summary())
    watched.record_curvature(0.1, torch.ones(sum(p.numel() for p in model.parameters())))
    assert watched.summary().notes == ()


def contrastive(model, batch):
    """The loss of an example depends on the others: with half of them it is lower."""
    first, second = model(batch[0]), model(batch[0] + 0.01)
    return nn.functional.cross_entropy(first @ second.T, torch.arange(len(first)))


def test_noise_that_is_none_is_neither_acted_on_nor_measured_any_more(caplog):
    model, pairs = network(), {"loss_fn": contrastive, "batches": inputs_alone}
    watched = guard(optimizer := optim.Adam(model.parameters(), lr=1e-4))
    spent = train(model, optimizer, watched, 300, **pairs)
    assert len(spent) <= 5
    assert math.isnan(watched.mean_square_ratio)
    [left, off] = watched.summary().notes
    assert "The noise is then wrong" in off
    assert "their noise is not acted on" in left
    assert len([one for one in caplog.messages if "off the mean of that of its parts" in one]) == 1
    # A guard that is resumed knows.
    again = guard(other := optim.Adam(model.parameters(), lr=1e-4))
    again.load_state_dict(watched.state_dict())
    assert train(model, other, again, 60, **pairs) == []
    ordinary = guard(third := optim.Adam(model.parameters(), lr=1e-4))
    assert len(train(model, third, ordinary, 300)) > 5
    assert math.isfinite(ordinary.mean_square_ratio)
