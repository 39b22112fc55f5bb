"""A guard that does not act changes nothing; one that acts does so wherever training takes it."""

from __future__ import annotations

import copy
import importlib
import math
import random
from functools import partial

import numpy as np
import pytest
import torch
from torch import optim

from foreshock.guarding import POLICIES, Guard, Outlier, Secant, guard
from guarding.training import (
    ADAMS,
    OTHERS,
    WAYS,
    Script,
    asked,
    data,
    network,
    scaled_training,
    squared,
    train,
    weights,
)

MAKERS = {f"{name}-{way}": (name, way) for name in ADAMS for way in WAYS}


def build(name):
    if name in OTHERS:
        return OTHERS[name]
    adam, way = MAKERS[name]
    return lambda p: ADAMS[adam](p, **WAYS[way])


def all_of(model, optimizer, losses):
    return [losses, weights(model), [copy.deepcopy(s) for s in optimizer.state_dict()["state"].values()]]


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize("policy", ["auto", "lr"])
@pytest.mark.parametrize("name", [*MAKERS, *OTHERS])
def test_a_guard_that_does_not_act_changes_no_bit(name, policy):
    results, numbers = [], []
    for guarded in (False, True):
        model, batch = network(), data()
        optimizer = build(name)(model.parameters())
        torch.manual_seed(1)
        watched = guard(optimizer, policy) if guarded else None
        measure = (lambda: watched.measure(model, squared, data(count=15))) if guarded else None
        losses = train(model, optimizer, batch, 25, before=measure)
        results.append(all_of(model, optimizer, losses))
        numbers.append((torch.get_rng_state(), random.getstate()[1][:3], np.random.get_state()[2]))
    assert watched.summary().acted == 0
    assert watched.step == 25
    assert same(results[0], results[1])
    assert torch.equal(numbers[0][0], numbers[1][0])
    assert numbers[0][1:] == numbers[1][1:]


@pytest.mark.parametrize("way", WAYS)
def test_an_action_acts_on_that_very_step(way):
    """All of v raised by 4 halves the step: the displacement is that of half the learning rate."""
    moved = []
    for decisions in ({}, {20: asked("raise all", 2.0)}):
        model, batch = network(dtype=torch.float64), data(dtype=torch.float64)
        optimizer = optim.Adam(model.parameters(), lr=0.01, eps=1e-16, **WAYS[way])
        guard(optimizer, Script(decisions))
        train(model, optimizer, batch, 20)
        before = weights(model)
        train(model, optimizer, batch, 1)
        moved.append([new - old for old, new in zip(before, weights(model), strict=True)])
    for plain, guarded in zip(*moved, strict=True):
        torch.testing.assert_close(guarded, plain / 2, rtol=1e-10, atol=1e-16)


def test_actions_are_told_kept_and_summed_up():
    told = []
    decisions = {3: asked("raise all", 1.5), 5: asked("clip", 0.25), 6: asked("raise along", 1.2)}
    model, batch = network(), data()
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    watched = guard(optimizer, Script(decisions), on_action=told.append, max_actions=2)
    train(model, optimizer, batch, 10)
    assert [(a.step, a.remedy, a.factor, a.policy) for a in told] == [
        (3, "raise all", 1.5, "script"),
        (5, "clip", 0.25, "script"),
        (6, "raise along", 1.2, "script"),
    ]
    assert list(watched.actions) == told[1:]
    summary = watched.summary()
    assert (summary.steps, summary.acted, summary.share) == (10, 3, 0.3)
    assert summary.largest_raise == 1.5
    assert summary.strongest_clip == 0.25
    assert "acted on 3 of 10 steps (30.00%); raised all of v 1 ×; scaled the gradient 1 ×" in str(summary)


def test_what_the_callback_raises_ends_the_step():
    def stop(action):
        raise KeyboardInterrupt(action.reason)

    model, batch = network(), data()
    optimizer = optim.Adam(model.parameters())
    guard(optimizer, Script({3: asked("raise all", 1.5)}), on_action=stop)
    with pytest.raises(KeyboardInterrupt, match="the test asked for it"):
        train(model, optimizer, batch, 5)


def test_detached_guards_let_go():
    model, batch = network(), data()
    optimizer = optim.Adam(model.parameters())
    with guard(optimizer, Script({0: asked("raise all", 2.0)})) as watched:
        train(model, optimizer, batch, 2)
    train(model, optimizer, batch, 2)
    assert watched.step == 2
    watched.detach()
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("positional", [True, False])
def test_steps_with_a_closure_are_guarded_by_the_gradients_of_the_closure(positional):
    results = []
    for closed in (False, True):
        model, batch = network(dtype=torch.float64), data(dtype=torch.float64)
        optimizer = optim.Adam(model.parameters(), lr=0.01)
        watched = guard(optimizer, Script({8: asked("raise along", 1.5), 9: asked("clip", 0.5)}))
        if not closed:
            train(model, optimizer, batch, 15)
        else:

            def closure(model=model, batch=batch, optimizer=optimizer):
                optimizer.zero_grad()
                loss = squared(model, batch)
                loss.backward()
                return loss

            for _ in range(15):
                loss = optimizer.step(closure) if positional else optimizer.step(closure=closure)
                assert math.isfinite(loss.item())
        results.append((weights(model), [one.secant for one in watched.policy.seen]))
    assert same(*[list(result[0]) for result in results])
    assert results[0][1] == pytest.approx(results[1][1], nan_ok=True)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("policy", ["auto", "script"])
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(way, policy):
    def start():
        model = network()
        optimizer = optim.AdamW(model.parameters(), lr=0.01, **WAYS[way])
        decisions = {s: asked("raise along", 1.1) for s in range(5, 40, 3)}
        decisions[14] = asked("learning rate", 0.5)
        return (
            model,
            optimizer,
            guard(optimizer, Script(decisions, scales_decay=True) if policy == "script" else policy),
        )

    batch = data()
    model, optimizer, watched = start()
    train(model, optimizer, batch, 20)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), watched.state_dict()))
    train(model, optimizer, batch, 20)
    again, second, resumed = start()
    again.load_state_dict(saved[0])
    second.load_state_dict(saved[1])
    resumed.load_state_dict(saved[2])
    train(again, second, batch, 20)
    assert same(weights(model), weights(again))
    assert resumed.summary() == watched.summary()
    assert resumed.lag == watched.lag


def test_a_state_of_another_policy_is_refused():
    one = guard(optim.Adam(network().parameters()), "secant")
    with pytest.raises(ValueError, match="policy 'secant', this guard's is 'auto'"):
        guard(optim.Adam(network().parameters())).load_state_dict(one.state_dict())


def test_a_plain_optimizer_loads_the_state_of_a_guarded_one():
    model, batch = network(), data()
    optimizer = optim.AdamW(model.parameters(), lr=0.01)
    guard(optimizer, Script({5: asked("raise along", 2.0), 6: asked("learning rate", 0.5)}))
    train(model, optimizer, batch, 10)
    plain = optim.AdamW(network().parameters(), lr=0.3)
    plain.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert plain.param_groups[0]["lr"] == 0.01
    assert set(plain.state_dict()) == {"state", "param_groups"}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_gradients_that_are_not_finite_are_left_alone_and_recorded_once(value):
    model, batch = network(), data()
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    watched = guard(optimizer)
    train(model, optimizer, batch, 5)
    for _ in range(3):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, value)
        optimizer.step()
    assert [(a.step, a.remedy) for a in watched.actions] == [(5, "none")]
    assert watched.summary().acted == 0
    assert watched.summary().not_finite == 1
    assert watched.step == 8


@pytest.mark.parametrize("way", WAYS)
def test_scaled_gradients_are_seen_unscaled(way):
    """With fused, the scale is still in .grad before the step and gone after it."""
    seen = []
    for scaled in (False, True):
        model, batch = network(), data()
        optimizer = optim.AdamW(model.parameters(), lr=0.01, **WAYS[way])
        watched = guard(optimizer, Script())
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
        scaled_training(optimizer, model, batch, scaler, steps=20)
        seen.append(watched.policy.seen)
    for name in ("secant", "squared_gradient", "preconditioned_gradient", "lag"):
        plain, scaled = ([getattr(one, name) for one in run] for run in seen)
        assert plain == pytest.approx(scaled, rel=1e-4, nan_ok=True), name


@pytest.mark.parametrize("way", WAYS)
def test_an_overflow_under_a_scaler_is_passed_over(way):
    model, batch = network(), data()
    optimizer = optim.AdamW(model.parameters(), lr=0.01, **WAYS[way])
    watched = guard(optimizer, Script())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaled_training(optimizer, model, batch, scaler, steps=20, overflow_at=(10,))
    secants = [one.secant for one in watched.policy.seen]
    assert all(math.isfinite(secant) for secant in secants[1:])
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_an_overflow_right_after_a_clip_does_not_make_the_clip_forgotten():
    """The optimizer skips that step, so that the next secant compares with the gradient that was clipped."""
    seen = []
    for overflow_at in ((), (10,)):
        model = network()
        optimizer = optim.Adam(model.parameters(), lr=0.01, fused=True)
        watched = guard(optimizer, Script({9: asked("clip", 0.1)}))
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        steps = 14 + len(overflow_at)
        scaled_training(optimizer, model, data(), scaler, steps=steps, overflow_at=overflow_at)
        seen.append([one.secant for one in watched.policy.seen])
    assert seen[0] == pytest.approx(seen[1], rel=1e-4, nan_ok=True)


def test_a_lower_rate_holds_against_a_scheduler_and_is_not_seen_by_it():
    model, batch = network(), data()
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    scheduler = optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 + step)
    rates = []
    optimizer.register_step_pre_hook(lambda *_: None)
    guard(optimizer, Script({1: asked("learning rate", 0.5), 3: asked("learning rate", 0.5)}))
    optimizer.register_step_pre_hook(lambda one, *_: rates.append(one.param_groups[0]["lr"]))
    for _ in range(5):
        train(model, optimizer, batch, 1)
        scheduler.step()
    assert rates == pytest.approx([0.01, 0.01, 0.015, 0.01, 0.0125])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.06)


def test_the_secant_is_that_of_the_rate_with_which_steps_are_made():
    seen = []
    for guarded in (True, False):
        model, batch = network(), data()
        optimizer = optim.Adam(model.parameters(), lr=0.01)
        watched = guard(optimizer, Script({3: asked("learning rate", 0.5)} if guarded else {}))
        train(model, optimizer, batch, 3)
        if not guarded:
            optimizer.param_groups[0]["lr"] = 0.005
        train(model, optimizer, batch, 5)
        seen.append([one.secant for one in watched.policy.seen if one.step > 3])
    assert seen[0] == seen[1]


DECOUPLED = {
    "adamw": optim.AdamW,
    "adam": partial(optim.Adam, decoupled_weight_decay=True),
    "nadam": partial(optim.NAdam, decoupled_weight_decay=True),
}


@pytest.mark.parametrize("name", DECOUPLED)
def test_decoupled_decay_shrinks_with_the_steps_that_a_raise_shortens(name):
    model, batch = network(), data()
    optimizer = DECOUPLED[name](model.parameters(), lr=0.01, weight_decay=0.5)
    held = []
    guard(optimizer, Script({4: asked("raise all", 2.0)}, scales_decay=True))
    optimizer.register_step_pre_hook(lambda one, *_: held.append(one.param_groups[0]["weight_decay"]))
    train(model, optimizer, batch, 8)
    assert held[:4] == [0.5] * 4
    assert held[4] == pytest.approx(0.25)
    assert 0.25 < held[5] < held[6] < held[7] < 0.5
    assert optimizer.param_groups[0]["weight_decay"] == 0.5


def test_decay_in_the_gradient_does_not_shrink():
    model, batch = network(), data()
    optimizer = optim.Adam(model.parameters(), lr=0.01, weight_decay=0.5)
    held = []
    guard(optimizer, Script({4: asked("raise all", 2.0)}, scales_decay=True))
    optimizer.register_step_pre_hook(lambda one, *_: held.append(one.param_groups[0]["weight_decay"]))
    train(model, optimizer, batch, 8)
    assert held == [0.5] * 8


def test_epsilon_and_beta2_are_changed_for_good():
    model, batch = network(dtype=torch.float64), data(dtype=torch.float64)
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    guard(optimizer, Script({20: asked("epsilon", 0.1)}))
    train(model, optimizer, batch, 21)
    assert optimizer.param_groups[0]["eps"] == 0.1


@pytest.mark.parametrize("name", ["adam", "amsgrad"])
def test_a_switch_of_beta2_does_not_make_the_bias_correction_jump(name):
    """With the gradient at zero the two are v̂ before and after the switch, decayed by one step."""
    model, batch = network(dtype=torch.float64), data(dtype=torch.float64)
    optimizer = ADAMS[name](model.parameters())
    key = "max_exp_avg_sq" if name == "amsgrad" else "exp_avg_sq"
    guard(optimizer, Script({50: asked("beta2", 0.9)}))
    train(model, optimizer, batch, 50)
    state = optimizer.state[next(model.parameters())]
    before = state[key].clone() / (1 - 0.999**50)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.9)
    kept = 1.0 if name == "amsgrad" else 0.9
    after = state[key] / (1 - 0.9**51)
    torch.testing.assert_close(after, before * kept * (1 - 0.9**50) / (1 - 0.9**51), rtol=1e-10, atol=0)


def test_beta2_of_adamax_is_changed_without_a_bias_to_correct():
    model, batch = network(), data()
    optimizer = OTHERS["adamax"](model.parameters())
    watched = guard(optimizer, Script({5: asked("beta2", 0.9)}))
    train(model, optimizer, batch, 8)
    assert watched.summary().notes == ()
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.9)


def test_the_public_function_is_not_shadowed_by_a_module():
    import foreshock.guarding

    module = importlib.import_module("foreshock.guarding.guard")
    assert callable(foreshock.guard)
    assert foreshock.guard is foreshock.guarding.guard
    assert module.Guard is Guard


def test_policies_by_name_and_by_instance():
    optimizer = optim.Adam(network().parameters())
    mine = Outlier(multiple=7.0)
    watched = guard(optimizer, mine)
    assert watched.policy == mine
    assert watched.policy is not mine
    for name in POLICIES:
        assert guard(optim.Adam(network().parameters()), name).policy.name == name
    with pytest.raises(ValueError, match="no policy 'magic'; there are auto, secant"):
        guard(optimizer, "magic")
    with pytest.raises(ValueError, match="2 optimizers"):
        guard([optimizer, optimizer])
    with pytest.raises(ValueError, match="max_actions is 0"):
        Guard(optimizer, Secant(), max_actions=0)


@pytest.mark.parametrize(
    ("policy", "name", "message"),
    [("epsilon", "adafactor", "'eps'"), ("beta2", "rmsprop", "'betas'")],
)
def test_a_policy_whose_option_is_missing_is_refused_and_leaves_no_hook(policy, name, message):
    optimizer = OTHERS[name](network().parameters())
    with pytest.raises(TypeError, match=message):
        guard(optimizer, policy)
    assert not optimizer._optimizer_step_pre_hooks


def test_without_pairs_the_summary_says_what_was_not_guarded():
    generator, notes = torch.Generator().manual_seed(3), {}
    for differ in (True, False):
        model, batch = network(), data()
        optimizer = optim.Adam(model.parameters())
        watched = guard(optimizer)
        for _ in range(60):
            some = torch.randperm(16, generator=generator)[:4] if differ else slice(None)
            train(model, optimizer, (batch[0][some], batch[1][some]), 1)
        notes[differ] = watched.summary().notes
    assert "the noise of mini-batches was not measured" in notes[True][0]
    assert notes[False] == ()  # a full batch has none
    assert guard(optim.Adam(network().parameters()), "secant").summary().notes == ()


@pytest.mark.parametrize(("beta2", "told"), [(0.95, True), (0.999, False)])
def test_a_short_memory_is_told_once_v_was_raised(beta2, told):
    model = network()
    optimizer = optim.Adam(model.parameters(), betas=(0.9, beta2))
    watched = guard(optimizer, Script({5: asked("raise all", 1.5)}))
    train(model, optimizer, data(), 5)
    assert watched.summary().notes == ()
    train(model, optimizer, data(), 5)
    assert ("v forgets within 20 steps" in str(watched.summary())) == told


def test_where_every_step_sees_the_same_data_nothing_is_spent():
    model, batch = network(), data()
    optimizer = optim.Adam(model.parameters())
    watched = guard(optimizer)
    spent = []
    train(model, optimizer, batch, 120, before=lambda: spent.append(watched.measure(model, squared, batch)))
    assert not any(spent)
    assert watched.summary().notes == ("every step saw the same data: there was no noise to measure",)


def fresh_batches(watched, model, optimizer, loss_fn, steps, **options):
    spent = []
    for step in range(steps):
        batch = tuple(part[step % 2 :: 2].clone() for part in data())
        optimizer.zero_grad()
        squared(model, batch).backward()
        spent.append(watched.measure(model, loss_fn, batch, **options))
        optimizer.step()
    return spent


@pytest.mark.parametrize("every", [10, 40])
@pytest.mark.parametrize("lag", [9.0, 1.0])
def test_the_user_says_how_often_noise_is_measured(every, lag, monkeypatch):
    monkeypatch.setattr(Guard, "lag", lag)
    monkeypatch.setattr(Guard, "record_noise", lambda *_, **__: None)  # noise far below the edge waits
    model = network()
    optimizer = optim.Adam(model.parameters(), lr=1e-4)
    watched = guard(optimizer, "mean_square")
    spent = fresh_batches(watched, model, optimizer, squared, 401, every=every)
    apart = every if lag > 3 else 5 * every
    # Whether batches differ is not known before the second one.
    assert [step for step, some in enumerate(spent) if some] == list(range(apart, 401, apart))


def test_less_than_a_step_between_measurements_is_refused():
    model = network()
    watched = guard(optim.Adam(model.parameters()))
    with pytest.raises(ValueError, match="every is 0; at least one step"):
        watched.measure(model, squared, data(), every=0)


def test_a_measurement_that_fails_is_noted_given_up_and_harms_nothing(caplog):
    def broken(model, batch):
        raise KeyError("no such batch")

    results = []
    for loss_fn in (squared, broken):
        model = network()
        optimizer = optim.Adam(model.parameters(), lr=1e-3)
        watched = guard(optimizer, "mean_square")
        spent = fresh_batches(watched, model, optimizer, loss_fn, 400)
        results.append((weights(model), sum(spent), watched))
    assert same(results[0][0], results[1][0])
    assert results[1][1] == 3 < results[0][1]
    assert "a measurement of the noise failed at step 20: KeyError" in str(results[1][2].summary())
    assert "KeyError" in caplog.text


def test_a_batch_that_can_not_be_split_is_noted():
    model = network()
    optimizer = optim.Adam(model.parameters())
    watched = guard(optimizer)
    for step in range(110):
        batch = tuple(part[step % 16 :][:1].clone() for part in data())
        optimizer.zero_grad()
        squared(model, batch).backward()
        assert not watched.measure(model, squared, batch)
        optimizer.step()
    # Due at step 100; the nine batches after it were tried in its place.
    assert watched.summary().notes == ()
    for step in range(20):
        batch = tuple(part[step % 16 :][:1].clone() for part in data())
        optimizer.zero_grad()
        squared(model, batch).backward()
        assert not watched.measure(model, squared, batch)
        optimizer.step()
    assert "can't be split" in str(watched.summary())


class Opaque:
    """A batch in which no tensors can be found."""

    def __init__(self, batch):
        self.inside = batch


class Unsplittable(list):
    """A batch whose type can't be made of parts."""

    def __init__(self, one, other):
        super().__init__([one, other])


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (Opaque, "no tensors were found in a batch of the type Opaque"),
        (lambda batch: Unsplittable(*batch), "can't be measured"),
    ],
)
def test_a_batch_of_a_strange_type_is_noted_and_harms_nothing(wrap, message):
    model = network()
    optimizer = optim.Adam(model.parameters())
    watched = guard(optimizer)
    for step in range(60):
        batch = tuple(part[step % 2 :: 2].clone() for part in data())
        optimizer.zero_grad()
        squared(model, batch).backward()
        assert not watched.measure(model, squared, wrap(batch))
        optimizer.step()
    assert message in str(watched.summary())
    assert "call guard.measure" not in str(watched.summary())


def test_far_from_the_edge_the_secant_is_measured_every_eighth_step_and_held_options_hold():
    model, batch = network(), data()
    optimizer = optim.Adam(model.parameters(), lr=1e-6)
    script = Script({3: asked("learning rate", 0.5)}, needs=("secant", "norm"))
    script.exact_above = 0.9
    watched = guard(optimizer, script)
    rates = []
    optimizer.register_step_pre_hook(lambda one, *_: rates.append(one.param_groups[0]["lr"]))
    train(model, optimizer, batch, 20)
    measured = [one.step for one in watched.policy.seen if not math.isnan(one.secant)]
    assert measured == [1, 9, 17]
    assert rates == pytest.approx([1e-6] * 3 + [5e-7] * 17)


def test_new_parameters_are_guarded_too():
    model, batch = network(), data()
    optimizer = optim.Adam(list(model[0].parameters()), lr=0.01)
    watched = guard(optimizer, Script())
    train(model, optimizer, batch, 5)
    optimizer.add_param_group({"params": list(model[2].parameters())})
    train(model, optimizer, batch, 5)
    assert all(math.isfinite(one.secant) for one in watched.policy.seen[1:])


def test_an_overflow_does_not_let_an_old_displacement_stand_for_the_last_one():
    """The secant rests until step 9, for which step 8 would have been remembered, had it not overflowed."""
    model, batch = network(), data()
    optimizer = optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    script = Script(needs=("secant", "norm"))
    script.exact_above = 0.9
    watched = guard(optimizer, script)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaled_training(optimizer, model, batch, scaler, steps=12, overflow_at=(8,))
    secants = {one.step: one.secant for one in watched.policy.seen}
    assert math.isfinite(secants[1])
    assert math.isnan(secants[9])
    assert math.isfinite(secants[10])
    assert 8 not in secants
