"""Training is that of a plain loop, the same for all methods but for what they change."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch

from foreshock.lab.guardbench.judging import judge
from foreshock.lab.guardbench.methods import Method, method
from foreshock.lab.guardbench.methods.clipping import Clipping
from foreshock.lab.guardbench.training import EARLIER, VALIDATIONS, MethodRun, train
from foreshock.lab.spikebench.suite import DEVELOPMENT, adam, adamw, configure
from foreshock.lab.tasks import build_optimizer
from foreshock.lab.tasks.training import in_precision

MINI = configure(DEVELOPMENT, "mlp-tiny", adam(0.02), 5, 120, points=20, width=8)
WHOLE = configure(DEVELOPMENT, "mlp-tiny", adam(0.02), None, 120, points=20, width=8)
BROKEN = dataclasses.replace(MINI, outliers=0.5)


def steps(config, name="adam", seed=1):
    training = MethodRun(config, seed, method(name))
    try:
        for _ in training.steps:
            pass
        return training
    finally:
        training.close()


def plain(config, seed=1):
    task = config.build_task(seed)
    optimizer = build_optimizer(task.model, config.optimizer)
    losses = []
    for _ in range(config.steps):
        optimizer.zero_grad()
        loss = task.loss_fn(task.model, next(task.batches))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, task


@pytest.mark.parametrize("config", [MINI, WHOLE], ids=["mini", "whole"])
def test_the_losses_are_those_of_a_plain_loop(config):
    losses, task = plain(config)
    training = steps(config)
    assert training.losses == losses
    held_out = task.loss_fn(task.model, task.validation).item()
    assert training.validations[-1] == pytest.approx(held_out, rel=1e-6)
    assert len(training.validations) == 1 + VALIDATIONS


@pytest.mark.parametrize("name", ["spam", "adopt", "clip-1", "guard-auto", "cosine"])
def test_all_methods_see_the_same_weights_and_batches(name):
    if name in ("spam", "adopt"):
        pytest.importorskip("pytorch_optimizer")
    one, other = MethodRun(MINI, 1, method("adam")), MethodRun(MINI, 1, method(name))
    for first, second in zip(one.training.model.parameters(), other.training.model.parameters(), strict=True):
        assert torch.equal(first, second)
    for _ in range(30):
        next(other.steps)
    other.close()
    for _ in range(30):
        next(one.training.batches)
    for first, second in zip(next(one.training.batches), next(other.training.batches), strict=True):
        assert torch.equal(first, second)


def test_a_guard_that_does_nothing_changes_nothing():
    slow = dataclasses.replace(WHOLE, optimizer=adam(1e-4))
    assert steps(slow, "guard-secant").losses == steps(slow).losses


def test_the_outcome_is_the_judgement_of_the_losses():
    outcome = train(WHOLE, 1, method("adam"))
    losses, _ = plain(WHOLE)
    judged = judge(torch.tensor(losses, dtype=torch.float64).numpy(), smooth=False, steps=120)
    assert outcome.mean_loss == judged.mean_loss
    assert outcome.worst_ratio == judged.worst_ratio
    assert outcome.acted is None
    assert outcome.passes == 0


def test_corrupted_batches_are_trained_on_but_not_judged():
    training = steps(BROKEN)
    broken = [i for i, loss in enumerate(training.losses) if math.isnan(loss)]
    clean = steps(MINI)
    assert len(broken) > 1
    assert training.losses[: broken[0]] == clean.losses[: broken[0]]
    assert training.losses[broken[0] + 1] != clean.losses[broken[0] + 1]


def test_a_run_that_overflows_ends_there():
    wild = dataclasses.replace(WHOLE, optimizer=adam(1e30))
    outcome = train(wild, 0, method("adam"))
    assert outcome.diverged
    assert math.isfinite(outcome.mean_loss)
    assert math.isfinite(outcome.mean_validation)


def test_bfloat16_is_another_run_of_the_same_weights():
    half = dataclasses.replace(WHOLE, precision="bfloat16")
    one, other = steps(half), steps(WHOLE)
    assert one.losses[0] == pytest.approx(other.losses[0], rel=0.02)
    assert one.losses[0] != other.losses[0]
    assert next(one.training.model.parameters()).dtype == torch.float32


def test_autocast_sees_weights_that_changed_since():
    model = torch.nn.Linear(2, 1, bias=False)
    loss_fn = in_precision(
        lambda model, batch: model(batch).sum().float(), "bfloat16", device=torch.device("cpu")
    )
    batch = torch.ones(1, 2)
    with torch.no_grad():
        model.weight.fill_(1.0)
        assert loss_fn(model, batch).item() == 2.0
        model.weight.fill_(3.0)
        assert loss_fn(model, batch).item() == 6.0


def test_the_share_of_steps_acted_is_counted():
    short = dataclasses.replace(MINI, steps=40)
    limits = itertools.cycle([0.0, math.inf, math.inf, math.inf])
    now_and_then = Method(
        "now-and-then",
        "own",
        "nobody",
        intervene=lambda subject: Clipping(subject, lambda norm: next(limits)),
    )
    assert train(short, 0, now_and_then).acted == 0.25


def test_the_global_random_state_is_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train(dataclasses.replace(MINI, steps=3), 0, method("adam"))
    assert torch.equal(torch.get_rng_state(), before)


def test_weight_decay_and_schedule_reach_every_optimizer():
    config = configure(
        DEVELOPMENT, "mlp-tiny", adamw(0.02, 0.3, schedule="cosine"), 5, 10, points=20, width=8
    )
    for name in ("adam", "amsgrad", "adam-atan2", "adafactor-beta2"):
        training = MethodRun(config, 0, method(name))
        assert [group["weight_decay"] for group in training.training.optimizer.param_groups] == [0.3, 0.0], (
            name
        )
        next(training.steps)
        assert training.training.optimizer.param_groups[0]["lr"] < 0.02, name


def test_the_lowest_validation_loss_is_over_the_whole_run(monkeypatch):
    falling_and_rising = itertools.chain([9.0, 5.0, 2.0], itertools.count(3.0))
    monkeypatch.setattr(MethodRun, "_validate", lambda self: next(falling_and_rising))
    training = steps(WHOLE)
    outcome = training.outcome(seconds=1.0)
    assert outcome.best_validation == 2.0  # of the first half, of which the mean does not know
    assert len(training.validations) == 1 + VALIDATIONS
    assert outcome.mean_validation > 20
    assert outcome.last_validation == 2 + VALIDATIONS + EARLIER - 2


@pytest.mark.parametrize("name", ["adam", "guard-auto"])
def test_all_methods_begin_a_perturbed_start_in_the_same_place(name):
    plain, moved = (MethodRun(MINI, 1, method(name), start=start) for start in (0, 2))
    other = MethodRun(MINI, 1, method("amsgrad"), start=2)
    try:
        for before, after, same in zip(
            *(run.training.model.parameters() for run in (plain, moved, other)), strict=True
        ):
            assert torch.equal(after, same)
            assert 0 < (after / before - 1).abs().max() < 1e-5
    finally:
        plain.close()
        moved.close()
