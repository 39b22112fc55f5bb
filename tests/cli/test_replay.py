"""`foreshock replay` and `foreshock advise` on a run that a user's script made."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from foreshock.cli.advise import _print
from foreshock.cli.app import app
from foreshock.cli.console import make_console
from foreshock.cli.replay import agreement
from foreshock.replay import Departure, ReplayOutcome
from foreshock.replay.advice import Advice, Candidate, Trial

SCRIPT = """
import pathlib
import torch
from torch.nn import functional
import foreshock
from foreshock.recorder import Recorder, write_snapshot
from foreshock.replay import Loop

def loss_fn(model, batch):
    return functional.mse_loss(model(batch[0]), batch[1])

def build():
    torch.manual_seed(0)
    nn = torch.nn
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, 1))
    return Loop(model, loss_fn, torch.optim.Adam(model.parameters(), lr=1e-3), clip=1.0)

def triple():
    loop = build()
    return loop.model, loss_fn, loop.optimizer

def batches():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, 4, generator=generator)
    while True:
        pick = torch.randperm(64, generator=generator)[:16]
        yield x[pick], x[pick].sum(1, keepdim=True)

def shuffled_otherwise():
    generator = torch.Generator().manual_seed(2)
    while True:
        yield torch.randn(16, 4, generator=generator), torch.randn(16, 1, generator=generator)

def shouting():
    print("made")
    return build()

def shouting_batches():
    for batch in batches():
        print("a batch")
        yield batch


def short():
    for step, batch in zip(range(SHORT), batches()):
        yield batch

SHORT = 111

def to_the_end():
    return [batch for step, batch in zip(range(160), batches())]

def three():
    return [next(batches())] * 3

def train(steps=160, bad=120):
    loop = build()
    recorder = Recorder(every=10)
    given = loop.model, loop.optimizer, loss_fn
    monitor = foreshock.Monitor(*given, run="run", recorder=recorder, full_batch=False)
    for step, batch in zip(range(steps), batches()):
        loss = loop.backward(batch)
        monitor.observe(batch, loss)
        loop.update()
        if step == 110:
            write_snapshot(recorder.newest(), pathlib.Path("run/snapshots"), reason="by hand")
        if step == bad:  # so large a step that no rule misses it
            with torch.no_grad():
                for p in loop.model.parameters():
                    p.mul_(100)
    monitor.close()

if __name__ == "__main__":
    train()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The working folder of a user whose run failed at step 121, with its log and snapshots."""
    place = tmp_path_factory.mktemp("user")
    (place / "training_to_replay.py").write_text(SCRIPT)
    subprocess.run(
        [sys.executable, "-W", "error", "training_to_replay.py"], cwd=place, check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return place


@pytest.fixture
def command(folder, monkeypatch):
    """Run a command in that folder as the user would."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("COLUMNS", "120")

    def run(name, *options, model="build", data="batches"):
        named = [f"--model=training_to_replay:{model}", f"--data=training_to_replay:{data}"]
        found = CliRunner().invoke(app, [name, "run", *named, "--jobs=1", "--threads=1", *options])
        assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
        return found

    yield run
    sys.modules.pop("training_to_replay", None)


def test_the_window_comes_to_what_was_recorded(command):
    found = command("replay", "--from=110", "--steps=8")
    assert found.exit_code == 0, found.output
    assert "bit by bit the recorded loss" in found.output


def test_with_changes_there_is_a_line_for_each_and_a_picture(command, folder):
    found = command(
        "replay", "--from=110", "--steps=60", "--set=lr=x0.5", "--set=guard=on clip=0.5", "-o", "changes.svg"
    )
    assert found.exit_code == 3, found.output
    assert "departs from the log at step 121" in found.output, "the accident at step 120 is not in the loop"
    for words in ("unchanged", "lr=x0.5", "clip=0.5 guard=on", "Loss +50"):
        assert words in found.output
    assert "<svg" in (folder / "changes.svg").read_text()


def test_explain_says_that_an_accident_that_is_not_in_the_loop_does_not_come_again(command):
    found = command("explain", "--step=121", "--from=110")
    assert found.exit_code == 0, found.output
    assert "Tested by training again from step 110:" in found.output
    assert "it does not come: nothing can be tested: the loss of step 121 was" in found.output


def test_explain_as_json_has_what_the_replays_found(command):
    found = command("explain", "--step=121", "--json")
    [event] = json.loads(found.stdout)["result"]
    assert event["onset"] == 121
    assert event["examination"]["repeats"] is False


def test_explain_tests_one_event_and_needs_both_names(folder, monkeypatch):
    monkeypatch.chdir(folder)
    half = CliRunner().invoke(app, ["explain", "run", "--model=training_to_replay:build"])
    assert half.exit_code == 1
    assert "only one of --model and --data was passed" in half.output


def test_json_has_the_outcomes(command):
    found = command("replay", "--from=110", "--steps=8", "--set=lr=1e30", "--json")
    data = json.loads(found.output)["result"]
    assert [one["change"] for one in data["outcomes"]] == ["unchanged", "lr=1e+30"]
    assert data["outcomes"][0]["departure"] is None
    assert data["outcomes"][1]["last_loss"] == "Infinity"


def test_other_data_are_called_so(command):
    found = command("replay", "--from=110", "--steps=8", data="shuffled_otherwise")
    assert found.exit_code == 3
    assert "other data" in found.output


def test_a_factory_without_its_clipping_departs(command):
    found = command("replay", "--from=110", "--steps=8", model="triple")
    assert found.exit_code == 3
    assert "it departs from the log at step" in found.output


@pytest.mark.parametrize(
    ("options", "model", "data", "words"),
    [
        (["--from=1"], "build", "batches", "there are those of steps"),
        (["--set=speed=3"], "build", "batches", "'speed=3' is no change"),
        ([], "loss_fn", "batches", "is called without arguments"),
        ([], "build", "nothing_there", "has no 'nothing_there'"),
        ([], "build", "three", "there are 3 batches"),
    ],
)
def test_what_can_not_be_done_is_one_line(command, options, model, data, words):
    found = command("replay", *options, model=model, data=data)
    assert found.exit_code == 1
    assert words in found.output
    assert "Traceback" not in found.output


def test_a_run_without_snapshots_says_how_to_have_some(command, folder):
    log = next(folder.glob("run/**/rank0.jsonl"))
    (folder / "bare").mkdir(exist_ok=True)
    (folder / "bare" / "rank0.jsonl").write_bytes(log.read_bytes())
    found = CliRunner().invoke(
        app, ["replay", "bare", "--model=training_to_replay:build", "--data=training_to_replay:batches"]
    )
    assert found.exit_code == 1
    assert "recorder=Recorder()" in found.output


def test_advice_where_there_is_nothing_to_remove(command):
    """Without the accident, which no setting caused, the window has no spike."""
    found = command("advise", "--from=110", "--steps=100", "--repeats=2")
    assert found.exit_code == 4, found.output
    assert "there is nothing to remove" in found.output
    assert "guard=on" not in found.output, "nothing was tried in vain"


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_the_users_code_prints_is_no_part_of_the_result(folder, jobs):
    named = ["--model=training_to_replay:shouting", "--data=training_to_replay:shouting_batches"]
    options = ["--from=110", "--steps=3", "--set=lr=x0.5", f"--jobs={jobs}", "--threads=1", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "foreshock", "replay", "run", *named, *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert json.loads(done.stdout)["command"] == "replay"
    assert "a batch" in done.stderr


def test_data_that_end_at_the_snapshot_leave_nothing_to_try(command):
    found = command("advise", "--from=110", "--steps=100", "--repeats=1", data="short")
    assert found.exit_code == 1
    assert "there is no step to try: the batches end before step 111" in found.output


def test_a_window_that_the_run_ends_is_said_to_be_shorter(command):
    found = command("advise", "--from=110", "--steps=100", "--repeats=1", "--no-whole", data="to_the_end")
    assert "The window has 49 steps and not 100: the run ends there." in found.output
    assert "the batches end" not in found.output
    found = command("replay", "--from=110", "--steps=100", "--set=lr=x0.5", data="to_the_end")
    assert "unchanged, lr=x0.5: the batches end before step 160." in found.output


def test_one_start_and_one_spike_are_not_several(capsys):
    trial = Trial(Candidate("lr=x0.5", 1, "half the rate"), "no help", (1,), 9.0, 80, 1.0, 0.5)
    _print(make_console(), Advice(None, (trial,), (1,), 184))
    assert "184 steps, 1 start; as it was: 1 spike" in (said := capsys.readouterr().out)
    assert "1 spikes" not in said


def test_a_damaged_snapshot_is_passed_over(command, folder, caplog):
    for step in (115, 116):
        copy = shutil.copytree(
            folder / "run/snapshots/rank0-step00000110", folder / f"run/snapshots/rank0-step00000{step}"
        )
        (copy / "tensors.safetensors").write_bytes(b"torn")
    try:
        found = command("replay", "--from=116", "--steps=3", "--json")
        assert found.exit_code == 0
        assert json.loads(found.stdout)["result"]["snapshot"].endswith("step00000110")
        assert caplog.text.count("is damaged") == 2
    finally:
        for step in (115, 116):
            shutil.rmtree(folder / f"run/snapshots/rank0-step00000{step}")


def test_two_processes_come_to_the_same(command):
    one = command("replay", "--from=110", "--steps=8", "--set=lr=x0.5", "--json")
    two = command("replay", "--from=110", "--steps=8", "--set=lr=x0.5", "--json", "--jobs=2")
    first, second = (json.loads(found.output)["result"]["outcomes"] for found in (one, two))
    assert [part | {"seconds": 0} for part in first] == [part | {"seconds": 0} for part in second]


REWOUND = """
import math, pathlib
import foreshock
from foreshock.recorder import Recorder, write_snapshot
from training_to_replay import batches, build, loss_fn

loop, recorder = build(), Recorder(every=5)
ladder = foreshock.Ladder(("lower rate",), rate_factor=0.25)
given = loop.model, loop.optimizer, loss_fn
monitor = foreshock.Monitor(*given, run="rewound", recorder=recorder, recovery=ladder)
for step, batch in zip(range(130), batches()):
    loss = loop.backward(batch)
    if step == 60:  # a gradient that is no number, of an accident
        loss = loss * math.nan
        for p in loop.model.parameters():
            p.grad.mul_(math.nan)
    monitor.observe(batch, loss)
    loop.update()
    if step in (55, 95):
        write_snapshot(recorder.newest(), pathlib.Path("rewound/snapshots"), reason="by hand")
monitor.close()
"""


def test_a_replay_after_a_rewind_has_the_rate_that_it_lowered(folder, command):
    (folder / "rewound.py").write_text(REWOUND)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "rewound.py"], cwd=folder, check=True, env=environment)
    named = ["--model=training_to_replay:build", "--data=training_to_replay:batches", "--jobs=1"]
    found = CliRunner().invoke(app, ["replay", "rewound", *named, "--threads=1", "--from=95", "--steps=20"])
    assert found.exit_code == 0, found.output
    assert "bit by bit the recorded loss, on 20 steps" in found.output


def test_a_departure_after_a_rewind_is_called_so():
    losses = (1.0,) * 30
    outcome = ReplayOutcome("unchanged", 55, losses, (), Departure(71, 2.0, 1.0), 16)
    words = agreement(outcome, [(20, 10, 1.0), (70, 55, 0.25)])
    assert "was brought back at step 70 to step 55" in words
    assert "compare up to it (--steps 15)" in words
    assert "was brought back" not in agreement(outcome, [(20, 10, 1.0), (80, 55, 0.25)])
