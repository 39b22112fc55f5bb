"""The state machine of the five stages against runs whose stages are known."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

from foreshock.dynamics import (
    SecondMomentSums,
    Stage,
    StageEvidence,
    StageRules,
    StageState,
    StageTracker,
    find_excursions,
    next_stage,
    second_moment_lag,
    simulate_adam_on_quadratic,
)

CYCLE = [Stage.ONSET, Stage.PRECONDITIONER_GROWTH, Stage.LOSS_DECAY, Stage.PRECONDITIONER_DECAY]


def signals_of(run, beta2):
    log_loss = np.log(run.loss)
    signals = []
    for t, (v, g) in enumerate(zip(run.second_moment, run.squared_gradient, strict=True)):
        before = float(run.second_moment[t - 1]) if t else 0.0
        lag = second_moment_lag([SecondMomentSums(float(g), before, beta2, t + 1)])
        growth = float(log_loss[t] - log_loss[t - 1]) if t else math.nan
        ratio = float(run.stability_ratio[t])
        assert v > 0
        signals.append(StageEvidence(lag.instant_lag, lag.decay_exponent, ratio, growth))
    return signals


def stages_of(signals, rules=None):
    state, stages = StageState(), []
    for signal in signals:
        state = next_stage(state, signal) if rules is None else next_stage(state, signal, rules)
        stages.append(state.stage)
    return stages


def runs_of(stages):
    return [(stage, len(list(group))) for stage, group in itertools.groupby(stages)]


RUNS = {
    "no momentum": (0.15, (0.0, 0.999), 3500),
    "momentum": (0.15, (0.9, 0.999), 10_000),
    "short memory": (0.01, (0.9, 0.99), 2300),
}


@pytest.fixture(scope="module", params=RUNS.values(), ids=RUNS.keys())
def cycle(request):
    rate, betas, steps = request.param
    run = simulate_adam_on_quadratic(steps, learning_rate=rate, betas=betas)
    return run, betas[1], find_excursions(run.stability_ratio, run.second_moment, run.squared_gradient)


def test_each_spike_runs_through_the_stages_in_order(cycle):
    run, beta2, excursions = cycle
    seen = [stage for stage, _ in runs_of(stages_of(signals_of(run, beta2)))]
    assert seen[0] is Stage.STABLE_DECREASE
    assert seen[1] is Stage.PRECONDITIONER_DECAY
    without_rest = [stage for stage in seen[2:] if stage is not Stage.STABLE_DECREASE]
    expected = [stage for stage, _ in itertools.groupby(without_rest)]
    assert len(excursions) >= 2
    assert expected[: 4 * len(excursions)] == CYCLE * len(excursions)


def test_stages_begin_within_five_steps_of_where_they_do(cycle):
    """Averages over three steps and a dwell of two delay each by about two; v's growth starts by degrees."""
    run, beta2, excursions = cycle
    stages = stages_of(signals_of(run, beta2))
    entries = [t for t in range(1, len(stages)) if stages[t] is not stages[t - 1]]

    def first(stage, after):
        return next(t for t in entries if t >= after and stages[t] is stage)

    for excursion in excursions:
        assert 0 <= first(Stage.ONSET, excursion.start - 1) - excursion.start <= 2
        assert 0 <= first(Stage.PRECONDITIONER_GROWTH, excursion.start) - excursion.growth <= 5
        # The ratio must fall below 0.99 to be believed below the edge.
        assert 0 <= first(Stage.LOSS_DECAY, excursion.start) - excursion.end <= 5


def test_before_the_first_spike_v_is_blind_where_g_is_below_half_of_it(cycle):
    run, beta2, excursions = cycle
    stages = stages_of(signals_of(run, beta2))
    step = np.arange(1, len(stages) + 1)
    lag = run.squared_gradient * (1 - beta2**step) / run.second_moment
    quiet = slice(0, excursions[0].start)
    blind = np.array([stage is Stage.PRECONDITIONER_DECAY for stage in stages])[quiet]
    assert np.mean(blind == (lag[quiet] < 0.5)) > 0.95


def test_noise_does_not_flip_the_stage(cycle):
    """Noise of 0.1 on the exponent, 30 % on the lag, and 0.2 % on the ratio, the error of an estimate."""
    run, beta2, excursions = cycle
    clean = signals_of(run, beta2)[: excursions[1].start]
    rng = np.random.default_rng(0)
    noisy = [
        StageEvidence(
            s.instant_lag * math.exp(0.3 * rng.standard_normal()),
            s.decay_exponent + 0.1 * rng.standard_normal(),
            s.stability_ratio * (1 + 0.002 * rng.standard_normal()),
            s.loss_growth,
        )
        for s in clean
    ]
    calm, shaken = stages_of(clean), stages_of(noisy)
    assert len(runs_of(shaken)) <= len(runs_of(calm)) + 2
    assert np.mean([a is b for a, b in zip(calm, shaken, strict=True)]) > 0.97
    bare = StageRules(above_edge=(1.0, 1.0), blind=(0.5, 0.5), growing=(0.0, 0.0), memory=1.0, dwell=1)
    assert len(runs_of(stages_of(noisy, bare))) > len(runs_of(shaken))


def steady(**changes):
    return StageEvidence(**{"instant_lag": 100.0, "decay_exponent": 0.99, "stability_ratio": 0.7, **changes})


@pytest.mark.parametrize(
    ("change", "wavering", "settled", "stage"),
    [
        ({"stability_ratio": 1.01}, {"stability_ratio": 0.995}, 0.98, Stage.ONSET),
        ({"decay_exponent": 0.7}, {"decay_exponent": 0.4}, 0.2, Stage.PRECONDITIONER_DECAY),
        (
            {"stability_ratio": 1.01, "decay_exponent": -0.2},
            {"stability_ratio": 1.01, "decay_exponent": 0.4},
            0.6,
            Stage.PRECONDITIONER_GROWTH,
        ),
    ],
)
def test_evidence_is_given_up_later_than_it_is_believed(change, wavering, settled, stage):
    rules = StageRules(memory=1.0)
    name = next(key for key in reversed(change))
    assert stages_of([steady(**wavering)] * 5, rules)[-1] is not stage
    assert stages_of([steady(**change)] * 5 + [steady(**wavering)] * 20, rules)[-1] is stage
    assert (
        stages_of([steady(**change)] * 5 + [steady(**{**wavering, name: settled})] * 20, rules)[-1]
        is not stage
    )


def test_one_step_is_not_enough_to_change_the_stage():
    rules = StageRules(above_edge=(1.0, 1.0), dwell=2)
    blips = ([steady()] * 5 + [steady(stability_ratio=1.02)]) * 4
    assert Stage.ONSET not in stages_of(blips, rules)
    assert stages_of([*blips, steady(stability_ratio=1.02)], rules)[-1] is Stage.ONSET


def test_a_ratio_that_is_measured_rarely_holds_in_between():
    state = StageState()
    for signal in [steady(stability_ratio=1.02)] + [steady(stability_ratio=math.nan)] * 9:
        state = next_stage(state, signal)
    assert state.stage is Stage.ONSET
    for signal in [steady(stability_ratio=0.9)] + [steady(stability_ratio=math.nan)] * 9:
        state = next_stage(state, signal)
    assert state.stage is Stage.PRECONDITIONER_DECAY


def test_v_that_grows_below_the_edge_follows_the_gradient():
    stages = stages_of([steady(instant_lag=0.5, decay_exponent=-5.0)] * 10)
    assert set(stages) == {Stage.STABLE_DECREASE}


def test_lag_overrides_the_exponent():
    """A v̂ equal to g² is not blind, whatever Σv does."""
    assert stages_of([steady(instant_lag=1.0)] * 10)[-1] is Stage.STABLE_DECREASE
    assert stages_of([steady(instant_lag=math.nan)] * 10)[-1] is Stage.PRECONDITIONER_DECAY


def test_a_loss_that_stays_up_ends_the_decay_after_the_patience():
    state = StageState()
    spike = [steady(stability_ratio=1.1, loss_growth=0.0)] * 3
    spike += [steady(stability_ratio=1.1, decay_exponent=-9.0, instant_lag=1 / 30, loss_growth=0.5)] * 4
    after = [steady(decay_exponent=0.0, instant_lag=1.0, loss_growth=0.0)] * 40
    stages = []
    for signal in spike + after:
        state = next_stage(state, signal)
        stages.append(state.stage)
    assert runs_of(stages)[-2:] == [
        (Stage.LOSS_DECAY, pytest.approx(StageRules().patience, abs=1)),
        (Stage.STABLE_DECREASE, pytest.approx(39 - StageRules().patience, abs=2)),
    ]


def test_nothing_known_is_no_stage_change():
    nothing = StageEvidence(math.nan, math.nan)
    assert set(stages_of([nothing] * 10)) == {Stage.STABLE_DECREASE}
    assert next_stage(StageState(rise=1.0), steady(loss_growth=math.inf)).rise == 1.0


BLIND = {"loss": 1.0, "instant_lag": 100.0, "decay_exponent": 0.99, "stability_ratio": 0.7}
PARTS = [
    ("preconditioner_decay", {}),
    ("onset", {"stability_ratio": 1.02}),
    ("preconditioner_growth", {"stability_ratio": 1.02, "decay_exponent": -9.0, "loss": 30.0}),
    ("loss_decay", {"stability_ratio": 0.8, "decay_exponent": 0.2, "instant_lag": 1 / 0.9, "loss": 10.0}),
]


def follow(tracker: StageTracker, parts=PARTS, steps: int = 8) -> list[str]:
    stages = []
    for _, changes in parts:
        for _ in range(steps):
            tracker.update(**BLIND | changes)
        stages.append(tracker.stage)
    return stages


def test_a_spike_goes_through_its_stages():
    assert follow(StageTracker()) == [stage for stage, _ in PARTS]


def test_without_a_second_moment_there_is_no_stage():
    tracker = StageTracker()
    tracker.update(**BLIND | {"decay_exponent": math.nan})
    assert tracker.stage == ""


@pytest.mark.parametrize("loss", [math.nan, math.inf, 0.0, -1.0])
def test_a_loss_without_a_logarithm_is_no_growth(loss):
    tracker = StageTracker()
    for value in (1.0, loss, 1.0, 1.0):
        tracker.update(**BLIND | {"loss": value})
    assert tracker.stage == "preconditioner_decay"


def test_a_resumed_run_goes_on_in_its_stage():
    tracker, resumed = StageTracker(), StageTracker()
    follow(tracker, PARTS[:2])
    resumed.load_state_dict(json.loads(json.dumps(tracker.state_dict())))
    assert resumed.stage == "onset"
    assert follow(tracker, PARTS[2:]) == follow(resumed, PARTS[2:])
