"""A monitored run is the same run; whatever goes wrong is recorded and harms nothing."""

from __future__ import annotations

import copy
import gc
import itertools
import logging
import math
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn, optim

from cases import CASES, Case
from foreshock.batches import MicroBatches
from foreshock.guarding import guard
from foreshock.monitor.monitor import Monitor
from foreshock.report.summary import summarise
from foreshock.runlog import read_run

OPTIMIZERS = {
    "adam": lambda p: optim.Adam(p, lr=0.01),
    "adamw-fused": lambda p: optim.AdamW(p, lr=0.01, fused=True),
    "amsgrad-foreach": lambda p: optim.Adam(p, lr=0.01, amsgrad=True, foreach=True),
}


def train(
    case: Case, make: Callable[..., optim.Optimizer], *, steps: int, monitor: dict[str, Any] | None
) -> dict[str, Any]:
    """Train with or without a monitor; return everything that training leaves behind."""
    model, batch = case.build(dtype=torch.float32)
    optimizer = make(list(model.parameters()))
    random.seed(0)
    np.random.seed(0)
    watch = None if monitor is None else Monitor(model, optimizer, case.loss_fn, **monitor)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = case.loss_fn(model, batch)
        loss.backward()
        if watch is not None:
            watch.observe(batch, loss)
        optimizer.step()
        losses.append(loss.item())
    return {
        "losses": losses,
        "state": copy.deepcopy(model.state_dict()),
        "gradients": [p.grad.clone() for p in model.parameters()],
        "optimizer": copy.deepcopy(optimizer.state_dict()["state"]),
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].tolist(),
        "python": random.getstate(),
        "modes": [module.training for module in model.modules()],
    }


def assert_same(one: Any, other: Any, where: str = "run") -> None:
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_same(left, right, f"{where}[{index}]")
    else:
        assert one == other, where


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_monitored_run_is_bitwise_the_same(case, name, tmp_path):
    """With batch norm and dropout among the cases: buffers and random numbers count."""
    plain = train(case, OPTIMIZERS[name], steps=12, monitor=None)
    watched = train(case, OPTIMIZERS[name], steps=12, monitor={"run": tmp_path, "probe_every": 2})
    assert_same(plain, watched)
    run = read_run(tmp_path)
    assert len(run.records["curvature"]) == 6
    assert [event["name"] for event in run.records["event"]] == ["backend"]


def regression(dtype: torch.dtype = torch.float32):
    case = CASES[0]
    model, batch = case.build(dtype=dtype)
    return model, batch, case.loss_fn


def steps(model, optimizer, monitor, batch, loss_fn, count: int = 4):
    """Train under a monitor; return the forecasts."""
    forecasts = []
    for _ in range(count):
        optimizer.zero_grad()
        loss = loss_fn(model, batch)
        loss.backward()
        forecasts.append(monitor.observe(batch, loss))
        optimizer.step()
    return forecasts


def test_readings_are_those_of_the_step_that_is_taken(tmp_path):
    """On ½·3·θ² with β₁ = 0 the ratio is 3η/(2D) with D the step's own denominator."""
    theta = nn.Linear(1, 1, bias=False)
    nn.init.ones_(theta.weight)
    optimizer = optim.Adam(theta.parameters(), lr=0.1, betas=(0.0, 0.9))
    loss_fn = lambda model, batch: 1.5 * (model(batch) ** 2).mean()  # noqa: E731
    batch = torch.ones(1, 1)
    with Monitor(theta, optimizer, loss_fn, run=tmp_path, probe_every=1) as monitor:
        for _ in range(5):
            optimizer.zero_grad()
            loss = loss_fn(theta, batch)
            loss.backward()
            gradient = theta.weight.grad.item()
            forecast = monitor.observe(batch, loss)
            before = theta.weight.item()
            optimizer.step()
            denominator = -0.1 * gradient / (theta.weight.item() - before)
            expected = 3 * 0.1 / (2 * denominator)
            assert forecast.stability_ratio == pytest.approx(expected, rel=1e-4)  # float32 θ


def test_the_run_log_has_all_that_was_measured(tmp_path):
    model, batch, loss_fn = regression()
    optimizer = optim.AdamW(model.parameters(), lr=1e-3)
    with Monitor(model, optimizer, loss_fn, run=tmp_path, probe_every=2, meta={"name": "base"}) as monitor:
        steps(model, optimizer, monitor, batch, loss_fn, 9)
    run = read_run(tmp_path)
    assert run.meta["name"] == "base"
    assert run.meta["optimizer"] == "AdamW"
    assert run.steps("step").tolist() == list(range(9))
    assert run.steps("curvature").tolist() == run.steps("forecast").tolist() == [0, 2, 4, 6, 8]
    assert np.all(np.isfinite(run.column("curvature", "gradient_stability_ratio")))
    assert np.all(run.column("step", "gradient_norm") > 0)
    assert math.isnan(run.column("step", "decay_exponent")[0])
    assert np.all(run.column("step", "instant_lag") > 0)


def test_without_a_loss_function_only_free_signals_are_logged(tmp_path):
    model, batch, loss_fn = regression()
    optimizer = optim.Adam(model.parameters())
    monitor = Monitor(model, optimizer, run=tmp_path)
    forecasts = steps(model, optimizer, monitor, batch, loss_fn)
    monitor.close()
    assert {forecast.state for forecast in forecasts} == {"unknown"}
    assert "no loss_fn" in forecasts[0].basis
    assert len(read_run(tmp_path).records["step"]) == 4


def on_fresh_batches(monitor, model, optimizer, loss_fn, *, count: int, size: int = 12):
    generator = torch.Generator().manual_seed(5)
    forecasts = []
    for _ in range(count):
        batch = torch.randn(size, 3, generator=generator), torch.randn(size, 2, generator=generator)
        forecasts += steps(model, optimizer, monitor, batch, loss_fn, 1)
    return forecasts


def test_mini_batches_are_judged_by_their_noise_and_not_called_stable_before_it_is_known(tmp_path):
    model, _, loss_fn = regression()
    optimizer = optim.Adam(model.parameters(), lr=1e-5)
    with Monitor(model, optimizer, loss_fn, run=tmp_path, probe_every=1) as monitor:
        forecasts = on_fresh_batches(monitor, model, optimizer, loss_fn, count=9)
    assert all(forecast.state == "unknown" for forecast in forecasts[:3])
    assert "unknown whether every step sees the same data" in forecasts[0].basis
    assert "usable measurements" in forecasts[2].basis
    assert 0 < forecasts[-1].typical_mean_square_ratio < 0.1
    assert math.isnan(forecasts[-1].mean_square_ratio)  # v has not settled
    assert forecasts[-1].state == "stable"
    assert math.isnan(forecasts[-1].steps_to_instability)
    run = read_run(tmp_path)
    assert run.steps("noise").tolist() == list(range(1, 9))
    assert run.column("noise", "noise_factor") == pytest.approx(19.0, rel=1e-9)


def test_the_noise_of_a_monitored_run_changes_nothing_in_training():
    torch.manual_seed(0)
    model, _, loss_fn = regression()
    plain = copy.deepcopy(model)
    for trained, watched in ((model, True), (plain, False)):
        optimizer = optim.Adam(trained.parameters(), lr=1e-2)
        monitor = Monitor(trained, optimizer, loss_fn if watched else None, probe_every=1)
        on_fresh_batches(monitor, trained, optimizer, loss_fn, count=8)
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)


def test_batches_of_a_small_set_differ_less(tmp_path):
    """Twelve of twelve examples are the whole set: the noise counts for nothing, the ratio is the mean."""
    ratios = {}
    for examples in (None, 12):
        model, _, loss_fn = regression()
        optimizer = optim.Adam(model.parameters(), lr=1e-3)
        monitor = Monitor(
            model, optimizer, loss_fn, probe_every=1, examples=examples, run=tmp_path / str(examples)
        )
        last = on_fresh_batches(monitor, model, optimizer, loss_fn, count=108)[-1]
        ratios[examples] = last.mean_square_ratio
    # Of the first hundred steps none counts: v averages too few gradients.
    mean, *means = read_run(tmp_path / "12").column("noise", "mean")[-8:].tolist()
    for value in means:
        mean += (value - mean) / 8
    assert ratios[12] == pytest.approx(mean, rel=1e-9)
    assert ratios[None] > 1.5 * ratios[12]


def test_batches_that_can_never_be_split_are_probed_for_curvature_until_one_can(tmp_path):
    model, _, loss_fn = regression()
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    with Monitor(model, optimizer, loss_fn, run=tmp_path, probe_every=1) as monitor:
        given_up = on_fresh_batches(monitor, model, optimizer, loss_fn, count=25, size=1)[-1]
        again = on_fresh_batches(monitor, model, optimizer, loss_fn, count=8)[-1]
    assert "batches differ" in given_up.basis
    run = read_run(tmp_path)
    events = [event for event in run.records["event"] if event["name"] != "batch size"]
    assert [event["name"] for event in events] == ["backend", "short batch", "no noise"]
    assert "can't be split" in events[-1]["message"]
    # The first step, and those after twenty batches that could not be split, until one was.
    assert run.steps("curvature").tolist() == [0, *range(21, 26)]
    assert run.steps("noise").tolist() == list(range(25, 33))
    assert again.typical_mean_square_ratio > 0


def test_a_short_batch_is_left_out_and_the_next_one_measured(tmp_path):
    """Every fifth batch, just where a probe is due, has one example, as at the end of an epoch."""
    model, _, loss_fn = regression()
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    with Monitor(model, optimizer, loss_fn, run=tmp_path, probe_every=5) as monitor:
        for step in range(61):
            size = 1 if step % 5 == 0 and step else 12
            x = torch.randn(size, 3, generator=torch.Generator().manual_seed(step))
            [forecast] = steps(model, optimizer, monitor, (x, x[:, :2]), loss_fn, 1)
    run = read_run(tmp_path)
    assert run.steps("noise").tolist() == list(range(6, 61, 5))
    assert set(run.column("noise", "examples")) == {12.0}
    names = [event["name"] for event in run.records["event"]]
    assert names == ["backend", "batch size", "short batch"]
    assert run.column("step", "batch_size")[[4, 5, 6]].tolist() == [12, 1, 12]
    assert forecast.typical_mean_square_ratio > 0


def test_a_data_set_smaller_than_its_batches_is_said_once_and_not_used(tmp_path):
    ratios = []
    for examples in (3, None):
        model, _, loss_fn = regression()
        optimizer = optim.Adam(model.parameters(), lr=1e-3)
        monitor = Monitor(
            model, optimizer, loss_fn, run=tmp_path / str(examples), probe_every=1, examples=examples
        )
        last = on_fresh_batches(monitor, model, optimizer, loss_fn, count=8)[-1]
        ratios.append(last.typical_mean_square_ratio)
    events = read_run(tmp_path / "3").records["event"]
    assert [event["name"] for event in events] == ["backend", "wrong examples"]
    assert "pass the size of the training set" in events[-1]["message"]
    assert ratios[0] == ratios[1] > 0


def rising_above_the_edge(monitor_of):
    """Train a quadratic below its edge for 40 steps, then 5 % above it."""
    weight = nn.Linear(1, 1, bias=False)
    nn.init.ones_(weight.weight)
    optimizer = optim.SGD(weight.parameters(), lr=0.66)
    loss_fn = lambda model, batch: 1.5 * (model(batch) ** 2).mean()  # noqa: E731
    with monitor_of(weight, optimizer, loss_fn) as monitor:
        steps(weight, optimizer, monitor, torch.ones(1, 1), loss_fn, 40)
        optimizer.param_groups[0]["lr"] = 0.7
        steps(weight, optimizer, monitor, torch.ones(1, 1), loss_fn, 4)


def test_an_alarm_is_given_once_per_episode_and_to_whoever_asked(tmp_path):
    given = []
    settings = {"run": tmp_path, "probe_every": 1, "full_batch": True, "alarm_at": 0.01}
    rising_above_the_edge(lambda *subject: Monitor(*subject, on_alarm=given.append, **settings))
    [alarm] = given
    assert (alarm.level, alarm.forecast.level) == ("alarm", "alarm")
    [logged] = read_run(tmp_path).records["alarm"]
    assert (logged["level"], logged["step"]) == ("alarm", alarm.step)
    assert set(logged["forecast"]["probability_within"]) == {"10", "25", "50", "100"}
    probabilities = read_run(tmp_path).column("forecast", "probability")
    assert probabilities[-1] > probabilities[probabilities > 0][0]


def test_what_a_callback_raises_stops_the_step():
    def stop(alarm):
        raise KeyboardInterrupt(alarm.reason)

    settings = {"probe_every": 1, "full_batch": True, "alarm_at": 0.01}
    with pytest.raises(KeyboardInterrupt, match="a spike within 50 steps"):
        rising_above_the_edge(lambda *subject: Monitor(*subject, on_alarm=stop, **settings))


def test_the_known_future_of_the_learning_rate_moves_the_forecast():
    """With η a millionth from step 30 on, what would cross soon has far to go."""
    case = CASES[0]
    forecasts = {}
    for name, rate_at in (("stays", None), ("falls", lambda step: 1.0 if step < 30 else 1e-6)):
        model, batch = case.build(dtype=torch.float64)
        optimizer = optim.Adam(model.parameters(), lr=1e-3)
        monitor = Monitor(
            model, optimizer, case.loss_fn, probe_every=1, full_batch=True, learning_rate_at=rate_at
        )
        forecasts[name] = steps(model, optimizer, monitor, batch, case.loss_fn, 25)
    rising = [f for f in forecasts["stays"] if 5 < f.steps_to_instability < math.inf]
    assert rising
    late = [
        falls.steps_to_instability
        for stays, falls in zip(forecasts["stays"], forecasts["falls"], strict=True)
        if 5 < stays.steps_to_instability < math.inf and stays.step + stays.steps_to_instability > 32
    ]
    assert late
    assert all(ahead > 1000 for ahead in late)


class Count:
    """A loss function that counts its evaluations."""

    def __init__(self, loss_fn):
        self.made, self._loss_fn = 0, loss_fn

    def __call__(self, model, batch):
        self.made += 1
        return self._loss_fn(model, batch)


def test_the_budget_is_kept_in_passes_and_a_run_can_be_repeated(tmp_path):
    """The steps of the measurements are the same however long anything takes."""
    probed = []
    for name in ("one", "other"):
        model, batch, loss_fn = regression()
        optimizer = optim.Adam(model.parameters(), lr=1e-3)
        counted = Count(loss_fn)
        with Monitor(model, optimizer, counted, run=tmp_path / name, budget=0.1) as monitor:
            steps(model, optimizer, monitor, batch, loss_fn, 1500)
        run = read_run(tmp_path / name)
        passes = run.column("curvature", "passes")
        assert np.all(passes > 0)
        opening = passes[run.steps("curvature") < 50].sum()
        assert passes.sum() <= 0.1 * 1500 + max(0.0, opening - 0.1 * 1500 / 5) + passes.max()
        assert passes.sum() > 0.05 * 1500
        # Each evaluation of the loss is a forward pass at least; double backward adds the rest.
        assert counted.made <= passes.sum()
        probed.append(run.steps("curvature").tolist())
    assert probed[0] == probed[1]


def test_a_budget_of_zero_evaluates_no_loss(tmp_path):
    model, batch, loss_fn = regression()
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    counted = Count(loss_fn)
    with Monitor(model, optimizer, counted, run=tmp_path, budget=0) as monitor:
        forecast = steps(model, optimizer, monitor, batch, loss_fn, 60)[-1]
    assert (counted.made, forecast.state) == (0, "unknown")
    assert forecast.basis == "budget is 0, so no curvature is measured"


def test_a_budget_that_can_not_pay_for_its_horizon_is_an_event(tmp_path):
    model, batch, loss_fn = regression()
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    with Monitor(model, optimizer, loss_fn, run=tmp_path, budget=0.005) as monitor:
        steps(model, optimizer, monitor, batch, loss_fn, 80)
    [event] = [one for one in read_run(tmp_path).records["event"] if one["name"] == "budget"]
    assert event["step"] == 50
    assert "choose budget=0.0" in event["message"]


@pytest.mark.parametrize("noisy", [False, True])
def test_with_the_defaults_a_state_is_known_within_fifty_steps(noisy, tmp_path):
    model, batch, loss_fn = regression()
    optimizer = optim.Adam(model.parameters(), lr=1e-4)
    with Monitor(model, optimizer, loss_fn, run=tmp_path) as monitor:
        if noisy:
            forecasts = on_fresh_batches(monitor, model, optimizer, loss_fn, count=51)
        else:
            forecasts = steps(model, optimizer, monitor, batch, loss_fn, 51)
    assert forecasts[-1].state != "unknown", forecasts[-1]
    assert not any(forecast.announces for forecast in forecasts[:2])


def test_between_measurements_the_ratio_is_followed(tmp_path):
    """How well, on quadratics, is in tests/curvature/test_followed.py."""
    model, batch, loss_fn = regression(torch.float64)
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    with Monitor(model, optimizer, loss_fn, run=tmp_path) as monitor:
        steps(model, optimizer, monitor, batch, loss_fn, 400)
    run = read_run(tmp_path)
    rows, measured = run.records["forecast"], run.steps("curvature").tolist()
    known = [row for row in rows if row["state"] != "unknown"]
    assert len(known) > 3 * len(measured)
    assert {row["measured"] for row in known} <= set(measured)
    assert all(row["measured"] == max(step for step in measured if step <= row["step"]) for row in known)


def test_a_step_that_logs_nothing_returns_the_last_forecast_counted_down(tmp_path):
    model, batch, loss_fn = regression()
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    monitor = Monitor(model, optimizer, loss_fn, run=tmp_path, log_every=25)
    forecasts = steps(model, optimizer, monitor, batch, loss_fn, 120)
    assert [forecast.step for forecast in forecasts[50:]] == list(range(50, 120))
    for before, after in itertools.pairwise(forecasts[100:]):
        ahead = before.steps_to_instability
        assert after.steps_to_instability == pytest.approx(ahead - 1, nan_ok=True)
    monitor.close()
    assert read_run(tmp_path).steps("step").tolist() == list(range(120))


def test_a_monitor_that_nobody_closes_loses_no_step(tmp_path):
    """Neither when it is collected nor when the script ends, as the README's loop does."""
    model, batch, loss_fn = regression()
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    monitor = Monitor(model, optimizer, loss_fn, run=tmp_path / "collected")
    steps(model, optimizer, monitor, batch, loss_fn, 63)
    del monitor
    gc.collect()
    assert read_run(tmp_path / "collected").steps("step").tolist() == list(range(63))
    script = """
import sys, torch, foreshock
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.Adam(model.parameters())
monitor = foreshock.Monitor(model, optimizer, run=sys.argv[1], guard="auto")
for _ in range(63):
    optimizer.zero_grad()
    loss = model(torch.ones(2, 3)).square().mean()
    loss.backward()
    monitor.observe(torch.ones(2, 3), loss)
    optimizer.step()
"""
    # The second time in a subfolder, whose file is opened after the monitor was made.
    for run in (tmp_path / "ended", tmp_path / "ended" / "2"):
        subprocess.run([sys.executable, "-c", script, str(tmp_path / "ended")], check=True)
        assert read_run(run).steps("step").tolist() == list(range(63))


def test_steps_that_are_not_read_back_yet_reach_the_log_within_a_second(tmp_path, monkeypatch):
    model, batch, loss_fn = regression()
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    clock = [0.0]
    monkeypatch.setattr("foreshock.monitor.monitor.time.monotonic", lambda: clock[0])
    monitor = Monitor(model, optimizer, run=tmp_path, log_every=1000)
    steps(model, optimizer, monitor, batch, loss_fn, 61)
    written = len(read_run(tmp_path).records["step"])
    for count in range(40):
        clock[0] += 0.1
        steps(model, optimizer, monitor, batch, loss_fn, 1)
        # Those of the last .6 seconds may be missing: six steps.
        assert count < 6 or len(read_run(tmp_path).records["step"]) >= 62 + count - 6
    assert len(read_run(tmp_path).records["step"]) > written + 30


def test_a_loop_that_observes_every_tenth_step_is_understood(tmp_path):
    """Dates are in updates, as the log's steps are."""
    model, batch, loss_fn = regression()
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    monitor = Monitor(model, optimizer, loss_fn, run=tmp_path)
    for step in range(400):
        optimizer.zero_grad()
        loss = loss_fn(model, batch)
        loss.backward()
        if step % 10 == 0:
            forecast = monitor.observe(batch, loss)
            assert forecast.step == step
        optimizer.step()
    monitor.close()
    run = read_run(tmp_path)
    assert run.steps("step").tolist() == list(range(0, 400, 10))
    [event] = [one for one in run.records["event"] if one["name"] == "calls"]
    assert "observe is called every 10 updates" in event["message"]
    assert any(row["state"] != "unknown" for row in run.records["forecast"])
    passes = run.column("curvature", "passes")
    assert passes.sum() <= 0.05 * 400 + passes[run.steps("curvature") < 50].sum()


def test_the_runs_own_step_numbers_are_taken(tmp_path):
    model, batch, loss_fn = regression()
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    monitor = Monitor(model, optimizer, run=tmp_path)
    for step in (1000, 1001, 1002):
        loss = loss_fn(model, batch)
        loss.backward()
        assert monitor.observe(batch, loss, step=step).step == step
        optimizer.step()
    with pytest.raises(ValueError, match="step=1002 after step 1002"):
        monitor.observe(batch, loss, step=1002)
    monitor.close()
    assert read_run(tmp_path).steps("step").tolist() == [1000, 1001, 1002]


def test_other_parameters_are_probed_anew_at_once(tmp_path):
    """Unfreezing a layer makes the last eigenvector useless: the next measurement seeks another one."""
    model, batch, loss_fn = regression()
    model[0].requires_grad_(False)
    optimizer = optim.Adam(model.parameters(), lr=1e-4)
    with Monitor(model, optimizer, loss_fn, run=tmp_path) as monitor:
        steps(model, optimizer, monitor, batch, loss_fn, 80)
        model[0].requires_grad_(True)
        forecasts = steps(model, optimizer, monitor, batch, loss_fn, 120)
    run = read_run(tmp_path)
    assert not [one for one in run.records["event"] if one["name"] == "probe failed"]
    later = [row for row in run.records["curvature"] if row["step"] >= 80]
    assert later[0]["step"] <= 110
    assert later[0]["complete"]
    assert forecasts[-1].measured >= 80
    assert run.steps("step").tolist() == list(range(200))


def test_a_step_that_a_gradient_scaler_leaves_out_is_not_measured(tmp_path):
    model, batch, loss_fn = regression()
    optimizer = optim.Adam(model.parameters(), lr=1e-4)
    monitor = Monitor(model, optimizer, loss_fn, run=tmp_path)
    for step in range(60):
        optimizer.zero_grad()
        loss = loss_fn(model, batch)
        loss.backward()
        if step in (5, 20):
            model[0].weight.grad[0] = math.inf
        monitor.observe(batch, loss)
        if step not in (5, 20):
            optimizer.step()
    monitor.close()
    run = read_run(tmp_path)
    assert not {5, 20} & set(run.steps("curvature").tolist())
    assert np.all(run.column("curvature", "stability_ratio") > 0)
    assert run.steps("step").tolist() == list(range(60))
    assert monitor.forecast.state != "unknown"


def test_a_failed_probe_is_not_replaced_by_what_was_known_before(tmp_path):
    model, batch, loss_fn = regression()
    optimizer = optim.Adam(model.parameters(), lr=1e-4)
    broken = []

    def breaking(net, batch):
        if broken:
            raise RuntimeError("out of memory")
        return loss_fn(net, batch)

    monitor = Monitor(model, optimizer, breaking, run=tmp_path)
    steps(model, optimizer, monitor, batch, loss_fn, 60)
    broken.append(True)
    forecasts = steps(model, optimizer, monitor, batch, loss_fn, 400)
    monitor.close()
    failed = min(one["step"] for one in read_run(tmp_path).records["event"] if one["name"] == "probe failed")
    assert {forecast.state for forecast in forecasts[failed - 60 :]} <= {"unknown"}


def test_a_forecast_expires_between_two_readings_too():
    model, batch, loss_fn = regression()
    optimizer = optim.Adam(model.parameters(), lr=1e-4)
    monitor = Monitor(model, optimizer, loss_fn, log_every=1000)
    forecasts = steps(model, optimizer, monitor, batch, loss_fn, 500)
    assert forecasts[60].state != "unknown"
    assert forecasts[-1].state == "unknown"
    assert "the last measurement was" in forecasts[-1].basis


def test_what_a_callback_raises_costs_the_log_no_step(tmp_path):
    model, batch, loss_fn = regression()
    optimizer = optim.Adam(model.parameters(), lr=1e-3)

    def stop(alarm):
        raise KeyError(alarm.reason)

    monitor = Monitor(model, optimizer, loss_fn, run=tmp_path, on_alarm=stop)
    steps(model, optimizer, monitor, batch, loss_fn, 55)

    def fail():
        for _ in range(20):
            monitor.observe(batch, torch.tensor(math.nan))

    with pytest.raises(KeyError, match="the loss is nan"):
        fail()
    steps(model, optimizer, monitor, batch, loss_fn, 30)
    monitor.state_dict()
    monitor.close()
    logged = read_run(tmp_path).steps("step").tolist()
    assert logged == list(range(len(logged)))

    def interrupted():
        with Monitor(model, optimizer, loss_fn, on_alarm=stop) as ended:
            steps(model, optimizer, ended, batch, loss_fn, 3)
            ended.observe(batch, torch.tensor(math.nan))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()


def test_batches_without_tensors_are_said_to_leave_the_state_unknown(tmp_path, caplog):
    model, batch, loss_fn = regression()
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    with Monitor(model, optimizer, lambda net, _: loss_fn(net, batch), run=tmp_path) as monitor:
        for _ in range(30):
            optimizer.zero_grad()
            loss = loss_fn(model, batch)
            loss.backward()
            monitor.observe(None, loss)
            optimizer.step()
    [event] = [one for one in read_run(tmp_path).records["event"] if one["name"] == "batch unknown"]
    assert "pass full_batch=True or False" in event["message"]
    monitor.observe(None, loss)
    assert "the monitor was closed" in caplog.text


def test_a_loss_that_fails_between_two_readings_is_an_alarm_of_its_step(tmp_path):
    model, batch, loss_fn = regression()
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    given = []
    monitor = Monitor(model, optimizer, loss_fn, run=tmp_path, on_alarm=given.append)
    steps(model, optimizer, monitor, batch, loss_fn, 63)
    for _ in range(20):
        monitor.observe(batch, torch.tensor(math.nan))
    monitor.close()
    assert [(alarm.step, alarm.level) for alarm in given] == [(63, "alarm")]
    assert monitor.forecast.state == "unknown"
    assert "the loss is nan" in monitor.forecast.basis


def test_a_resumed_monitor_continues_the_same_forecast(tmp_path, caplog):
    model, batch, loss_fn = regression()
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    monitor = Monitor(model, optimizer, loss_fn, run=tmp_path, probe_every=1)
    steps(model, optimizer, monitor, batch, loss_fn, 10)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), monitor.state_dict()))
    [expected] = steps(model, optimizer, monitor, batch, loss_fn, 1)
    monitor.close()
    again, _, _ = regression()
    again.load_state_dict(saved[0])
    second = optim.Adam(again.parameters(), lr=1e-3)
    second.load_state_dict(saved[1])
    resumed = Monitor(again, second, loss_fn, run=tmp_path, probe_every=1, full_batch=True)
    resumed.load_state_dict(saved[2])
    [forecast] = steps(again, second, resumed, batch, loss_fn, 1)
    assert forecast == expected
    assert read_run(tmp_path).steps("step").tolist() == list(range(11))
    other = nn.Linear(2, 1)
    smaller = Monitor(other, optim.Adam(other.parameters()), loss_fn)
    smaller.load_state_dict(saved[2])
    assert "the vectors of the last probes were dropped" in caplog.text


@pytest.mark.parametrize("loaded", [True, False])
def test_a_resume_without_the_optimizers_state_is_an_event(loaded, tmp_path):
    model, batch, loss_fn = regression()
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    monitor = Monitor(model, optimizer, loss_fn, run=tmp_path)
    steps(model, optimizer, monitor, batch, loss_fn, 60)
    saved = copy.deepcopy((optimizer.state_dict(), monitor.state_dict()))
    monitor.close()
    again = optim.Adam(model.parameters(), lr=1e-3)
    resumed = Monitor(model, again, loss_fn, run=tmp_path)
    resumed.load_state_dict(saved[1])
    if loaded:
        again.load_state_dict(saved[0])
    steps(model, again, resumed, batch, loss_fn, 20)
    resumed.close()
    events = [one for one in read_run(tmp_path).records["event"] if one["name"] == "misuse: cold resume"]
    assert [one["step"] for one in events] == ([] if loaded else [60])
    assert all("begins at update 1, and the run was at" in one["message"] for one in events)


def test_a_guard_that_never_acted_is_told_in_the_report(tmp_path):
    model, batch, loss_fn = regression()
    optimizer = optim.Adam(model.parameters(), lr=1e-6)
    with Monitor(model, optimizer, loss_fn, run=tmp_path, guard="auto", probe_every=5) as monitor:
        steps(model, optimizer, monitor, batch, loss_fn, 12)
    assert summarise(read_run(tmp_path)).guard == ("auto", 0)


def test_a_resumed_monitor_knows_that_batches_differ(tmp_path):
    saved = None
    for part in ("first", "second"):
        model, batch, loss_fn = regression()
        optimizer = optim.Adam(model.parameters(), lr=1e-3)
        monitor = Monitor(model, optimizer, loss_fn, run=tmp_path / part, probe_every=1)
        if saved is not None:
            monitor.load_state_dict(saved)
        for _ in range(3):
            optimizer.zero_grad()
            loss = loss_fn(model, batch)
            loss.backward()
            monitor.observe(tuple(torch.randn_like(tensor) for tensor in batch), loss)
            optimizer.step()
        saved = monitor.state_dict()
    assert read_run(tmp_path / "first").steps("noise").tolist() == [1, 2]
    assert read_run(tmp_path / "second").steps("noise").tolist() == [3, 4, 5]


BAD_LOSS_FUNCTIONS = {
    "vector": (lambda model, batch: (model(batch[0]) - batch[1]).square(), "add .mean()"),
    "number": (lambda model, batch: 1.0, "returned float"),
    "detached": (lambda model, batch: model(batch[0]).mean().detach(), "require a gradient"),
    "foreign": (lambda model, batch: torch.ones(1, requires_grad=True).sum(), "does not depend"),
    "failing": (lambda model, batch: model(batch["x"]), "TypeError"),
    "nan": (lambda model, batch: model(batch[0]).mean() * math.nan, "probed batch is nan"),
}


@pytest.mark.parametrize("name", BAD_LOSS_FUNCTIONS)
def test_a_wrong_loss_function_is_an_event_and_training_goes_on(name, tmp_path, caplog):
    model, batch, loss_fn = regression()
    untouched = copy.deepcopy(model)
    wrong, message = BAD_LOSS_FUNCTIONS[name]
    for trained, watch in ((model, True), (untouched, False)):
        optimizer = optim.Adam(trained.parameters())
        given = wrong if watch else None
        monitor = Monitor(trained, optimizer, given, run=tmp_path / str(watch), probe_every=1)
        forecasts = steps(trained, optimizer, monitor, batch, loss_fn, 6)
        if watch:
            assert message in forecasts[-1].basis
            assert forecasts[-1].state == "unknown"
    for one, other in zip(model.parameters(), untouched.parameters(), strict=True):
        assert torch.equal(one, other)
    events = read_run(tmp_path / "True").records["event"]
    names = [event["name"] for event in events]
    assert [name for name in names if not name.startswith("misuse: ")] == ["probe failed"] * 3
    assert "no more probes" in events[-1]["message"]
    assert message in caplog.text


def test_probes_that_fail_leave_no_forecast_of_mini_batches_either(tmp_path):
    model, (x, y), loss_fn = regression()
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    broken = []

    def breaking(net, batch):
        if broken:
            raise RuntimeError("out of memory")
        return loss_fn(net, batch)

    monitor = Monitor(model, optimizer, breaking, run=tmp_path, probe_every=1, full_batch=False)
    batches = [(x + 0.01 * step, y) for step in range(12)]
    for step, batch in enumerate(batches):
        if step == 6:
            broken.append(step)
        [forecast] = steps(model, optimizer, monitor, batch, loss_fn, 1)
        assert math.isfinite(forecast.typical_mean_square_ratio) == (2 <= step < 6), forecast
    assert "out of memory (3 failures in a row: no more probes in this run)" in forecast.basis
    events = read_run(tmp_path).records["event"]
    assert [event["step"] for event in events if event["name"] == "probe failed"] == [6, 7, 8]


def test_a_warning_filter_that_raises_does_not_break_training(tmp_path):
    """The monitor logs and never warns: under -W error a warning would end the run."""
    model, batch, loss_fn = regression()
    optimizer = optim.Adam(model.parameters())
    monitor = Monitor(model, optimizer, lambda model, batch: None, probe_every=1)
    assert len(steps(model, optimizer, monitor, batch, loss_fn, 5)) == 5


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_an_event(value, tmp_path):
    model, batch, loss_fn = regression()
    optimizer = optim.Adam(model.parameters())
    monitor = Monitor(model, optimizer, loss_fn, run=tmp_path, probe_every=1)
    steps(model, optimizer, monitor, batch, loss_fn, 3)
    forecast = monitor.observe(batch, torch.tensor(value))
    assert forecast.state == "unknown"
    run = read_run(tmp_path)
    assert run.records["event"][-1]["name"] == "non-finite loss"
    assert run.records["step"][-1]["loss"] == pytest.approx(value, nan_ok=True)


def test_a_warm_up_from_zero_starts_without_a_probe(tmp_path):
    model, batch, loss_fn = regression()
    optimizer = optim.Adam(model.parameters(), lr=1e-2)
    schedule = optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(step / 5, 1.0))
    monitor = Monitor(model, optimizer, loss_fn, run=tmp_path, probe_every=1)
    for _ in range(12):
        optimizer.zero_grad()
        loss = loss_fn(model, batch)
        loss.backward()
        forecast = monitor.observe(batch, loss)
        optimizer.step()
        schedule.step()
    run = read_run(tmp_path)
    assert "every learning rate is 0" in run.records["event"][0]["message"]
    assert run.steps("curvature")[0] == 1
    assert forecast.state != "unknown"


def test_a_full_disk_ends_the_log_and_not_the_training(tmp_path, monkeypatch, caplog):
    model, batch, loss_fn = regression()
    optimizer = optim.Adam(model.parameters())
    monitor = Monitor(model, optimizer, loss_fn, run=tmp_path, probe_every=1)
    steps(model, optimizer, monitor, batch, loss_fn, 2)

    def full(descriptor, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", full)
    with caplog.at_level(logging.WARNING):
        assert len(steps(model, optimizer, monitor, batch, loss_fn, 5)) == 5
    assert "No space left" in caplog.text


def strange_optimizer(model):
    return optim.Adam([nn.Parameter(torch.ones(2)), *model.parameters()])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda model: Monitor(model, optim.LBFGS(model.parameters())), TypeError, "LBFGS"),
        (lambda model: Monitor(model, strange_optimizer(model)), ValueError, "1 of the optimizer's 7"),
        (lambda model: Monitor(model, optim.Adam(model.parameters()), 3), TypeError, "loss_fn is 3"),
        (
            lambda model: Monitor(model, optim.Adam(model.parameters()), budget=5),
            ValueError,
            "one pass in twenty steps",
        ),
        (
            lambda model: Monitor(model, optim.Adam(model.parameters()), log_every=0),
            ValueError,
            "log_every is 0",
        ),
        (
            lambda model: Monitor(model, optim.Adam(model.parameters()), run="/dev/null/run"),
            OSError,
            "run folder can't be written",
        ),
        (
            lambda model: Monitor(model.requires_grad_(False), optim.Adam(model.parameters())),
            ValueError,
            "no parameter that requires a gradient",
        ),
    ],
)
def test_what_can_not_be_monitored_is_refused_before_training(make, error, message):
    with pytest.raises(error, match=message):
        make(regression()[0])


def test_a_monitor_that_is_refused_leaves_no_guard_of_its_own_behind():
    model, _, _ = regression()
    optimizer = optim.Adam(model.parameters())
    with pytest.raises(OSError, match="run folder can't be written"):
        Monitor(model, optimizer, run="/dev/null/run", guard="auto")
    watched = guard(optimizer, "secant")
    with pytest.raises(OSError, match="run folder can't be written"):
        Monitor(model, optimizer, run="/dev/null/run", guard=watched)
    with pytest.raises(ValueError, match="has a guard already"):
        guard(optimizer, "secant")


def test_observe_refuses_a_loss_that_is_no_scalar():
    model, batch, _ = regression()
    monitor = Monitor(model, optim.Adam(model.parameters()))
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        monitor.observe(batch, torch.ones(3))


def test_two_optimizers_are_watched_as_one(tmp_path):
    model, batch, loss_fn = regression()
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    optimizers = [optim.Muon(matrices, lr=0.01), optim.AdamW(vectors, lr=0.01)]
    with Monitor(model, optimizers, loss_fn, run=tmp_path, probe_every=1) as monitor:
        for _ in range(4):
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss = loss_fn(model, batch)
            loss.backward()
            monitor.observe(batch, loss)
            for optimizer in optimizers:
                optimizer.step()
    run = read_run(tmp_path)
    assert run.meta["optimizer"] == "Muon + AdamW"
    assert run.column("curvature", "coverage") == pytest.approx(22 / 172)
    expected = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
    assert run.column("step", "gradient_norm")[-1] == pytest.approx(expected, rel=1e-5)


def test_an_accumulation_is_probed_as_the_whole_batch(tmp_path):
    model, (x, y), loss_fn = regression(torch.float64)
    parts = [(x[:7], y[:7]), (x[7:9], y[7:9]), (x[9:], y[9:])]
    for name, given in (("whole", (x, y)), ("parts", MicroBatches(parts))):
        trained = copy.deepcopy(model)
        optimizer = optim.Adam(trained.parameters(), lr=0.01)
        with Monitor(trained, optimizer, loss_fn, run=tmp_path / name, probe_every=1) as monitor:
            for _ in range(3):
                optimizer.zero_grad()
                loss = sum(loss_fn(trained, part) * len(part[0]) / len(x) for part in parts)
                loss.backward()
                monitor.observe(given, loss)
                optimizer.step()
    one, other = (read_run(tmp_path / name) for name in ("whole", "parts"))
    for column in ("stability_ratio", "gradient_stability_ratio", "predicted_loss_change"):
        assert one.column("curvature", column) == pytest.approx(other.column("curvature", column), rel=1e-8)


def test_scaled_gradients_give_the_same_readings(tmp_path):
    model, batch, loss_fn = regression(torch.float64)
    for name, scale in (("plain", 1.0), ("scaled", 1024.0)):
        trained = copy.deepcopy(model)
        optimizer = optim.AdamW(trained.parameters(), lr=0.01)
        with Monitor(trained, optimizer, loss_fn, run=tmp_path / name, probe_every=1) as monitor:
            for _ in range(3):
                optimizer.zero_grad()
                loss = loss_fn(trained, batch)
                (loss * scale).backward()
                monitor.observe(batch, loss, gradient_scale=scale)
                for p in trained.parameters():
                    p.grad /= scale
                optimizer.step()
    one, other = (read_run(tmp_path / name) for name in ("plain", "scaled"))
    for kind, column in (
        ("curvature", "stability_ratio"),
        ("step", "gradient_norm"),
        ("step", "instant_lag"),
    ):
        assert one.column(kind, column) == pytest.approx(other.column(kind, column), rel=1e-9)


def test_the_log_names_the_modules_of_the_top_eigenvector(tmp_path):
    model, batch, loss_fn = regression()
    optimizer = optim.Adam(model.parameters())
    with Monitor(model, optimizer, loss_fn, run=tmp_path, probe_every=1) as monitor:
        steps(model, optimizer, monitor, batch, loss_fn, 1)
    [reading] = read_run(tmp_path).records["curvature"]
    assert {block["name"] for block in reading["blocks"]} == {"0", "2", "4"}
    assert sum(block["share"] for block in reading["blocks"]) == pytest.approx(1.0, rel=1e-5)


def test_a_guard_goes_on_in_a_resumed_run_and_several_optimizers_have_none(tmp_path):
    model, batch, loss_fn = regression()
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    monitor = Monitor(model, optimizer, loss_fn, guard="auto")
    steps(model, optimizer, monitor, batch, loss_fn, 10)
    again, _, _ = regression()
    second = optim.Adam(again.parameters(), lr=1e-3)
    second.load_state_dict(optimizer.state_dict())
    resumed = Monitor(again, second, loss_fn, guard="auto")
    resumed.load_state_dict(monitor.state_dict())
    assert resumed.guard.step == 10
    assert resumed.guard.lag == monitor.guard.lag
    without = Monitor(again, second, loss_fn)
    without.load_state_dict(monitor.state_dict())
    assert without.guard is None
    halves = list(model.parameters())
    pair = [optim.Adam(halves[:2], lr=1e-3), optim.Adam(halves[2:], lr=1e-3)]
    with pytest.raises(ValueError, match="2 optimizers"):
        Monitor(model, pair, loss_fn, guard="secant")
    with pytest.raises(ValueError, match="one of another optimizer"):
        Monitor(again, second, loss_fn, guard=monitor.guard)


def test_inside_the_capture_of_a_graph_nothing_is_read_and_it_is_said(tmp_path, monkeypatch):
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.Adam(model.parameters())
    with Monitor(model, optimizer, run=tmp_path) as monitor:
        model(torch.ones(2, 3)).sum().backward()
        monkeypatch.setattr("foreshock.monitor.monitor._is_captured", lambda: True)
        for _ in range(3):
            forecast = monitor.observe(torch.ones(2, 3), object())  # nothing of the loss is looked at
        assert forecast.state == "unknown"
    run = read_run(tmp_path)
    assert not run.records.get("step")
    [event] = [one for one in run.records["event"] if one["name"] == "misuse: captured"]
    assert "call observe and optimizer.step() after each replay" in event["message"]
