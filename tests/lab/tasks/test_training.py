"""The loop of all benchmarks and experiments: one record, one order of calls."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from foreshock.lab.tasks import OptimizerConfig, Training, TrainingConfig, build_optimizer, build_scheduler
from foreshock.lab.tasks.training import moved_batches

CONFIG = TrainingConfig(
    name="tiny",
    family="mlp",
    optimizer=OptimizerConfig("adam", 0.02, schedule="cosine"),
    steps=12,
    batch_size=5,
    options={"points": 20, "width": 8},
)
WILD = dataclasses.replace(CONFIG, optimizer=OptimizerConfig("adam", 1e30), steps=60)


def test_the_losses_are_those_of_a_loop_written_out():
    task = CONFIG.build_task(3)
    optimizer = build_optimizer(task.model, CONFIG.optimizer)
    scheduler = build_scheduler(optimizer, CONFIG.optimizer, CONFIG.steps)
    losses = []
    for _ in range(CONFIG.steps):
        optimizer.zero_grad()
        loss = task.loss_fn(task.model, next(task.batches))
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    assert [step.loss for step in Training(CONFIG, 3).run()] == losses


def test_callbacks_come_before_and_after_the_update_and_before_the_schedule():
    training = Training(CONFIG, 0)
    [group] = training.optimizer.param_groups
    calls = []

    def seen(name):
        weights = torch.cat([parameter.detach().flatten() for parameter in training.model.parameters()])
        calls.append((name, weights, group["lr"]))

    def before(step):
        assert all(parameter.grad is not None for parameter in training.model.parameters())
        seen("before")

    next(training.run(before_step=before, after_step=lambda step: seen("after")))
    seen("yielded")
    (first, start, rate), (second, moved, kept), (_, end, fallen) = calls
    assert (first, second) == ("before", "after")
    assert not torch.equal(start, moved)
    assert torch.equal(moved, end)
    assert rate == kept > fallen


def test_a_step_that_overflows_is_yielded_but_not_taken():
    seen, taken = [], []
    steps = list(Training(WILD, 0).run(before_step=seen.append, after_step=taken.append))
    assert not steps[-1].finite
    assert all(step.finite for step in steps[:-1])
    assert len(steps) < WILD.steps
    assert seen == steps
    assert taken == steps[:-1]


def test_corrupted_batches_say_so():
    broken = dataclasses.replace(CONFIG, outliers=0.5, steps=60)
    marked = [step.index for step in Training(broken, 0).run() if step.corrupted]
    assert marked
    assert marked[0] >= 20, "the first twenty batches are left alone"
    assert not any(step.corrupted for step in Training(CONFIG, 0).run())


def test_the_full_batch_stays_one_object_on_another_device():
    batch = (torch.ones(2),)
    stream = moved_batches(iter([batch, batch, (torch.zeros(2),)]), torch.device("meta"))
    first, second, third = stream
    assert first is second
    assert first is not third
    assert first[0].device.type == "meta"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
        ({"precision": "float16"}, "precision is 'float16'; it must be one of 'float32', 'bfloat16'"),
    ],
)
def test_impossible_settings(options, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **options)


def test_a_step_knows_whether_its_loss_is_finite():
    [*_, last] = Training(CONFIG, 0).run()
    assert last.finite
    assert not dataclasses.replace(last, loss=math.nan).finite
    assert last.seconds > 0
