"""What each policy asks for, on numbers made up for it."""

from __future__ import annotations

import json
import math

import pytest

from foreshock.guarding import (
    Auto,
    CurvatureDriven,
    ForecastDriven,
    GuardSignals,
    LowerBeta2,
    LowerRate,
    MeanSquare,
    Outlier,
    RaiseEpsilon,
    Rising,
    Secant,
)

ALL = (
    *(Auto, CurvatureDriven, ForecastDriven, LowerBeta2, LowerRate),
    *(MeanSquare, Outlier, RaiseEpsilon, Rising, Secant),
)


def seen(step=500, **signals):
    return GuardSignals(step=step, updates=step + 1, **signals)


@pytest.mark.parametrize("make", ALL)
def test_every_policy_is_idle_on_a_calm_run_and_where_nothing_is_known(make):
    policy = make()
    for step in range(300):
        calm = seen(
            step,
            secant=0.5,
            curvature=0.8,
            probability=0.1,
            mean_square=0.5,
            lag=100.0,
            preconditioned_gradient=1.0 + 0.5 * math.sin(step),
            squared_gradient=1.0,
        )
        assert not policy.decide(calm)
        assert not policy.decide(seen(step))


def test_each_reason_to_raise_v_is_bounded_and_their_product_counts():
    policy = MeanSquare(largest=1.1)
    for step in range(200):
        policy.decide(seen(step, preconditioned_gradient=1.0))
    for step in range(200, 205):
        decisions = policy.decide(seen(step, lag=9.0, mean_square=5.0, preconditioned_gradient=1e4))
    assert decisions[0].factor == pytest.approx(1.1 * 1.1)


@pytest.mark.parametrize("make", [Secant, LowerBeta2, LowerRate, RaiseEpsilon])
def test_the_secant_is_not_believed_while_v_is_young(make):
    assert not make().decide(seen(9, secant=5.0))
    assert make().decide(seen(10, secant=5.0))


def test_the_mean_square_ratio_counts_only_while_v_lags():
    policy = MeanSquare()
    [decision] = policy.decide(seen(lag=3.1, mean_square=0.96))
    assert decision.factor == pytest.approx(0.96 / 0.9)
    assert not policy.decide(seen(lag=2.9, mean_square=5.0))
    assert not policy.decide(seen(lag=math.nan, mean_square=5.0))
    assert not policy.decide(seen(step=50, lag=9.0, mean_square=5.0))
    [decision] = policy.decide(seen(lag=9.0, mean_square=5.0))
    assert decision.factor == pytest.approx(1.1)


def burst(policy, *, usual=1.0, high=9.0, **signals):
    """Return the decisions at a step whose gradient energy is suddenly higher."""
    for step in range(300, 400):
        policy.decide(seen(step, preconditioned_gradient=usual, lag=1.0))
    return [policy.decide(seen(step, preconditioned_gradient=high, **signals)) for step in range(400, 405)]


def test_a_burst_helps_just_below_the_edge_and_nowhere_else():
    assert burst(MeanSquare(), lag=9.0, mean_square=0.85)[-1][0].remedy == "raise all"
    assert not any(burst(MeanSquare(), lag=9.0, mean_square=0.75))
    assert not any(burst(MeanSquare(), lag=2.0, mean_square=0.85))
    assert not any(burst(MeanSquare(), lag=9.0, mean_square=0.85, high=1.5))


def test_the_armed_clip_scales_the_burst_down():
    policy = MeanSquare(remedy="clip")
    [decision] = burst(policy, lag=9.0, mean_square=1.2)[-1]
    assert decision.remedy == "clip"
    assert decision.factor == pytest.approx(1.5 / decision.value)
    assert not any(burst(MeanSquare(remedy="clip"), lag=2.0, mean_square=1.2))


@pytest.mark.parametrize("usual", ["median", "third largest"])
def test_outliers_are_clipped_and_a_new_level_is_accepted(usual):
    policy = Outlier(reference=usual)
    for step in range(100):
        assert not policy.decide(seen(step, preconditioned_gradient=1.0))
    factors = []
    for step in range(100, 110):
        decisions = policy.decide(seen(step, preconditioned_gradient=100.0))
        factors.append(decisions[0].factor if decisions else None)
    assert factors == pytest.approx([0.3, 0.3, 0.3] + [None] * 7)


@pytest.mark.parametrize("usual", ["median", "third largest"])
def test_nothing_is_an_outlier_of_gradients_that_were_zero(usual):
    policy = Outlier(reference=usual, clip_to=1.0, size="norm")
    for step in range(60):
        assert not policy.decide(seen(step, squared_gradient=0.0))
    for step in range(60, 260):
        assert not policy.decide(seen(step, squared_gradient=1.0))
    assert policy.decide(seen(260, squared_gradient=100.0))


def test_what_is_left_of_an_outlier_can_be_less_than_what_makes_it_one():
    policy = Outlier(multiple=4.0, clip_to=1.0, size="norm")
    for step in range(100):
        assert not policy.decide(seen(step, squared_gradient=1.0 if step % 2 else 9.0))
    [decision] = policy.decide(seen(100, squared_gradient=400.0))
    assert decision.factor == pytest.approx(2 / 20)  # the median of 1 and 3, over 20
    assert decision.threshold == 4.0


def test_rare_outliers_are_clipped_each_time():
    policy = Outlier(reference="third largest")
    clipped = [
        step
        for step in range(400)
        if policy.decide(seen(step, preconditioned_gradient=400.0 if step % 50 == 49 else 1.0))
    ]
    assert clipped == [99, 149, 199, 249, 299, 349, 399]


@pytest.mark.parametrize("factor", [1.5, 2.0, 4.0])
def test_a_gradient_that_grows_is_no_outlier(factor):
    """Above four times the third largest each of them, and each a multiple of the one before."""
    policy = Outlier(multiple=4.0, clip_to=1.0, size="norm", alone=True)
    sizes = [1.0] * 100 + [factor**step for step in range(1, 12)]
    clipped = [step for step, one in enumerate(sizes) if policy.decide(seen(step, squared_gradient=one**2))]
    assert not clipped
    assert policy.repeats


def test_a_gradient_that_jumps_is_clipped_once_and_what_repeats_is_not():
    policy = Outlier(multiple=4.0, clip_to=1.0, size="norm", alone=True)
    sizes = [1.0] * 100 + [9.0, 1.0, 20.0, 1.0, 30.0] + [1.0] * 40 + [90.0]
    clipped = []
    for step, one in enumerate(sizes):
        if policy.decide(seen(step, squared_gradient=one**2)):
            clipped.append(step)
        assert policy.repeats == (step in (102, 104))
    # Nine twice the level of now: what repeated is in the history, and the last one comes alone.
    assert clipped == [100, len(sizes) - 1]


@pytest.mark.parametrize(("before", "clipped"), [(1.4, True), (1.6, False)])
def test_an_outlier_comes_alone_after_a_gradient_that_is_hardly_above_the_usual_size(before, clipped):
    policy = Outlier(multiple=4.0, clip_to=1.0, reference="third largest", size="norm", alone=True)
    for step, size in enumerate([1.0] * 100 + [before]):
        assert not policy.decide(seen(step, squared_gradient=size**2))
    assert bool(policy.decide(seen(101, squared_gradient=900.0))) == clipped
    assert policy.repeats != clipped


def clipped_after(sizes, **options):
    """Return at which places a gradient is clipped, after a hundred of size one."""
    policy, found = Outlier(multiple=4.0, clip_to=1.0, reference="third largest", size="norm", alone=True), []
    squares = [1.0] * 100 + [size**2 for size in sizes]
    for step, square in enumerate(squares):
        leap = square / max(squares[max(step - 8, 0) : step], default=math.nan)
        found.append(bool(policy.decide(seen(step, squared_gradient=square, leap=leap, **options))))
    assert not any(found[:100])
    return [place for place, clipped in enumerate(found[100:]) if clipped]


ROW = [20.0, 30.0, 25.0]


@pytest.mark.parametrize(
    ("sizes", "turned", "clipped"),
    [
        (ROW, 0.0, [0, 1, 2]),
        (ROW, -0.5, [0, 1, 2]),
        (ROW, -0.7, [0]),  # an instability
        (ROW, math.nan, [0]),  # where it isn't known, it may be one
        ([101.0, 90.0, 30.0], -1.0, [0, 1, 2]),  # only data make ‖g‖² ten thousand times as large at once
        ([99.0, 90.0, 30.0], -1.0, [0]),
        ([101.0, 90.0, 10.0, 90.0], -1.0, [0, 1, 3]),  # less than a tenth may be an instability after all
        ([101.0, *[1.0] * 4, 90.0, *[1.0] * 4, 80.0], -1.0, [0, 5, 10]),
        ([20.0, *[1.0] * 4, 19.0], 0.0, [0, 5]),
        ([20.0, *[1.0] * 4, 19.0], -0.7, [0, 5]),  # it was small again: what grows is not
        ([20.0, 2.1, 19.0], -0.7, [0]),
        ([20.0, 1.9, 19.0], -0.7, [0, 2]),
        ([20.0, *[1.0] * 5, 19.0], -0.7, [0, 6]),  # it comes alone again
        ([2.0, 20.0, 20.0], 0.0, []),  # it did not come alone
        ([4.5, 30.0, 2000.0], 0.0, [0, 1, 2]),
    ],
)
def test_several_bad_batches_are_clipped_and_an_instability_is_not(sizes, turned, clipped):
    assert clipped_after(sizes, with_last=turned) == clipped


@pytest.mark.parametrize("size", [20.0, 200.0])
def test_after_ten_in_a_row_it_is_a_new_level(size):
    """As that of new targets: they must not be clipped for ever."""
    assert clipped_after([size] * 80, with_last=0.9) == list(range(10))
    # Every third batch is one of another task from now on: they are usual then.
    assert clipped_after([size, 1.0, 1.0] * 80, with_last=0.0) == list(range(0, 30, 3))


def test_what_comes_too_often_is_a_part_of_the_data():
    """A task of which one batch in twenty is would never be learned else."""
    sizes = [30.0 if place % 20 == 0 else 1.0 for place in range(3000)]
    assert clipped_after(sizes) == list(range(0, 300, 20))
    rare = [30.0 if place % 100 == 0 else 1.0 for place in range(3000)]
    assert clipped_after(rare) == [*range(0, 3000, 100)]


def test_the_secant_of_a_heavy_batch_counts_as_little_as_that_of_an_outlier():
    policy = Auto()
    for step in range(100):
        policy.decide(seen(step, squared_gradient=1.0))
    for step in range(100, 1500):
        size = 900.0 if step % 20 < 1 else 1.0
        decisions = policy.decide(seen(step, squared_gradient=size, secant=5.0 if step % 20 < 2 else 0.1))
        remedies = [one.remedy for one in decisions]
        assert remedies == (["clip"] if step < 400 and step % 20 < 1 else [])


def test_each_bad_batch_of_a_row_moves_the_weights_less():
    policy = Outlier(multiple=4.0, clip_to=1.0, reference="third largest", size="norm", alone=True)
    for step in range(100):
        policy.decide(seen(step, squared_gradient=1.0))
    factors = [
        policy.decide(seen(step, squared_gradient=400.0, with_last=0.9))[0].factor for step in range(100, 110)
    ]
    assert factors == pytest.approx([1 / 20 / k for k in range(1, 11)])


def test_a_gradient_that_is_not_finite_ends_no_row_of_bad_batches():
    policy = Outlier(size="norm", alone=True)
    for step in range(100):
        policy.decide(seen(step, squared_gradient=1.0))
    assert policy.decide(seen(100, squared_gradient=400.0))
    assert policy.decide(seen(102, squared_gradient=400.0))  # no policy is asked at such a step
    assert not policy.decide(seen(103, squared_gradient=400.0))


def test_what_auto_found_to_be_a_wall_is_no_first_outlier_of_a_row():
    policy = Auto()
    for step in range(100):
        policy.decide(seen(step, squared_gradient=1.0))
    assert policy.decide(seen(100, **WALL, with_last=-0.6, grown_ratio=60.0))[0].remedy == "raise along"
    assert not policy.decide(seen(101, squared_gradient=300.0, with_last=0.0))
    assert policy.outlier.repeats


def test_a_row_of_bad_batches_goes_on_in_a_resumed_run():
    first, other = (Outlier(size="norm", alone=True) for _ in range(2))
    for step in range(100):
        first.decide(seen(step, squared_gradient=1.0))
    assert first.decide(seen(100, squared_gradient=1e6, leap=1e6))
    other.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for policy in (first, other):
        assert policy.decide(seen(101, squared_gradient=1e6, leap=1.0))
        assert not policy.repeats


def test_auto_believes_the_secant_of_a_gradient_that_repeats():
    policy = Auto()
    for step in range(100):
        policy.decide(seen(step, squared_gradient=1.0))
    asked = [
        [d.remedy for d in policy.decide(seen(step, squared_gradient=g, secant=2.0))]
        for step, g in ((100, 400.0), (101, 900.0), (102, 1.0))
    ]
    assert asked == [["clip"], ["raise along"], ["raise along"]]


WALL = {"squared_gradient": 400.0, "surge": True, "rise": 400.0, "climb": 400.0, "lag": 50.0, "noise": 0.01}


@pytest.mark.parametrize("secant", [0.3, 0.31, 50.0])
@pytest.mark.parametrize("turned", [-0.6, 0.1, math.nan])
def test_auto_clips_no_gradient_that_turns_against_the_last_one_at_a_wall(turned, secant):
    """Clipped, it would be shorter and the instability go on. An outlier has any secant: angles tell."""
    policy = Auto()
    for step in range(100):
        policy.decide(seen(step, squared_gradient=1.0))
    decisions = policy.decide(seen(100, **WALL, with_last=turned, grown_ratio=60.0, secant=secant))
    assert [one.remedy for one in decisions] == (["raise along", "raise all"] if turned < 0 else ["clip"])
    # An outlier batch spoils the secant of the next step; that of a wall counts.
    after = policy.decide(seen(101, squared_gradient=1.0, secant=0.95))
    assert bool(after) == (turned < 0)


@pytest.mark.parametrize(("leap", "clips"), [(400.0, False), (9e3, False), (2e4, True), (1e10, True)])
def test_no_wall_makes_a_gradient_ten_thousand_times_as_large_at_once(leap, clips):
    """The angle of an outlier batch to the last gradient may be any."""
    policy = Auto()
    for step in range(100):
        policy.decide(seen(step, squared_gradient=1.0))
    wall = WALL | {"squared_gradient": leap, "rise": leap, "climb": leap, "leap": leap}
    decisions = policy.decide(seen(100, **wall, with_last=-0.6, grown_ratio=60.0))
    assert [one.remedy for one in decisions] == (["clip"] if clips else ["raise along", "raise all"])


def test_auto_clips_at_a_wall_once_all_raises_are_made():
    policy, remedies = Auto(), []
    for wall in range(4):
        steps = range(100 + 20 * wall - (100 if not wall else 19), 100 + 20 * wall)
        for step in steps:
            policy.decide(seen(step, squared_gradient=1.0))
        at = seen(100 + 20 * wall, **WALL, with_last=-0.6, grown_ratio=60.0)
        remedies.append([one.remedy for one in policy.decide(at)])
    assert remedies[0] == ["raise along", "raise all"]
    assert remedies[-1] == ["clip"]


def test_auto_acts_on_a_measured_curvature_and_then_not_on_the_secant():
    [decision] = Auto().decide(seen(curvature=0.99, secant=0.95))
    assert (decision.along, decision.value) == ("eigenvector", 0.99)
    [decision] = Auto().decide(seen(curvature=0.8, secant=0.95))
    assert (decision.along, decision.value) == ("displacement", 0.95)


def rise(policy, *, level=5.0, lag=4.0, secant=math.nan, steps=100):
    """Return the factors asked for while ‖g‖² is a multiple of what it was for 150 steps."""
    noise = [1.0, 1.5]  # of which the change is .4
    for step in range(150):
        assert not policy.decide(seen(step, squared_gradient=noise[step % 2], lag=lag, secant=secant))
    later = range(150, 150 + steps)
    asked = [policy.decide(seen(step, squared_gradient=level * noise[step % 2], lag=lag)) for step in later]
    return [one.factor for decisions in asked for one in decisions]


def test_a_rise_of_the_gradient_raises_v_only_while_v_lags():
    assert not rise(Rising(), lag=1.9)
    assert rise(Rising(), lag=2.1)
    assert not rise(Rising(), level=2.9)
    assert rise(Rising())
    assert rise(Rising(), secant=0.2)
    assert not rise(Rising(), secant=0.4)


def test_a_smooth_rise_is_left_to_the_secant():
    policy = Rising()
    assert not any(policy.decide(seen(s, squared_gradient=1.1 ** (s - 150), lag=9.0)) for s in range(250))


def test_a_level_that_stays_raises_v_by_a_bounded_factor():
    factors = rise(Rising(), level=7.0, steps=60)
    assert max(factors) == pytest.approx(1.1)
    assert math.prod(factors) == pytest.approx(2.0, rel=1e-3)  # a smaller rest is not worth a raise
    assert len(factors) == 8
    # Its median has followed by then, so that a further rise is one of that level.
    assert len(rise(Rising(), level=7.0, steps=300)) == len(factors)


def lone_jump(policy, leaps, *, lag=400.0, start=200, secant=0.1, squares=None):
    """Return the factors asked for at steps with these multiples of the largest ‖g‖² of eight steps."""
    signals = [
        seen(start + k, leap=leap, squared_gradient=square, lag=lag, secant=secant)
        for k, (leap, square) in enumerate(zip(leaps, squares or [1.0] * len(leaps), strict=True))
    ]
    return [[one.factor for one in policy.decide(step)] for step in signals]


def test_after_a_gradient_that_was_large_at_one_step_alone_v_is_doubled():
    assert lone_jump(Rising(), [0.9, 9.0, 0.2, 1.0]) == [[], [], [2.0], []]
    assert lone_jump(Rising(), [9.0, 0.2], secant=0.5) == [[], [2.0]]  # a few examples may be unstable
    # What was not that large, what stays, and what v still sees.
    assert lone_jump(Rising(), [7.9, 0.2]) == [[], []]
    assert lone_jump(Rising(), [9.0, 0.23]) == [[], []]
    assert lone_jump(Rising(), [9.0, 0.2], lag=99.0) == [[], []]
    assert lone_jump(Rising(), [9.0, 0.2], start=90) == [[], []]
    # Where a single ‖g‖² was not finite there is no multiple for a while.
    assert lone_jump(Rising(), [9.0, math.nan, 0.2]) == [[], [], []]


@pytest.mark.parametrize(("usual", "doubled"), [(0.4, True), (0.5, False), (1.2, False)])
def test_where_batches_differ_much_an_eightfold_gradient_is_no_lone_jump(usual, doubled):
    policy = Rising()
    lone_jump(policy, [0.9, 1.1] * 25, squares=[1.0, math.exp(usual)] * 25, start=150)
    asked = lone_jump(policy, [9.0, 0.2], squares=[9.0 * math.exp(usual), 1.0])
    assert asked == [[], [2.0] if doubled else []]


def test_lone_jumps_raise_v_eightfold_at_most_in_a_hundred_steps():
    policy = Rising()
    factors = [one for step in lone_jump(policy, [9.0, 0.1] * 40) for one in step]
    assert factors == [2.0] * 3
    again = [one for step in lone_jump(policy, [9.0, 0.1] * 2, start=310) for one in step]
    assert again == []  # so many came that it is the data
    policy = Rising()
    assert lone_jump(policy, [9.0, 0.1] * 4) == [[], [2.0]] * 3 + [[], []]
    assert lone_jump(policy, [9.0, 0.1], start=310) == [[], [2.0]]


def test_lone_jumps_raise_v_64_fold_at_most_in_a_thousand_steps_and_not_at_all_once_they_are_many():
    policy = Rising()
    made = [lone_jump(policy, [9.0, 0.1], start=200 + 60 * k)[1] for k in range(40)]
    assert made[:6] == [[2.0]] * 6
    assert not any(made[6:])
    policy = Rising()
    made = [lone_jump(policy, [9.0, 0.1], start=200 + 120 * k)[1] for k in range(20)]
    assert made[:6] == [[2.0]] * 6
    assert made[6:10] == [[], [], [], [2.0]]  # the first is a thousand steps ago
    resumed = Rising()
    resumed.load_state_dict(json.loads(json.dumps(policy.state_dict())))
    assert resumed.state_dict() == policy.state_dict()


def test_a_resumed_policy_knows_of_a_lone_jump_and_one_of_an_earlier_version_of_none():
    policy, resumed = Rising(), Rising()
    lone_jump(policy, [9.0, 0.1] * 2 + [9.0])
    state = policy.state_dict()
    resumed.load_state_dict(state)
    assert lone_jump(resumed, [0.1, 9.0, 0.1], start=205) == [[2.0], [], []]
    earlier = {name: one for name, one in state.items() if name not in ("leap", "of_jumps")}
    resumed.load_state_dict(earlier)
    assert lone_jump(resumed, [0.1, 9.0, 0.1], start=205) == [[], [], [2.0]]


def test_auto_sees_a_lone_jump_that_it_clips():
    policy = Auto()
    for step in range(200):
        assert not policy.decide(seen(step, squared_gradient=1.0, leap=1.0, lag=400.0))
    asked = [
        policy.decide(seen(step, squared_gradient=square, leap=leap, lag=400.0))
        for step, square, leap in ((200, 900.0, 900.0), (201, 1.0, 1 / 900))
    ]
    assert [[one.remedy for one in decisions] for decisions in asked] == [["clip"], ["raise all"]]


def jumped(policy, squares, *, start=150):
    """Return on which of the last steps a policy acts after 150 noisy ones."""
    for step in range(start):
        policy.decide(seen(step, squared_gradient=1.0 + step % 2, lag=9.0))
    steps = enumerate(squares, start=start)
    return [bool(policy.decide(seen(step, squared_gradient=one, lag=9.0))) for step, one in steps]


def test_a_rise_that_begins_with_a_jump_is_made_by_new_data_and_left_alone_while_it_only_stays():
    assert not any(jumped(Rising(), [17.0] * 60))
    assert not any(jumped(Rising(), [17.0 * 0.98**k for k in range(60)]))  # as after new targets
    # One below the multiple of the eight steps before, and one while ‖g‖² is rising already.
    assert any(jumped(Rising(), [15.0] * 5))
    assert jumped(Rising(), [9.0, 12.0, 14.0, 150.0])[-1]


def test_a_rise_that_goes_on_after_a_jump_raises_v_from_the_sixteenth_step_on():
    assert jumped(Rising(), [17.0] * 15 + [60.0] * 3) == [False] * 15 + [True] * 3
    assert jumped(Rising(), [17.0] * 15 + [35.0] * 3) == [False] * 16 + [True] * 2
    # Unless it jumps once more: those are newer data.
    assert not any(jumped(Rising(), [17.0] * 20 + [200.0] * 15))


def test_a_jump_of_long_ago_is_none_of_a_later_rise():
    policy = Rising()
    jumped(policy, [17.0] * 20)
    for step in range(170, 600):  # an unstable full batch meanwhile, of which nothing is asked
        policy.decide(seen(step, squared_gradient=1.0 + step % 2, lag=9.0, secant=0.5))
    risen = [(9.0, 0.5)] * 4 + [(80.0, 0.1)] * 4
    asked = [
        bool(policy.decide(seen(600 + k, squared_gradient=square, lag=9.0, secant=secant)))
        for k, (square, secant) in enumerate(risen)
    ]
    assert asked == [False] * 4 + [True] * 4


def test_a_jump_of_another_run_is_none_of_this_one():
    policy = Rising()
    jumped(policy, [1.5] * 20 + [17.0])
    back = [bool(policy.decide(seen(165 + k, squared_gradient=17.0, lag=9.0))) for k in range(5)]
    assert any(back)


def test_the_level_is_the_highest_mean_after_the_last_jump():
    # The first jump was higher than what follows the second one.
    low, level = [1.0, 2.0] * 8, [17.0] * 15
    assert not any(jumped(Rising(), [200.0, *low, *level, *[17.0] * 5]))
    assert any(jumped(Rising(), [200.0, *low, *level, *[32.0] * 5]))
    assert not any(jumped(Rising(), [17.0, 200.0, *[17.0] * 30]))


def test_a_jump_counts_until_the_rise_is_over():
    data, over = [17.0] * 10, [1.0, 2.0] * 10
    assert not any(jumped(Rising(), [*data, *over]))
    assert any(jumped(Rising(), [*data, *over, *[15.0] * 4]))
    assert not any(jumped(Rising(), [*data, *[9.0] * 10, *[15.0] * 4]))


def test_a_resumed_rise_knows_of_the_jump():
    policy, resumed = Rising(), Rising()
    assert not any(jumped(policy, [17.0] * 20))
    resumed.load_state_dict(policy.state_dict())
    assert not resumed.decide(seen(170, squared_gradient=17.0, lag=9.0))
    resumed.load_state_dict({**policy.state_dict(), "level": 10.0})
    assert resumed.decide(seen(171, squared_gradient=17.0, lag=9.0))
    resumed.load_state_dict({**policy.state_dict(), "jumped": None})
    assert resumed.decide(seen(172, squared_gradient=17.0, lag=9.0))
    earlier = {name: one for name, one in policy.state_dict().items() if name != "level"}
    resumed.load_state_dict(earlier)
    assert resumed.decide(seen(173, squared_gradient=17.0, lag=9.0))  # as that version did


def test_auto_takes_no_single_outlier_for_a_rise_and_leaves_rises_to_the_ratio_where_that_acts():
    policy = Auto()
    for step in range(150):
        assert not policy.decide(seen(step, squared_gradient=1.0 + step % 2, lag=4.0))
    later = [900.0, *[1.0, 2.0] * 4]
    asked = [policy.decide(seen(150 + k, squared_gradient=square, lag=4.0)) for k, square in enumerate(later)]
    assert [[one.remedy for one in decisions] for decisions in asked] == [["clip"]] + [[]] * 8
    for mean_square, reasons in ((float("nan"), ["its median"]), (1.2, ["mean-square"])):
        policy = Auto()
        for step in range(150):
            policy.decide(seen(step, squared_gradient=1.0 + step % 2, lag=4.0))
        assert not policy.decide(seen(150, squared_gradient=7.0, lag=4.0))
        [decision] = policy.decide(seen(151, squared_gradient=30.0, lag=4.0, mean_square=mean_square))
        assert all(part in decision.reason for part in reasons)


def told_of_a_raise(*, ago, resume=lambda policy: policy):
    """Return why v is raised in a rise of noisy gradients so many steps after a raise along a direction."""
    policy = Auto()
    for step in range(151):
        direction = 0.99 if step == 151 - ago else 0.1
        policy.decide(seen(step, squared_gradient=1.0 + step % 2, lag=4.0, secant=direction))
    policy = resume(policy)
    policy.decide(seen(151, squared_gradient=7.0, lag=4.0, secant=0.1))
    return [one.reason for one in policy.decide(seen(152, squared_gradient=30.0, lag=4.0, secant=0.1))]


def test_auto_leaves_a_rise_alone_soon_after_v_was_raised_along_a_direction():
    def resumed(policy):
        other = Auto()
        other.load_state_dict(policy.state_dict())
        return other

    def of_an_earlier_version(policy):
        state = policy.state_dict()
        del state["rising"]["along"]
        other = Auto()
        other.load_state_dict(state)
        return other

    for ago in (1, 20, 48):
        assert told_of_a_raise(ago=ago) == []
        assert told_of_a_raise(ago=ago, resume=resumed) == []
    for ago in (49, 80):
        [reason] = told_of_a_raise(ago=ago)
        assert "its median" in reason
    assert told_of_a_raise(ago=20, resume=of_an_earlier_version)


def test_a_raise_along_a_direction_of_another_run_is_none_of_this_one():
    policy = Rising()
    policy.raised_along(1000)  # and then a return to an earlier checkpoint
    assert rise(policy)


def test_a_lone_jump_counts_soon_after_a_raise_along_a_direction_as_well():
    policy = Rising()
    policy.raised_along(199)
    assert lone_jump(policy, [0.9, 9.0, 0.2, 1.0]) == [[], [], [2.0], []]


def test_auto_does_not_believe_the_secant_of_an_outlier():
    policy = Auto()
    for step in range(100):
        policy.decide(seen(step, squared_gradient=1.0))
    asked = [
        [d.remedy for d in policy.decide(seen(step, squared_gradient=g, secant=2.0))]
        for step, g in ((100, 400.0), (101, 1.0), (102, 1.0))
    ]
    assert asked == [["clip"], [], ["raise along"]]


def test_the_papers_measures_are_triggered_by_either_curvature():
    for make in (LowerBeta2, LowerRate, RaiseEpsilon):
        policy = make()
        [decision] = policy.decide(seen(curvature=0.95))
        assert decision.value == 0.95
        assert not policy.decide(seen(501, secant=0.95))
    assert LowerRate().decide(seen(100, secant=1.0))


def test_the_curvature_policy_raises_along_the_eigenvector():
    [decision] = CurvatureDriven(threshold=0.8).decide(seen(curvature=1.2, secant=0.1))
    assert (decision.along, decision.factor) == ("eigenvector", pytest.approx(1.5))


@pytest.mark.parametrize("make", ALL)
def test_policies_go_on_from_their_state(make):
    one, other = make(), make()
    history = [
        seen(
            s,
            secant=0.5,
            squared_gradient=1.0 + s % 3,
            preconditioned_gradient=1 + s % 7,
            lag=9.0,
            mean_square=0.85,
        )
        for s in range(200)
    ]
    for signals in history:
        one.decide(signals)
    one.decide(seen(200, secant=0.95, squared_gradient=90.0, lag=9.0, probability=0.9))
    other.load_state_dict(one.state_dict())
    for step in range(201, 220):
        late = seen(
            step,
            secant=0.95,
            curvature=0.95,
            probability=0.9,
            squared_gradient=40.0,
            preconditioned_gradient=40.0,
            lag=9.0,
            mean_square=0.9,
        )
        assert one.decide(late) == other.decide(late)


OPTIONS = [
    (MeanSquare, {"threshold": 2.5}, "threshold"),
    (MeanSquare, {"lag": 0.0}, "lag"),
    (MeanSquare, {"burst": 0.9}, "burst"),
    (MeanSquare, {"largest": math.nan}, "largest"),
    (MeanSquare, {"remedy": "pray"}, "remedy"),
    (Outlier, {"multiple": 1.0}, "multiple"),
    (Outlier, {"clip_to": 0.0}, "clip_to"),
    (Outlier, {"clip_to": 3.5}, "clip_to"),
    (Outlier, {"reference": "mode"}, "reference"),
    (Outlier, {"size": "huge"}, "size"),
    (RaiseEpsilon, {"value": 0.0}, "value"),
    (Rising, {"lag": 0.0}, "lag"),
    (Rising, {"multiple": 1.0}, "multiple"),
    (Rising, {"largest": 1.0}, "largest"),
    (Rising, {"most": float("nan")}, "most"),
    (LowerBeta2, {"value": 1.0}, "value"),
    (LowerRate, {"factor": 2.0}, "factor"),
    (CurvatureDriven, {"threshold": 0.0}, "threshold"),
    (ForecastDriven, {"probability": 1.0}, "probability"),
    (ForecastDriven, {"probability": math.nan}, "probability"),
    (ForecastDriven, {"largest": 1.0}, "largest"),
    (ForecastDriven, {"most": 0.5}, "most"),
]


@pytest.mark.parametrize(("make", "options", "name"), OPTIONS)
def test_impossible_options_are_refused(make, options, name):
    with pytest.raises(ValueError, match=name):
        make(**options)
