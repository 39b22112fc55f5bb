"""An instability far above the edge: the gradient shows it before the last displacement does."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import math
from functools import partial

import pytest
import torch
from torch import nn, optim

from foreshock.guarding import GuardSignals, Secant, guard, sums
from foreshock.guarding.tracking import Growth
from foreshock.stability import adam_threshold, growth_factor
from guarding.training import Script, asked

TURNING = GuardSignals(step=99, updates=100, with_last=-0.9, with_second_last=0.95, noise=0.1)


def after(*squares):
    growth = Growth()
    for square in squares:
        growth.update(square)
    return growth


def test_growth_is_what_three_factors_have_in_common():
    assert after(1.0, 9.0, 18.0, 90.0).sustained == 2.0
    assert after(5.0, 1.0, 9.0, 18.0, 90.0).sustained == 2.0
    assert after(9.0, 1.0, 9.0, 81.0).sustained == pytest.approx(1 / 9)


@pytest.mark.parametrize(
    "squares", [(1.0, 9.0, 81.0), (0.0, 1.0, 9.0, 81.0), (1.0, 9.0, math.inf, 9.0, 81.0)]
)
def test_without_three_factors_there_is_no_growth(squares):
    assert math.isnan(after(*squares).sustained)


def test_one_large_gradient_is_no_growth():
    for squares in ((1.0, 1.0, 1.0, 1e6), (1.0, 1.0, 1e6, 1.0), (1.0, 1e6, 1.0, 1.0)):
        growth = after(*squares)
        assert growth.sustained <= 1


def test_the_gradient_surges_where_it_doubles_against_all_of_the_last_steps():
    assert after(1.0, 2.0).growing_fast
    assert not after(1.0, 1.9).growing_fast
    assert not after(2.0, 1.0, 3.9).growing_fast  # twice the last one, which mini-batches do all the time
    assert after(9.0, *[1.0] * 8, 2.0).growing_fast
    assert not after().growing_fast
    assert not after(1.0).growing_fast
    assert not after(0.0, 1.0).growing_fast


def test_what_is_followed_is_what_the_last_steps_give_and_what_a_resumed_run_has():
    generator = torch.Generator().manual_seed(0)
    growth, squares, mean = Growth(), [], math.nan
    for step in range(300):
        square = float(torch.randn((), generator=generator).mul(2).exp()) * (step % 17 != 3)
        square = math.nan if step % 41 == 40 else square
        growth.update(square)
        if math.isnan(square):
            squares = []
            continue
        if squares:
            mean = squares[-1] if math.isnan(mean) else mean + (squares[-1] - mean) / 30
        squares.append(square)
        last, before = squares[-4:], squares[-9:-1]
        factors = [now / old for old, now in itertools.pairwise(last)] if min(last) > 0 else []
        assert growth.sustained == (
            min(factors) if len(factors) == 3 else pytest.approx(math.nan, nan_ok=True)
        )
        assert growth.growing_fast == (bool(before) and square >= 2 * max(before) > 0)
        leap = square / max(before) if before and max(before) > 0 else math.nan
        assert growth.leap == pytest.approx(leap, nan_ok=True)
        if before and min(before) > 0:
            assert growth.rise == square / min(before)
            assert growth.climb == (growth.rise if square > 2 * mean else 1.0)
        else:
            assert math.isnan(growth.rise)
            assert math.isnan(growth.climb)
        resumed = Growth()
        resumed.load_state_dict(growth.state_dict())
        for name in ("latest", "sustained", "leap", "rise", "climb", "growing_fast"):
            assert str(getattr(resumed, name)) == str(getattr(growth, name)), name


def test_the_climb_is_from_the_lowest_of_eight_steps():
    assert after(0.1, 4.0, *[2.0] * 7, 8.0).climb == 4.0
    assert after(1.0, 4.0, 3.0).climb == 3.0
    assert after(1.0, 4.0, 2.0).latest == 0.5
    assert math.isnan(after(1.0).climb)
    assert math.isnan(after(0.0, 1.0).climb)


def test_what_comes_back_from_a_dip_is_no_climb():
    assert after(*[4.0] * 40, 0.1, 1.0, 7.0).climb == 1.0
    assert after(*[4.0] * 40, 0.1, 1.0, 7.0).rise == pytest.approx(70.0)
    assert after(*[4.0] * 40, 0.1, 1.0, 9.0).climb == pytest.approx(90.0)
    grown = [1.0] * 60 + [1.3**step for step in range(12)]
    assert after(*grown).climb == pytest.approx(1.3**8)


def test_growth_is_loaded_from_what_earlier_versions_kept():
    growth = Growth()
    growth.load_state_dict([1.0, 3.0, 9.0, 27.0])
    assert growth.sustained == 3.0


def test_growth_goes_on_after_loading():
    growth = Growth()
    growth.load_state_dict(after(1.0, 3.0, 9.0).state_dict())
    growth.update(27.0)
    assert growth.sustained == 3.0


@pytest.mark.parametrize(
    ("secant", "growth", "acts"),
    [(0.5, 3.0, True), (0.5, 1.2, False), (0.2, 3.0, False), (0.5, math.nan, False), (math.nan, 3.0, False)],
)
def test_growth_raises_v_once_the_displacement_shows_the_direction(secant, growth, acts):
    seen = dataclasses.replace(TURNING, secant=secant, growth=growth, grown_ratio=1.4, rise=5.0)
    decisions = Secant().decide(seen)
    assert bool(decisions) == acts
    if acts:
        assert decisions[0].factor == pytest.approx(1.4 / 0.7)
        assert decisions[0].value == 1.4
        assert decisions[0].along == "gradient"
        assert "5 × what it was" in decisions[0].reason


@pytest.mark.parametrize(
    ("growth", "rise", "lag", "surge", "acts"),
    [
        (1.3, 7.0, 7.0, False, True),
        (1.3, 5.0, 7.0, False, False),
        (1.3, 7.0, 5.0, False, False),
        (0.8, 30.0, 20.0, True, True),
        (0.8, 30.0, 20.0, False, False),
        (0.8, 15.0, 20.0, True, False),
        (0.8, 30.0, 8.0, True, False),
        (0.8, math.nan, 20.0, True, False),
    ],
)
def test_growth_that_no_displacement_shows_counts_where_v_does_not_see_it(growth, rise, lag, surge, acts):
    seen = dataclasses.replace(TURNING, growth=growth, rise=rise, lag=lag, surge=surge, grown_ratio=1.2)
    assert [one.along for one in Secant().decide(seen)] == ["gradient"] * acts


@pytest.mark.parametrize(
    ("with_last", "with_second_last", "climb", "acts"),
    [(-0.7, 0.85, 1.0, True), (-0.5, 0.85, 1.0, False), (-0.7, 0.75, 1.0, False), (-0.5, 0.85, 9.0, True)],
)
def test_growth_below_what_was_usual_counts_where_the_gradient_clearly_turns_round(
    with_last, with_second_last, climb, acts
):
    """After the gradient fell, its mean of 30 steps is far above it; the loss may have a wall before that."""
    angles = {"with_last": with_last, "with_second_last": with_second_last}
    seen = dataclasses.replace(
        TURNING, growth=1.5, rise=9.0, climb=climb, lag=20.0, grown_ratio=1.2, **angles
    )
    assert [one.along for one in Secant().decide(seen)] == ["gradient"] * acts


@pytest.mark.parametrize(
    ("changes", "acts"),
    [
        ({}, True),
        ({"surge": True}, True),
        ({"with_last": -0.3, "secant": 0.5}, False),
        ({"with_last": -0.7, "with_second_last": 0.7, "secant": 0.5}, False),
        ({"with_last": -0.5, "noise": 0.6, "secant": 0.5}, False),
        ({"with_last": math.nan, "with_second_last": math.nan, "secant": 0.5}, False),
        ({"with_last": 0.9, "surge": True}, False),
        ({"with_last": math.nan, "surge": True, "secant": 0.2}, False),
        ({"with_last": math.nan, "surge": True, "secant": 0.5}, True),
    ],
)
def test_growth_without_a_gradient_that_turns_round_is_that_of_the_data(changes, acts):
    """A single surge may be that of a wall: there the curvature along the displacement shows it."""
    seen = dataclasses.replace(
        TURNING, growth=1.5, rise=30.0, climb=30.0, lag=20.0, grown_ratio=1.2, **changes
    )
    assert [one.along for one in Secant().decide(seen)] == ["gradient"] * acts


@pytest.mark.parametrize(
    ("changes", "acts"),
    [
        ({}, True),
        ({"noise": 1.2}, True),
        ({"with_last": -0.55}, False),
        ({"with_second_last": 0.75}, False),
        ({"growth": 1.2}, False),
        ({"noise": math.nan, "with_last": math.nan}, False),
    ],
)
def test_a_gradient_that_clearly_turns_round_counts_however_noisy_it_is(changes, acts):
    """Batches make such angles now and then, but not where ‖g‖² grows three times in a row."""
    seen = dataclasses.replace(
        TURNING, with_last=-0.7, noise=0.6, growth=1.5, rise=9.0, lag=20.0, grown_ratio=1.2
    )
    assert bool(Secant().decide(dataclasses.replace(seen, **changes))) == acts


@pytest.mark.parametrize(
    ("changes", "acts"),
    [
        ({}, True),
        ({"with_last": -0.75}, False),
        ({"with_second_last": 0.4}, False),
        ({"with_second_last": math.nan}, False),
        ({"climb": 5.0}, False),
        ({"lag": 5.0}, False),
        ({"growth": 1.2}, False),
    ],
)
def test_several_unstable_directions_turn_the_gradient_but_not_quite_back(changes, acts):
    seen = dataclasses.replace(
        TURNING, with_second_last=0.6, noise=1.0, growth=1.5, rise=9.0, climb=9.0, lag=20.0, grown_ratio=1.2
    )
    assert bool(Secant().decide(dataclasses.replace(seen, **changes))) == acts


@pytest.mark.parametrize(
    ("changes", "acts"),
    [
        ({}, True),
        ({"with_last": -0.75}, False),
        ({"with_last": math.nan}, False),
        ({"surge": False}, False),
        ({"secant": 0.2}, False),
        ({"secant": math.nan}, False),
        ({"rise": 3.5}, False),
        ({"lag": 2.5}, False),
    ],
)
def test_one_factor_is_enough_where_gradient_and_displacement_both_show_the_direction(changes, acts):
    seen = dataclasses.replace(
        TURNING,
        with_second_last=math.nan,
        noise=1.0,
        surge=True,
        secant=0.6,
        rise=5.0,
        lag=4.0,
        grown_ratio=1.1,
    )
    decisions = Secant().decide(dataclasses.replace(seen, **changes))
    assert [one.along for one in decisions] == ["gradient"] * acts


def test_the_first_step_after_a_jump_goes_too_far_below_the_edge():
    """x₁ = −(2(1 + β₁)r − 1)·x₀ where the momentum is zero: the turn comes with a factor above one."""
    beta1, ratio = 0.9, 0.8
    theta = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = optim.Adam([theta], lr=0.1, betas=(beta1, 1 - 1e-12), eps=1e-300)
    optimizer.state[theta] = {
        "step": torch.tensor(1e14),
        "exp_avg": torch.zeros(1).double(),
        "exp_avg_sq": torch.ones(1).double(),
    }
    theta.grad = adam_threshold(0.1, beta1=beta1) * ratio * theta.detach()
    optimizer.step()
    assert theta.item() == pytest.approx(1 - 2 * (1 + beta1) * ratio, rel=1e-6)


ABRUPT = GuardSignals(
    step=99,
    updates=100,
    with_last=-0.4,
    noise=0.05,
    surge=True,
    rise=7.0,
    climb=7.0,
    lag=7.0,
    grown_ratio=1.4,
)


@pytest.mark.parametrize(
    ("changes", "acts"),
    [
        ({}, True),
        ({"with_last": -0.2}, False),
        ({"with_last": math.nan}, False),
        ({"noise": 0.2}, False),
        ({"surge": False}, False),
        ({"rise": 5.0}, False),
        ({"lag": 5.0}, False),
    ],
)
def test_a_gradient_that_was_quiet_and_turns_against_the_last_one_has_met_a_wall(changes, acts):
    assert bool(Secant().decide(dataclasses.replace(ABRUPT, **changes))) == acts


def growth_of(step, ratio):
    return dataclasses.replace(
        TURNING, step=step, growth=1.5, rise=30.0, climb=30.0, lag=20.0, grown_ratio=ratio, secant=0.1
    )


def test_the_raises_of_a_hundred_steps_are_limited_and_a_resumed_policy_knows():
    policy, along, everywhere = Secant(), [], []
    for step in range(99, 106):
        for one in policy.decide(growth_of(step, 2.1)):
            (along if one.remedy == "raise along" else everywhere).append(one.factor)
        resumed = Secant()
        resumed.load_state_dict(policy.state_dict())
        policy = resumed
    assert along == pytest.approx([3, 3, 3, 3, 100 / 81])
    assert everywhere == pytest.approx([2, 2, 2])
    assert [one.factor for one in policy.decide(growth_of(199, 2.1))] == pytest.approx([3, 2])
    policy.load_state_dict({})  # as earlier versions saved it
    assert [one.factor for one in policy.decide(growth_of(199, 2.1))] == pytest.approx([3, 2])


def test_all_of_v_is_raised_at_a_wall_and_where_growth_goes_on():
    def remedies(policy, step, ratio):
        return [one.remedy for one in policy.decide(growth_of(step, ratio))]

    assert remedies(Secant(), 99, 1.3) == ["raise along"]
    assert remedies(Secant(), 99, 2.1) == ["raise along", "raise all"]
    policy = Secant()
    assert remedies(policy, 99, 1.3) == ["raise along"]
    assert remedies(policy, 108, 1.3) == ["raise along", "raise all"]
    assert remedies(policy, 118, 1.3) == ["raise along"]
    assert remedies(policy, 119, 1.2) == ["raise along"], "what the momentum makes of it falls"
    assert remedies(policy, 120, 1.25) == ["raise along", "raise all"]
    policy = Secant()
    assert remedies(policy, 118, 1.9) == ["raise along"]
    assert remedies(policy, 119, 1.35) == ["raise along", "raise all"]
    # After a return to an earlier checkpoint.
    assert remedies(policy, 115, 1.3) == ["raise along"]
    [decision, _] = Secant().decide(growth_of(99, 1e3))
    assert decision.factor == 30


def test_all_of_v_is_raised_where_the_gradient_grew_and_stays_large():
    def remedies(policy, step, **changes):
        stays = GuardSignals(step=step, updates=step + 1, rise=150.0, lag=150.0, secant=0.1)
        return [(one.remedy, one.factor) for one in policy.decide(dataclasses.replace(stays, **changes))]

    assert remedies(Secant(), 100) == [], "nothing grew before"
    jumped = Secant()
    assert jumped.decide(dataclasses.replace(growth_of(99, 1.3), growth=0.8, surge=True))
    assert remedies(jumped, 100) == [], "data make it large in one step"
    policy = Secant()
    policy.decide(growth_of(99, 1.3))
    assert remedies(policy, 100, rise=90.0) == []
    assert remedies(policy, 100, lag=90.0) == []
    assert remedies(policy, 100, rise=math.nan) == []
    assert remedies(policy, 110) == [], "that is later than ten steps"
    assert remedies(policy, 98) == [], "after a return to an earlier checkpoint"
    resumed = Secant()
    resumed.load_state_dict(policy.state_dict())
    for one in (policy, resumed):
        assert remedies(one, 101) == [("raise all", 2.0)]
        assert remedies(one, 102) == [], "once a growth"
        assert remedies(one, 103, secant=0.99) == [("raise along", pytest.approx(1.1))]
    earlier = {name: kept for name, kept in policy.state_dict().items() if name != "lasting"}
    resumed.load_state_dict(earlier)
    assert remedies(resumed, 104) == [], "as earlier versions saved it"


def test_what_stays_large_is_raised_within_the_limit_of_all():
    policy, stays = Secant(), GuardSignals(step=0, updates=100, rise=150.0, lag=150.0, secant=0.1)
    raised = []
    for step in range(100, 190, 12):
        policy.decide(growth_of(step, 1.3))
        raised += [one.factor for one in policy.decide(dataclasses.replace(stays, step=step + 1))]
    assert raised == [2.0] * 3


def test_of_the_secant_and_the_growth_the_larger_one_counts():
    seen = dataclasses.replace(TURNING, secant=1.2, growth=1.5, rise=3.0, grown_ratio=1.05)
    [decision] = Secant().decide(seen)
    assert decision.factor == pytest.approx(1.2 / 0.9)
    assert decision.along == "gradient"
    [decision] = Secant().decide(dataclasses.replace(seen, growth=1.1))
    assert decision.along == "displacement"


def test_the_secant_is_measured_as_soon_as_the_gradient_doubles():
    """Far from the edge it is measured every eighth step only."""
    script = Script(needs=("secant",))
    script.exact_above = 0.9
    theta = nn.Parameter(torch.zeros(2))
    optimizer = optim.Adam([theta], lr=1e-6)
    watched = guard(optimizer, script)
    for step in range(24):
        theta.grad = torch.full((2,), 1.0 if step < 11 else 2.0 ** (step - 10))
        optimizer.step()
    measured = [one.step for one in watched.policy.seen if not math.isnan(one.secant)]
    assert measured[:2] == [1, 9]
    # Doubled at 11: the displacement of 11 is remembered, and from 12 on each step is measured.
    assert measured[2:] == list(range(12, 24))


def test_a_gradient_that_surged_is_watched_for_eight_steps_more():
    script = Script(needs=("secant",))
    script.exact_above = 0.9
    theta = nn.Parameter(torch.zeros(2))
    optimizer = optim.Adam([theta], lr=1e-6)
    watched = guard(optimizer, script)
    for step in range(24):
        theta.grad = torch.full((2,), 1.0 if step != 11 else 2.0)
        optimizer.step()
    measured = [one.step for one in watched.policy.seen if not math.isnan(one.secant)]
    assert measured == [1, 9, *range(12, 20)]


def test_a_direction_along_which_v_was_raised_is_watched_for_eight_steps_more():
    """The secant is measured, and the gradient compared with the last ones, though it does not grow."""
    for remedy, watches in (("raise along", True), ("raise all", False)):
        script = Script({12: asked(remedy, 1.1, along="gradient")}, needs=("secant",))
        script.exact_above = 0.9
        theta = nn.Parameter(torch.zeros(2))
        optimizer = optim.Adam([theta], lr=1e-6)
        watched = guard(optimizer, script)
        for _ in range(24):
            theta.grad = torch.full((2,), 1.0)
            optimizer.step()
        measured = [one.step for one in watched.policy.seen if not math.isnan(one.secant)]
        compared = [one.step for one in watched.policy.seen if not math.isnan(one.with_last)]
        assert measured == ([1, 9, *range(13, 21)] if watches else [1, 9, 17])
        assert compared == (list(range(14, 21)) if watches else [])


def test_where_sums_go_over_processes_only_growth_makes_gradients_be_compared(monkeypatch):
    """A process whose raise failed does not watch, and the others would wait for it."""
    monkeypatch.setattr(sums.Reduction, "_reduced", lambda self, values, *_: list(values))
    script = Script({12: asked("raise along", 1.1, along="gradient")}, needs=("secant",))
    script.exact_above = 0.9
    theta = nn.Parameter(torch.zeros(2))
    watched = guard(optim.Adam([theta], lr=1e-6), script, group=object())
    for _ in range(24):
        theta.grad = torch.full((2,), 1.0)
        watched.optimizer.step()
    assert [one.step for one in watched.actions] == [12]
    assert not [one.step for one in watched.policy.seen if not math.isnan(one.with_last)]
    assert not watched.summary().notes


def growing(make, *, steps=14, told=False):
    """Return the last signals of a run whose gradient grows 1.8-fold at each step."""
    theta = nn.Parameter(torch.zeros(2))
    watched = guard(make([theta]), Script(needs=("norm",)))
    for step in range(steps):
        theta.grad = torch.full((2,), 1.8**step)
        if told:
            watched.clipped(torch.nn.utils.clip_grad_norm_([theta], 0.5), max_norm=0.5)
        watched.optimizer.step()
    return watched.policy.seen[-1]


def test_the_ratio_of_the_growth_is_that_of_the_recursion_of_the_optimizer():
    adam = growing(lambda p: optim.Adam(p, lr=1e-6, betas=(0.8, 0.99)))
    assert adam.growth == pytest.approx(1.8**2, rel=1e-5)
    assert growth_factor(adam.grown_ratio, beta1=0.8) == pytest.approx(1.8, rel=1e-5)
    assert growing(lambda p: optim.RMSprop(p, lr=1e-6)).grown_ratio == pytest.approx(1.4, rel=1e-5)

    nadam = growing(lambda p: optim.NAdam(p, lr=1e-6, momentum_decay=1e6))
    # With its weights at their limits, u = (1 − β₁)g + β₁m after thirteen steps of bias correction.
    direct, averaged = 0.1 / (1 - 0.9**14), 0.9 / (1 - 0.9**15)
    share = direct / (direct + averaged * 0.1 / 1.9)
    assert growth_factor(nadam.grown_ratio, beta1=0.9, direct_share=share) == pytest.approx(1.8, rel=1e-4)
    assert nadam.grown_ratio > 1.1 * adam.grown_ratio


def test_clipping_that_the_guard_is_told_of_does_not_hide_growth():
    make = partial(optim.Adam, lr=1e-6)
    assert growing(make, told=True).growth == pytest.approx(growing(make).growth, rel=1e-4)


def test_growth_is_not_that_over_steps_that_were_skipped(monkeypatch):
    """What grew 1.5-fold at each step has grown more than threefold over three of them."""
    theta = nn.Parameter(torch.zeros(2))
    watched = guard(optim.Adam([theta], lr=1e-6), Script(needs=("norm",)))
    for step in range(24):
        theta.grad = torch.full((2,), 1.5 ** (step / 2))
        with monkeypatch.context() as patched:
            patched.setattr(
                importlib.import_module("foreshock.guarding.guard"),
                "is_captured",
                lambda step=step: step % 3 > 0,
            )
            watched.optimizer.step()
    assert all(math.isnan(one.growth) for one in watched.policy.seen)


def far_above_the_edge(policy, *, steps=60, rise=40):
    """Train two weights with Adam whose v stands still; from one step on the first is half above the edge.

    The second has a constant gradient, which decides where the displacement points. No run is chaotic: the
    recursion is linear, in float64, and the guard acts long before rounding errors have grown.
    """
    theta = nn.Parameter(torch.tensor([1e-9, 0.0], dtype=torch.float64))
    optimizer = optim.Adam([theta], lr=0.1, betas=(0.9, 1 - 1e-12), eps=1e-300)
    moments = {
        name: torch.full((2,), value).double() for name, value in (("exp_avg", 0.0), ("exp_avg_sq", 1.0))
    }
    optimizer.state[theta] = {"step": torch.tensor(1e13), **moments}
    watched = None if policy is None else guard(optimizer, policy)
    distances = []
    for step in range(steps):
        curvature = adam_threshold(0.1, beta1=0.9) * (0.5 if step < rise else 1.5)
        theta.grad = torch.stack([curvature * theta.detach()[0], torch.tensor(1e-3).double()])
        optimizer.step()
        distances.append(abs(theta[0].item()))
    return distances, watched


def test_what_grows_far_above_the_edge_is_caught_by_its_growth():
    """‖g‖² grows twelvefold a step, and is stopped before the displacement shows half of the edge."""
    free, _ = far_above_the_edge(None)
    assert free[-1] / free[-2] == pytest.approx(growth_factor(1.5, beta1=0.9), rel=1e-3)
    assert growth_factor(1.5, beta1=0.9) ** 2 > 12
    guarded, watched = far_above_the_edge("secant")
    first = watched.actions[0]
    assert "what it was within eight steps" in first.reason
    # From then on it falls, from where it was three steps after the gradient of the other weight.
    assert guarded[-1] < max(guarded) < 1e-3
    assert free[-1] > 1e4 * max(guarded)
