"""A wrong use of the monitor is found within a few probes and said once; a right one never."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn, optim

from cases import mean_squared_error
from foreshock.monitor import consistency
from foreshock.monitor.monitor import Monitor
from foreshock.preconditioner import as_optimizers
from foreshock.runlog import read_run
from monitor.loops import EVERY_STEP, FAILING, RIGHT, WRONG, Loop, mlp, plain, regression, sum_of_squares

GUIDE = Path(__file__).parents[2] / "docs/how-to/watch-a-run.md"
CASES = [(name, loop) for group in (WRONG, FAILING) for name, loops in group.items() for loop in loops]


def train(loop, folder, *, steps, seed=0):
    """Run a loop under a monitor; return the findings and the forecasts."""
    torch.manual_seed(seed)
    model = loop.model()
    made = loop.optimizer(list(model.parameters()))
    forecasts = []
    step = loop.step or plain
    with Monitor(model, made, loop.monitored or loop.loss_fn, run=folder, **loop.options) as monitor:

        def observe(*args, **options):
            forecasts.append(monitor.observe(*args, **options))

        for batch in loop.batches(steps):
            step(loop, model, as_optimizers(made), batch, observe)
    events = read_run(folder).records.get("event", [])
    assert not [event for event in events if event["name"] == "check failed"]
    return [event for event in events if event["name"].startswith("misuse: ")], forecasts


def described():
    """Return the findings of the guide: name → what their messages say, with … for what differs."""
    rows = re.findall(r"^\| `misuse: ([^`]+)` \| ([^|]+) \|", GUIDE.read_text("utf-8"), re.MULTILINE)
    return dict(rows)


def assert_says(message, text):
    pattern = ".+".join(re.escape(part) for part in text.replace("`", "").split("…"))
    assert re.search(pattern, message), message


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_use_is_not_reported(name, tmp_path, monkeypatch):
    monkeypatch.setattr(consistency, "_EVERY", 1)
    found, forecasts = train(RIGHT[name], tmp_path, steps=30)
    assert found == []
    assert {forecast.doubt for forecast in forecasts} == {""}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", RIGHT)
def test_a_right_use_is_never_reported(name, seed, tmp_path, monkeypatch):
    """With a check at every other step instead of at every twentieth probe."""
    monkeypatch.setattr(consistency, "_EVERY", 1)
    loop = RIGHT[name]
    often = replace(loop, options={**loop.options, "probe_every": 2} if loop.options else {})
    assert train(often, tmp_path, steps=200, seed=seed)[0] == []


@pytest.mark.parametrize(("name", "loop"), CASES, ids=[f"{name}-{i}" for i, (name, _) in enumerate(CASES)])
def test_a_wrong_use_is_said_once_within_a_few_probes(name, loop, tmp_path, caplog):
    found, forecasts = train(loop, tmp_path, steps=45)
    assert [event["name"] for event in found] == [f"misuse: {name}"]
    assert found[0]["step"] <= 35  # at the eighth probe, or the 36th; most at the second or third
    assert_says(found[0]["message"], described()[name])
    logged = [record for record in caplog.records if found[0]["message"] in record.getMessage()]
    assert 1 <= len(logged) <= 2  # a probe that fails three times is logged once more, when it is given up
    assert all(record.levelno == logging.WARNING for record in logged)
    if name not in FAILING:
        assert len(logged) == 1
        assert forecasts[-1].doubt == f"misuse: {name}, found at step {found[0]['step']}"
        assert forecasts[-1].basis.endswith(f"; doubtful: {forecasts[-1].doubt}")


def test_the_guide_describes_every_finding():
    # The last two are found without a probe: tests/monitor/test_monitor.py and test_observation.py have them.
    assert set(described()) == set(WRONG) | set(FAILING) | {"gradient_norm", "cold resume"}


def test_the_doubt_ends_once_the_mistake_is_mended(tmp_path):
    model = mlp()
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    batch = regression(torch.Generator().manual_seed(0))
    monitor = Monitor(model, optimizer, mean_squared_error, run=tmp_path, probe_every=1)
    doubts = []
    for step in range(80):
        optimizer.zero_grad()
        loss = (sum_of_squares if step < 5 else mean_squared_error)(model, batch)
        loss.backward()
        doubts.append(monitor.observe(batch, loss).doubt)
        optimizer.step()
    assert doubts[0] == "" == doubts[-1]
    assert doubts[2] == doubts[30] == "misuse: sum or mean, found at step 1"


def test_a_resumed_run_keeps_its_doubt():
    model = mlp()
    optimizer = optim.Adam(model.parameters())
    monitors = [Monitor(model, optimizer, mean_squared_error, probe_every=1) for _ in range(2)]
    monitors[0]._run.mark_doubtful("made up")
    monitors[1].load_state_dict(monitors[0].state_dict())
    assert monitors[1].forecast.doubt == "made up"


def test_a_check_that_fails_is_an_event_and_training_goes_on(tmp_path, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(consistency, "_inner_products", fail)
    torch.manual_seed(0)
    model = mlp()
    optimizer = optim.Adam(model.parameters())
    batch = regression(torch.Generator())
    with Monitor(model, optimizer, mean_squared_error, run=tmp_path, probe_every=1) as monitor:
        for _ in range(4):
            loss = mean_squared_error(model, batch)
            optimizer.zero_grad()
            loss.backward()
            forecast = monitor.observe(batch, loss)
            optimizer.step()
    events = read_run(tmp_path).records["event"]
    assert [e["message"] for e in events if e["name"] == "check failed"] == [
        "training could not be compared with its probes: RuntimeError: no such kernel"
    ]
    assert forecast.stability_ratio > 0


def test_no_gradient_of_a_probe_is_kept():
    model = mlp()
    optimizer = optim.Adam(model.parameters())
    batch = regression(torch.Generator())
    monitor = Monitor(model, optimizer, mean_squared_error, probe_every=1)
    loss = mean_squared_error(model, batch)
    loss.backward()
    monitor.observe(batch, loss)
    prober = monitor._probes._prober
    assert prober.take_evaluation() is None
    assert prober._memory.evaluation is None


@pytest.mark.parametrize(
    "loop", [RIGHT["dropout"], RIGHT["cnn with batch norm"], *WRONG["other batch or loss"]]
)
def test_what_is_checked_stays_bit_by_bit(loop):
    """Also where `loss_fn` is evaluated again: weights, buffers, gradients, modes, random numbers."""
    states = []
    for watched in (True, False):
        torch.manual_seed(0)
        model = loop.model()
        optimizer = loop.optimizer(list(model.parameters()))
        monitor = Monitor(model, optimizer, loop.monitored or loop.loss_fn, **EVERY_STEP)
        observe = monitor.observe if watched else lambda *args, **options: None
        for batch in loop.batches(6):
            (loop.step or plain)(loop, model, as_optimizers(optimizer), batch, observe)
        gradients = [parameter.grad for parameter in model.parameters()]
        states.append([*model.state_dict().values(), *gradients, torch.get_rng_state()])
        modes = [module.training for module in model.modules()]
        assert all(modes)
    assert all(torch.equal(one, other) for one, other in zip(*states, strict=True))


@pytest.mark.parametrize(
    ("batch", "loss", "error", "message"),
    [
        (torch.ones(4), torch.ones(4, 1), ValueError, r"a loss of shape \(4, 1\); pass the scalar"),
        (torch.ones(()), (torch.ones(4), 1), TypeError, "of type tuple.*observe\\(batch, loss\\)"),
        (torch.ones(()), torch.ones(4), ValueError, "observe\\(batch, loss\\)"),
        (torch.ones(4), None, TypeError, "of type NoneType; pass the scalar"),
    ],
)
def test_observe_refuses_what_is_no_loss(batch, loss, error, message):
    model = nn.Linear(1, 1)
    with pytest.raises(error, match=message):
        Monitor(model, optim.SGD(model.parameters(), lr=0.1)).observe(batch, loss)


def test_only_what_a_user_can_mend_is_a_misuse(tmp_path):
    def exhausted(model, batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    loop = Loop(monitored=exhausted, options=EVERY_STEP)
    assert train(loop, tmp_path, steps=5)[0] == []
