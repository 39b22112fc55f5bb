"""What an event was made of, by training it again with one thing changed: each change is what it says."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from foreshock.explain import explain_run
from foreshock.recorder import Recorder
from foreshock.replay import Loop, ReplayOutcome, parse_change, replay
from foreshock.replay.examination import changes_to_test, examine, steps_to_train, suspected_step
from foreshock.replay.held import cast_training, hold_second_moment
from logs_of_explain import write
from replay.trainings import CASES, batches, build, train

BAD, SNAPSHOT = 80, 70


@pytest.mark.parametrize("name", ["mlp", "transformer", "accumulation"])
def test_a_swapped_step_sees_the_batch_of_the_step_before(name):
    case = CASES[name]
    snapshot, losses = train(case, 20, snapshot_at=11)
    outcome = replay(snapshot, build(case), batches(case), steps=6, change=parse_change("swap=13+14"))
    data = list(zip(range(20), batches(case), strict=False))
    shown = [batch for _, batch in data]
    shown[13] = shown[14] = shown[12]
    by_hand = replay(snapshot, build(case), shown, steps=6)
    assert outcome.losses == by_hand.losses
    assert outcome.losses[0] == losses[12][1]
    assert outcome.losses[1] != losses[13][1]


@pytest.mark.parametrize("name", ["mlp", "transformer"])
def test_a_held_v_is_the_same_at_each_step_but_for_the_gradient_of_that_step(name):
    """Against an Adam by hand, whose v̂ is that of the snapshot with one g² added."""
    case = CASES[name]
    snapshot, _ = train(case, 20, snapshot_at=11)
    outcome = replay(snapshot, build(case), batches(case), steps=5, change=parse_change("v=held"))
    loop = build(case)
    snapshot.restore(loop.model, loop.optimizer, scheduler=loop.scheduler)
    optimizer = loop.optimizer
    held = {p: s["exp_avg_sq"] / (1 - 0.999 ** float(s["step"])) for p, s in optimizer.state.items()}
    losses = []
    for batch in list(zip(range(17), batches(case), strict=False))[12:]:
        for p, state in optimizer.state.items():
            state["exp_avg_sq"].copy_(held[p] * (1 - 0.999 ** float(state["step"])))
        loop.update()
        losses.append(float(loop.backward(batch[1])))
    assert outcome.losses == pytest.approx(losses, rel=1e-6)
    plain = replay(snapshot, build(case), batches(case), steps=5)
    assert outcome.losses[0] == plain.losses[0], "the first update has the v of the run"
    assert outcome.losses[-1] != plain.losses[-1]


def test_v_that_is_not_there_can_not_be_held():
    weight = nn.Parameter(torch.ones(2))
    sgd = torch.optim.SGD([weight], lr=0.1)
    with pytest.raises(ValueError, match="v=held can't be set: SGD keeps no second moment"):
        hold_second_moment(sgd)
    with pytest.raises(ValueError, match="'v=0' is no change; v can only be held"):
        parse_change("v=0")


@pytest.mark.parametrize("name", ["mlp", "accumulation", "transformer"])
def test_a_training_in_double_precision_is_one(name):
    case = replace(CASES[name], scheduled=False)
    snapshot, losses = train(case, 20, snapshot_at=11)
    loop = build(case)
    outcome = replay(snapshot, loop, batches(case), steps=6, change=parse_change("precision=float64"))
    kept = [*loop.model.parameters(), *(s["exp_avg_sq"] for s in loop.optimizer.state.values())]
    assert {one.dtype for one in kept} == {torch.float64}
    if name == "mlp":  # nothing is drawn at random in it
        recorded = [loss for step, loss in losses if 11 < step < 18]
        assert outcome.losses == pytest.approx(recorded, rel=1e-5)
        assert outcome.losses != tuple(recorded)


def test_parameters_that_are_no_part_of_the_model_are_cast_too():
    model, scale = nn.Linear(2, 1), nn.Parameter(torch.ones(()))
    adam = torch.optim.Adam([*model.parameters(), scale])
    loop = Loop(model, lambda m, x: (m(x) * scale).square().mean(), adam)
    loop.backward(torch.ones(3, 2))
    loop.update()
    cast_training(loop, torch.float64)
    assert scale.dtype == scale.grad.dtype == adam.state[scale]["exp_avg"].dtype == torch.float64
    assert adam.state[scale]["step"].dtype == torch.float32
    loop.update()


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision=float16 can't be set; it must be float32 or float64"):
        parse_change("precision=float16")


def regression(bad):
    """A small regression, with one label that is far off at step `bad`, and what it needs."""

    def loss_fn(model, batch):
        return functional.mse_loss(model(batch[0]), batch[1])

    def make():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))
        return Loop(model, loss_fn, torch.optim.Adam(model.parameters(), lr=3e-3))

    def data():
        generator = torch.Generator().manual_seed(1)
        for step in range(200):
            x = torch.randn(16, 3, generator=generator)
            y = x.sum(1, keepdim=True).sin()
            if step == bad:
                y[0] = 60.0
            yield x, y

    return make, data


def recorded_event(tmp_path, *, bad=BAD):
    """Train it; return snapshot, event and losses."""
    make, data = regression(bad)
    loop, recorder, losses, norms = make(), Recorder(every=1), [], []
    recorder.attach(loop.model, [loop.optimizer])
    for step, batch in zip(range(130), data(), strict=False):
        loss = float(loop.backward(batch))
        gradients = [p.grad.square().sum() for p in loop.model.parameters()]
        losses.append(loss)
        norms.append(float(torch.stack(gradients).sum().sqrt()))
        if step == SNAPSHOT:
            recorder.take(step, loss=loss)
            snapshot = recorder.newest()
        loop.update()
    [event] = explain_run(write(tmp_path, loss=losses, gradient_norm=norms))
    return snapshot, event, list(enumerate(losses))


def examined(snapshot, event, recorded, make, data):
    steps = steps_to_train(event, snapshot.step)
    changes = ["", *changes_to_test(event, snapshot.step)]
    outcomes = [
        replay(snapshot, make(), data(), steps=steps, change=parse_change(one) if one else None)
        for one in changes
    ]
    perturbed = replay(snapshot, make(), data(), steps=steps, perturbed=1)
    return examine(event, outcomes[0], outcomes[1:], perturbed=perturbed, recorded=recorded)


def test_a_bad_batch_is_proved_by_swapping_it(tmp_path):
    make, data = regression(BAD)
    snapshot, event, recorded = recorded_event(tmp_path)
    assert event.cause == "bad batch"
    assert suspected_step(event) == BAD
    found = examined(snapshot, event, recorded, make, data)
    assert found.repeats
    assert found.comes == {f"swap={BAD}": False, "v=held": True, "precision=float64": True}
    assert f"with the batch of step {BAD} replaced by the one before it does not come" in found.words[0]
    assert "that batch made it" in found.words[0]
    assert "it is not made by rounding" in found.words[2]


def test_where_the_event_does_not_come_again_nothing_is_said_of_its_cause(tmp_path):
    make, data = regression(None)
    snapshot, event, recorded = recorded_event(tmp_path)
    found = examined(snapshot, event, recorded, make, data)
    assert not found.repeats
    assert not found.comes
    assert found.words == (
        f"replayed as it was from step {SNAPSHOT} it does not come: nothing can be tested",
    )


def outcome(change, *losses, **more):
    return ReplayOutcome(change, SNAPSHOT, losses, (), **more)


def judged(tmp_path, perturbed=(1.0, 900.0), **tested):
    _, event, recorded = recorded_event(tmp_path)
    outcomes = [outcome(change.replace("_", "="), *losses) for change, losses in tested.items()]
    high = outcome("unchanged", 1.0, 900.0)
    return examine(event, high, outcomes, perturbed=outcome("unchanged", *perturbed), recorded=recorded)


def test_what_goes_away_with_v_held_was_made_by_its_decay(tmp_path):
    found = judged(tmp_path, v_held=(1.0, 2.0))
    assert found.comes == {"v=held": False}
    assert found.words == (
        "with v held from step 70 on it does not come, the loss stays at 2 or below: the decay of v made it",
    )


def test_what_hangs_on_chance_is_called_so(tmp_path):
    found = judged(tmp_path, perturbed=(1.0, 2.0), precision_float64=(1.0, 2.0))
    assert "in float64 it does not come" in found.words[0]
    assert "hangs on chance" in found.words[-1]


def test_a_loss_that_is_no_number_is_the_event_and_a_failed_replay_says_nothing(tmp_path):
    _, event, recorded = recorded_event(tmp_path)
    high = outcome("unchanged", 1.0, math.nan)
    failed = outcome("v=held", 1.0, failure="the batches end before step 72")
    found = examine(event, high, [failed], perturbed=high, recorded=recorded)
    assert found.repeats
    assert found.comes == {"v=held": None}
    assert found.words == ("not tested with v=held: the batches end before step 72",)


def test_batches_that_end_after_the_event_are_enough_to_know_that_it_does_not_come(tmp_path):
    _, event, recorded = recorded_event(tmp_path)
    high, ends = outcome("unchanged", 1.0, 900.0), "the batches end before step 100"
    for losses, comes in ((event.peak + 10 - SNAPSHOT, False), (event.peak + 9 - SNAPSHOT, None)):
        short = outcome(f"swap={BAD}", *[1.0] * losses, failure=ends)
        assert examine(event, high, [short], perturbed=high, recorded=recorded).comes == {
            f"swap={BAD}": comes
        }


def test_a_snapshot_from_after_the_event_is_refused(tmp_path):
    _, event, _ = recorded_event(tmp_path)
    with pytest.raises(
        ValueError, match=f"the snapshot is of step {BAD}, and the event begins at step {BAD}"
    ):
        changes_to_test(event, BAD)
