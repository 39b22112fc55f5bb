"""A replay of what was is, bit by bit, what was; and one with a change is what that change comes to."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from foreshock.recorder import Recorder
from foreshock.replay import Change, Loop, parse_change, replay
from replay.trainings import CASES, Case, batches, build, mlp, train


@pytest.mark.parametrize("name", CASES)
def test_an_unchanged_replay_comes_to_the_recorded_losses(name):
    case = CASES[name]
    snapshot, losses = train(case, 30, snapshot_at=11)
    outcome = replay(snapshot, build(case, seed=5), batches(case), steps=18, recorded=losses)
    assert outcome.departure is None
    assert outcome.compared == 18
    assert outcome.losses == tuple(loss for step, loss in losses if step > 11)


@pytest.mark.parametrize("name", ["mlp", "transformer", "gradient scaler"])
def test_a_change_is_what_it_would_have_been(name):
    """The same as a training whose optimizer was changed by hand at that step."""
    case = CASES[name]
    snapshot, _ = train(case, 30, snapshot_at=11)
    outcome = replay(snapshot, build(case), batches(case), steps=18, change=parse_change("lr=x0.5 eps=1e-3"))
    by_hand, losses = build(case), []
    for step, batch in zip(range(30), batches(case), strict=False):
        losses.append(float(by_hand.backward(batch)))
        [group] = by_hand.optimizer.param_groups
        rate = group["lr"]
        if step >= 11:
            group["lr"], group["eps"] = rate * 0.5, 1e-3
        scheduler, by_hand.scheduler = by_hand.scheduler, None
        by_hand.update()
        by_hand.scheduler, group["lr"] = scheduler, rate
        if scheduler is not None:
            scheduler.step()
    assert outcome.losses == tuple(losses[12:])
    assert outcome.departure is None, "a change is not compared with the log"


def test_options_are_put_back_after_each_step():
    case = CASES["transformer"]
    snapshot, _ = train(case, 13, snapshot_at=11)
    one, other = build(case), build(case)
    replay(snapshot, one, batches(case), steps=5, change=parse_change("lr=x0.1 betas=0.5,0.5"))
    replay(snapshot, other, batches(case), steps=5)
    assert one.optimizer.param_groups[0]["lr"] == other.optimizer.param_groups[0]["lr"]
    assert one.optimizer.param_groups[0]["betas"] == other.optimizer.param_groups[0]["betas"] != (0.5, 0.5)
    assert not one.optimizer._optimizer_step_pre_hooks
    assert not one.optimizer._optimizer_step_post_hooks


def test_a_new_beta_keeps_what_the_moments_are_estimates_of():
    """v̂ of a constant gradient is its square, whatever β₂ was and is."""
    weight = nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.Adam([weight], lr=1e-3)
    for _ in range(7):
        weight.grad = torch.full((3,), 2.0)
        optimizer.step()
    Change(values={"beta1": 0.5, "beta2": 0.9}).prepare(optimizer)
    state = optimizer.state[weight]
    assert state["exp_avg_sq"] / (1 - 0.9**7) == pytest.approx(4.0)
    assert state["exp_avg"] / (1 - 0.5**7) == pytest.approx(2.0)


def test_a_skipped_batch_leaves_the_weights_and_moves_the_scheduler():
    case = CASES["transformer"]
    snapshot, losses = train(case, 30, snapshot_at=11)
    outcome = replay(snapshot, build(case), batches(case), steps=3, change=parse_change("skip=12"))
    assert outcome.losses[0] == losses[12][1]
    assert outcome.losses[1] != losses[13][1]
    by_hand = []
    loop = build(case)
    for step, batch in zip(range(15), batches(case), strict=False):
        by_hand.append(float(loop.backward(batch)))
        loop.skip() if step == 12 else loop.update()
    assert outcome.losses == tuple(by_hand[12:15])


def test_a_guard_sees_the_batches():
    case = CASES["mlp"]
    snapshot, _ = train(case, 13, snapshot_at=11)
    seen = []

    def noted(model, batch):
        seen.append(batch)
        return case_loss(model, batch)

    case_loss = build(case).loss_fn
    loop = build(case)
    replay(
        snapshot,
        Loop(loop.model, noted, loop.optimizer),
        batches(case),
        steps=40,
        change=parse_change("guard=on"),
    )
    assert len(seen) >= 40
    assert not loop.optimizer._optimizer_step_pre_hooks


def test_where_it_departs_it_says_whether_the_data_are_right():
    case = CASES["mlp"]
    snapshot, losses = train(case, 30, snapshot_at=11)
    other_loop = build(case)
    other_loop.clip = 1e-4
    outcome = replay(snapshot, other_loop, batches(case), steps=10, recorded=losses)
    assert outcome.departure.step == 13, "the gradients of the snapshot are used as they are"
    assert outcome.loss_at_start == outcome.recorded_at_start == losses[11][1]
    shifted = list(batches(case))[1:]
    outcome = replay(snapshot, build(case), shifted, steps=10, recorded=losses)
    assert outcome.departure.step == 12
    assert outcome.loss_at_start != outcome.recorded_at_start
    assert not outcome.departure.is_rounding


def test_batches_that_end_are_said():
    case = CASES["mlp"]
    snapshot, _ = train(case, 30, snapshot_at=11)
    data = list(batches(case))
    outcome = replay(snapshot, build(case), data[:14], steps=10)
    assert len(outcome.losses) == 2
    assert outcome.failure == "the batches end before step 14"
    for few in (11, 5, 0):
        with pytest.raises(ValueError, match=f"there are {few} batches, and the snapshot is of step 11"):
            replay(snapshot, build(case), data[:few], steps=10)


def test_a_loss_that_is_no_number_ends_it():
    case = CASES["mlp"]
    snapshot, losses = train(case, 30, snapshot_at=25)
    outcome = replay(
        snapshot,
        build(case),
        batches(case),
        steps=30,
        change=parse_change("lr=1e30"),
        recorded=losses,
        measure=True,
    )
    assert not math.isfinite(outcome.losses[-1])
    assert math.isinf(outcome.late_loss)
    assert outcome.holds < 30
    assert math.isnan(outcome.stability_ratio)


def test_the_ratio_is_that_of_the_changed_rate():
    case = Case(mlp)
    snapshot, _ = train(case, 30, snapshot_at=25)
    found = [
        replay(snapshot, build(case), batches(case), steps=1, change=parse_change(f"lr={rate}"), measure=True)
        for rate in ("1e-9", "2e-9")
    ]
    assert found[1].stability_ratio == pytest.approx(2 * found[0].stability_ratio, rel=1e-3)


def test_perturbed_starts_differ_from_each_other_in_the_sixth_digit():
    case = CASES["mlp"]
    snapshot, losses = train(case, 30, snapshot_at=11)
    first = [
        replay(snapshot, build(case), batches(case), steps=1, perturbed=seed).losses[0] for seed in (1, 2, 1)
    ]
    assert first[0] == first[2] != first[1]
    assert first[0] == pytest.approx(losses[12][1], rel=1e-4)
    assert first[0] != losses[12][1]


def test_a_snapshot_that_does_not_fit_is_refused():
    snapshot, _ = train(CASES["mlp"], 13, snapshot_at=11)
    with pytest.raises(ValueError, match="build the model as it was built"):
        replay(snapshot, build(CASES["lstm"]), batches(CASES["mlp"]), steps=1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "the change is empty"),
        ("lr", "'lr' is no change"),
        ("rate=1", "'rate=1' is no change"),
        ("lr=fast", "'lr=fast' must have a number"),
        ("lr=x-1", "the factor must be positive"),
        ("lr=-1", "it must be finite, and 0 or more"),
        ("beta2=1", "it must be from 0 to below 1"),
        ("betas=0.9", "must have two numbers"),
        ("clip=0", "must be positive"),
        ("skip=1.5", "must have steps"),
    ],
)
def test_words_that_are_no_change_are_refused(words, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        parse_change(words)


@pytest.mark.parametrize(
    "words", ["lr=x0.5", "beta1=0.9 beta2=0.99", "clip=1", "guard=on", "skip=12+13", "eps=x100"]
)
def test_a_change_prints_as_it_is_written(words):
    assert str(parse_change(words)) == words
    assert parse_change(str(parse_change(words))) == parse_change(words)


def test_an_option_that_the_optimizer_lacks_is_refused():
    snapshot, _ = train(CASES["mlp"], 13, snapshot_at=11)
    loop = build(CASES["mlp"])
    with pytest.raises(ValueError, match="AdamW has no such option"):
        Change(values={"alpha_decay": 0.5}).prepare(loop.optimizer)
    del snapshot


def test_an_option_that_is_no_number_is_refused_in_words():
    optimizer = torch.optim.Adafactor(nn.Linear(2, 1).parameters())
    with pytest.raises(
        ValueError, match=r"eps can't be set: that of Adafactor is \(None, 0.001\), no number"
    ):
        parse_change("eps=x100").prepare(optimizer)


def test_a_new_beta_keeps_the_largest_second_moment_too():
    weight = torch.ones(1, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=0.0, amsgrad=True)
    for gradient in (4.0, *[2.0] * 9):
        weight.grad = torch.tensor([gradient])
        optimizer.step()
    state = optimizer.state[weight]
    before = float(state["max_exp_avg_sq"]) / (1 - 0.999**10)
    parse_change("beta2=0.9").prepare(optimizer)
    assert float(state["max_exp_avg_sq"]) / (1 - 0.9**10) == pytest.approx(before, rel=1e-5)


def test_a_schedule_that_ends_in_the_window_ends_it_and_says_so():
    data = [torch.full((4, 2), float(step % 3)) for step in range(60)]

    def made():
        torch.manual_seed(0)
        model = nn.Linear(2, 1)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=20)
        return Loop(model, lambda model, x: model(x).square().mean(), optimizer, scheduler)

    loop = made()
    recorder = Recorder(every=1, scheduler=loop.scheduler)
    recorder.attach(loop.model, [loop.optimizer])
    for step in range(11):
        loop.backward(data[step])
        recorder.take(step)
        loop.update()
    outcome = replay(recorder.newest(), made(), data, steps=30)
    assert len(outcome.losses) == 10
    assert outcome.failure.startswith("step 20 failed: ValueError: Tried to step 2")
