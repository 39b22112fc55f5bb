"""What a monitor tells a guard of the spikes that it forecasts."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn, optim

import foreshock
from foreshock.forecast import RunForecaster
from foreshock.guarding import ForecastDriven
from foreshock.monitor.observation import _updates_made
from foreshock.representation import changed
from foreshock.runlog import read_run


class Listening(ForecastDriven):
    """Remembers what it was told."""

    def __init__(self):
        super().__init__()
        self.told = {}

    def decide(self, signals):
        self.told[signals.step] = signals.probability
        return super().decide(signals)


def mean_square(model, batch):
    return (model(batch) - batch.sum(1, keepdim=True)).square().mean()


def train(
    policy, *, batches, steps=130, told_of=lambda step: True, loss_fn=mean_square, save=False, **options
):
    """Train under a monitor, which sees the steps of `told_of`; return it."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    monitor = foreshock.Monitor(model, optimizer, loss_fn, guard=policy, **options)
    for step in range(steps):
        batch = batches[step % len(batches)]
        optimizer.zero_grad()
        loss = mean_square(model, batch)
        loss.backward()
        if told_of(step):
            monitor.observe(batch, loss)
        optimizer.step()
        if save and step % 7 == 6:
            monitor.state_dict()
    monitor.close()
    return monitor


def different():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, 3, generator=generator) for _ in range(10)]


@pytest.fixture
def probable(monkeypatch):
    """Make each forecast say that a spike is as probable as its place in the run, in thousandths."""
    original = RunForecaster.forecast

    def forecast(self, step, *, constant):
        found = (step + 1) / 1e3
        return changed(original(self, step, constant=constant), probability_within={10: 0.0, 50: found})

    monkeypatch.setattr(RunForecaster, "forecast", forecast)


@pytest.mark.parametrize("horizon", [50, 500])
def test_a_guard_in_mini_batches_is_told_the_last_forecast_at_each_step(probable, horizon):
    del probable
    monitor = train(Listening(), batches=different(), log_every=10, horizon=horizon)
    told = monitor.guard.policy.told
    # Forecasts are made every ten steps, of the step about to be taken, and hold until the next one.
    late = {step: told[step] for step in range(60, 130)}
    assert all(0 <= (step + 1) / 1e3 - one < 0.0105 for step, one in late.items())
    assert len(set(late.values())) in (7, 8)


def test_a_guard_of_full_batches_is_told_no_probability(probable):
    del probable
    monitor = train(Listening(), batches=different()[:1])
    assert all(map(math.isnan, monitor.guard.policy.told.values()))
    [note] = monitor.guard.summary().notes
    assert "no spike was forecast" in note


def test_what_rests_on_no_measurement_is_not_told(probable):
    del probable
    monitor = train(Listening(), batches=different(), loss_fn=None)
    assert all(map(math.isnan, monitor.guard.policy.told.values()))


def test_a_forecast_is_told_for_twenty_five_steps_at_most(probable):
    del probable
    monitor = train(Listening(), batches=different(), log_every=40, steps=200)
    known = [step for step, one in monitor.guard.policy.told.items() if step > 100 and not math.isnan(one)]
    gaps = [later - before for before, later in itertools.pairwise(known) if later - before > 1]
    assert gaps
    assert set(gaps) == {16}


def test_to_save_a_monitor_changes_nothing(monkeypatch):
    """Saving judges the steps that are open, and so makes a forecast: the guard is told it when it is due."""
    original = RunForecaster.forecast
    monkeypatch.setattr(
        RunForecaster,
        "forecast",
        lambda self, step, *, constant: changed(
            original(self, step, constant=constant), probability_within={50: 0.1 + step % 10 / 50}
        ),
    )
    saved, plain = (train(Listening(), batches=different(), steps=200, save=save) for save in (True, False))
    assert saved.guard.policy.told == plain.guard.policy.told


def test_a_lag_that_the_guard_made_itself_is_no_lag():
    class Raise(foreshock.guarding.Secant):
        def decide(self, signals):
            wanted = signals.step == 60
            return (foreshock.guarding.Decision("raise all", 8.0, "test", 1.0, 0.9),) if wanted else ()

    lags = [train(policy, batches=different(), steps=131).forecast.lag for policy in (Raise(), Listening())]
    assert lags[0] == pytest.approx(lags[1], rel=0.05)


@pytest.mark.parametrize("probability", [1.7, -0.1, math.inf])
def test_what_is_no_probability_is_refused(probability):
    watched = foreshock.guard(optim.Adam(nn.Linear(3, 1).parameters()))
    with pytest.raises(ValueError, match="between 0 and 1, or is NaN"):
        watched.record_forecast(probability)


def test_a_forecast_is_used_once_and_forgotten_where_the_optimizer_loads_a_state():
    model = nn.Linear(3, 1)
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    watched = foreshock.guard(optimizer, Listening(), wait=False)
    told = watched.policy.told
    draw = torch.Generator().manual_seed(2)
    for step in range(200):
        optimizer.zero_grad()
        mean_square(model, torch.randn(4, 3, generator=draw)).backward()
        if step == 150:
            watched.record_forecast(0.9)
            optimizer.load_state_dict(optimizer.state_dict())
        elif step in (120, 170, 171):
            watched.record_forecast(0.9)
        optimizer.step()
    # Without waiting ‖g‖ of a step is mostly judged with the next one.
    assert sum(one == 0.9 for one in told.values()) == 3


def test_a_step_that_is_not_observed_has_no_forecast(probable):
    del probable
    monitor = train(Listening(), batches=different(), told_of=lambda step: step % 3 == 0, log_every=1)
    told = monitor.guard.policy.told
    assert [math.isnan(told[step]) for step in range(60, 130)] == [step % 3 != 0 for step in range(60, 130)]


def test_processes_that_forecast_apart_tell_their_guards_nothing(probable, monkeypatch):
    del probable
    monkeypatch.setattr("foreshock.monitor.probing.ProbeRunner.is_shared", False)
    monitor = train(Listening(), batches=different())
    assert all(map(math.isnan, monitor.guard.policy.told.values()))


@pytest.mark.parametrize("mean", [0.6, 0.4])
def test_a_probable_spike_is_acted_on_near_the_edge_and_told_in_words(probable, mean, monkeypatch):
    del probable
    noise = {"mean": mean, "variance": 0.0, "noise_factor": 19.0}
    monkeypatch.setattr("foreshock.monitor.probing.ProbeRunner._noise_values", lambda *_: noise)
    monitor = train("auto", batches=different(), steps=200, probe_every=10)
    if mean < 0.5:
        assert not monitor.guard.actions
        return
    first = monitor.guard.actions[0]
    assert (first.step, first.remedy, first.threshold) == (150, "raise all", 0.15)
    assert first.reason == "the forecast says that a spike begins soon with a probability of 0.15"


def test_noise_that_was_measured_before_v_had_settled_does_not_count(monkeypatch):
    """Five measurements of a young v, a negative mean among them, made a ratio of 30 out of .3."""
    old = {"mean": 0.02, "variance": 2e-4, "noise_factor": 19.0}
    young = {"mean": -0.009, "variance": 0.003, "noise_factor": 19.0}
    measured = []

    def values(self, reading):
        measured.append(reading.step)
        return young if reading.step < 100 else old

    monkeypatch.setattr("foreshock.monitor.probing.ProbeRunner._noise_values", values)
    monitor = train("auto", batches=different(), steps=401, probe_every=20)
    true = 0.02 + 19.0 * 2e-4 / 0.02
    assert sum(step < 100 for step in measured) >= 3
    assert sum(step >= 100 for step in measured) >= 5
    assert monitor.guard.mean_square_ratio == pytest.approx(true)
    assert monitor.forecast.mean_square_ratio == pytest.approx(true)


@pytest.mark.parametrize(
    ("made", "known", "loaded", "counts"),
    [
        (150, False, True, True),  # a monitor that comes later: v is older than the run that it sees
        (150, True, False, False),  # the run goes on with a new optimizer: v is younger
        (150, True, True, True),
        (0, False, True, False),
    ],
)
def test_it_is_the_age_of_v_that_counts_not_that_of_the_run(made, known, loaded, counts, monkeypatch):
    values = {"mean": 0.02, "variance": 2e-4, "noise_factor": 19.0}
    monkeypatch.setattr("foreshock.monitor.probing.ProbeRunner._noise_values", lambda *_: values)
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    first = optim.Adam(model.parameters(), lr=1e-3)
    options = {"guard": "auto", "probe_every": 5, "full_batch": False}
    before = foreshock.Monitor(model, first, mean_square, **options)

    def go(optimizer, monitor, steps):
        for step in range(steps):
            batch = different()[step % 10]
            optimizer.zero_grad()
            loss = mean_square(model, batch)
            loss.backward()
            if monitor is not None:
                monitor.observe(batch, loss)
            optimizer.step()

    go(first, before if known else None, made)
    before.guard.detach()
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    if loaded:
        optimizer.load_state_dict(first.state_dict())
    monitor = foreshock.Monitor(model, optimizer, mean_square, **options)
    if known:
        state = before.state_dict()
        state["run"]["noise"] = foreshock.forecast.NoiseAverage().state_dict()
        state["guard"] = None
        monitor.load_state_dict(state)
    go(optimizer, monitor, 60)
    assert math.isfinite(monitor.guard.mean_square_ratio) == counts
    assert math.isfinite(monitor.forecast.mean_square_ratio) == counts
    go(optimizer, monitor, 80)
    assert math.isfinite(monitor.guard.mean_square_ratio)
    assert math.isfinite(monitor.forecast.mean_square_ratio)


def test_an_optimizer_that_counts_elsewhere_is_as_old_as_the_run():
    """A count in the state of its group, as of some packages, is not read: a step counts as one."""
    model = nn.Linear(3, 1)
    optimizer = optim.Adam(model.parameters())
    assert _updates_made([optimizer]) == 1
    for parameter in model.parameters():
        optimizer.state[parameter] = {"exp_avg": torch.zeros_like(parameter)}
    assert _updates_made([optimizer]) is None


@pytest.mark.parametrize("run", [False, 3])
def test_a_folder_that_is_no_path_is_refused_with_what_to_pass(run):
    model = nn.Linear(3, 1)
    optimizer = optim.Adam(model.parameters())
    with pytest.raises(TypeError, match="it is the folder of the run log, 'runs/1', or None"):
        foreshock.Monitor(model, optimizer, run=run)


def test_noise_that_is_none_is_left_out_and_told(tmp_path):
    """The guard of a monitor doesn't act on it, says so, and the log has it."""

    def unlike(model, batch):
        return mean_square(model, batch) * (1.0 if len(batch) == 8 else 0.3)

    monitor = train("auto", batches=different(), steps=300, loss_fn=unlike, probe_every=10, run=tmp_path)
    assert math.isnan(monitor.guard.mean_square_ratio)
    assert any("their noise is not acted on" in one for one in monitor.guard.summary().notes)
    events = read_run(tmp_path).records["event"]
    assert len([one for one in events if one["name"] == "noise left out"]) == 1
    ordinary = train("auto", batches=different(), steps=300, probe_every=10)
    assert math.isfinite(ordinary.guard.mean_square_ratio)
