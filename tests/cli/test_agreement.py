"""What several commands say of one run: the same."""

from __future__ import annotations

import dataclasses
import json
import math
import re

import numpy as np
import pytest
from typer.testing import CliRunner

from foreshock.cli.app import app
from foreshock.live.analysis import Analysed
from foreshock.live.marks import explanation, marks
from foreshock.live.run import LiveRun
from foreshock.live.status import NEEDED, status_of
from foreshock.live.views import details
from foreshock.report import summarise
from foreshock.runlog import RunLogWriter, read_run
from foreshock.spikes.scoring import announced_at, signs
from live_logs import calm, forecast


def write(folder, rows, **meta):
    log = RunLogWriter(folder, meta=meta)
    log.write_many(rows)
    log.close()
    return folder


def run(*arguments, columns=None):
    env = {"COLUMNS": str(columns)} if columns else None
    found = CliRunner().invoke(app, list(map(str, arguments)), env=env)
    assert found.exit_code == 0, found.output
    return found.stdout


def alarm(step, level="alarm"):
    return ("alarm", {"step": step, "level": level, "reason": "why", "forecast": forecast(step)[1]})


def announced(folder, on, *, spike=400, every=10):
    """Write a run that spikes at a step; its forecasts are an alarm where `on` says so."""
    rows = calm(0, spike + 300)
    for step in range(spike, spike + 30):
        rows[step][1]["loss"] = 8.0
    steps = range(0, spike + 300, every)
    rows += [
        forecast(step, probability=0.8 if on(step) else 0.05, level="alarm" if on(step) else "")
        for step in steps
    ]
    begins = [step for step in steps if on(step) and not on(step - every)]
    return write(folder, [*rows, *map(alarm, begins)])


CASES = {
    # An alarm that ended, and another one for the spike: the first is no warning of it.
    "two": (lambda step: 230 <= step < 300 or 330 <= step < 420, 70),
    # Off for less than the gap that ends an episode: one alarm.
    "one": (lambda step: 230 <= step < 300 or 310 <= step < 420, 170),
    "long": (lambda step: 20 <= step < 420, 380),
    "over": (lambda step: 230 <= step < 300, None),
    "late": (lambda step: 400 <= step < 420, 0),
}


@pytest.mark.parametrize("name", list(CASES))
def test_the_warning_of_a_spike_is_one_number_wherever_it_is_said(name, tmp_path):
    on, lead = CASES[name]
    folder = announced(tmp_path / "run", on)
    [outcome] = summarise(read_run(folder)).outcomes
    assert outcome.lead == lead

    followed = LiveRun(folder / "rank0.jsonl", name="run")
    followed.read_whole()
    followed.scan_whole()
    [event] = followed.events
    assert followed.lead_of(event) == lead
    assert json.loads(run("status", folder, "--json"))["result"]["lead"] == lead

    explained = json.loads(run("explain", folder, "--json"))["result"]
    begins = [signal["lead"] for signal in explained[0]["signals"] if signal["words"] == "alarm begins"]
    assert begins == ([] if lead is None else [lead])

    words = {None: "not announced", 0: "announced at its onset"}.get(lead, f"announced {lead} steps ahead")
    report = run("report", folder, "--text")
    assert words.removeprefix("announced ") in report
    page = Analysed(read_run(folder), summarise(read_run(folder)), 0, 0)
    [mark] = marks(followed, page)["spikes"]
    assert mark["announced"] == (None if lead is None else 400 - lead)
    facts = dict(explanation(followed, page, mark["key"])["facts"])
    assert facts["Announced"] == ("missed" if lead is None else words.removeprefix("announced "))


def test_the_verdict_says_the_warning_of_the_report(tmp_path):
    on, _ = CASES["two"]
    rows = 700
    folder = announced(tmp_path / "run", on, spike=400)
    text = (folder / "rank0.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in text if (json.loads(line).get("step") or 0) < rows - 200]
    (folder / "rank0.jsonl").write_text("".join(kept))
    assert "announced 70 steps ahead" in run("status", folder)
    assert "announced, 70 steps ahead" in run("report", folder, "--text")


def test_a_spike_ends_what_was_announced_for_it():
    steps = np.arange(0, 200, 10)
    on = signs(["stable"] * 20, ["alarm" if step >= 20 else "" for step in steps])
    assert announced_at(150, steps, on) == 20
    assert announced_at(150, steps, on, after=95) == 100
    assert announced_at(150, steps, on, after=160) is None


def test_a_spike_that_goes_on_keeps_what_was_before_it():
    steps = np.arange(0, 60, 10)
    states = ["stable", "edge", "spike", "stable", "spike", "spike"]
    assert announced_at(20, steps, signs(states, [None] * 6)) == 10
    assert announced_at(50, steps, signs(states, [None] * 6), gap=20) is None


UNREAD = "2 lines of the log could not be read and were left out."


@pytest.fixture
def torn(tmp_path):
    """A folder with two runs, in one of which a line is odd and another one torn."""
    write(tmp_path / "whole", calm(0, 300))
    folder = announced(tmp_path / "torn", CASES["two"][0])
    with (folder / "rank0.jsonl").open("a") as file:
        file.write('{"kind":"step","step":"odd"}\n{"kind":"step","st')
    return folder


@pytest.mark.parametrize("command", ["status", "explain", "report --text", "report --format md", "runs"])
def test_lines_that_could_not_be_read_are_said_in_the_same_words(command, torn):
    place = torn.parent if command == "runs" else torn
    said = run(*command.split(), place)
    assert said.count(UNREAD) == 1
    assert "could not be read" not in run(*command.split(), torn.parent / "whole")


def test_lines_that_could_not_be_read_are_counted_in_json_and_shown_on_the_page(torn):
    assert json.loads(run("status", torn, "--json"))["result"]["skipped"] == 2
    assert json.loads(run("report", torn, "--json"))["result"][0]["summary"]["skipped"] == 2
    found = CliRunner().invoke(app, ["explain", str(torn), "--json"])
    assert len(json.loads(found.stdout)["result"]) == 1
    assert UNREAD in found.stderr
    compared = CliRunner().invoke(app, ["compare", str(torn), str(torn.parent / "whole")])
    assert f"torn: {UNREAD}" in compared.stderr
    followed = LiveRun(torn / "rank0.jsonl", name="torn")
    followed.read_whole()
    followed.scan_whole()
    followed.look()
    snapshot = followed.snapshot()
    assert UNREAD in details(followed, Analysed(snapshot, summarise(snapshot), 0, 0))["notes"]


@pytest.mark.parametrize("lost", ["null", "absent"])
def test_a_run_without_losses_is_never_calm(lost, tmp_path):
    rows = calm(0, 300) if lost == "null" else []
    for _, row in rows:
        row["loss"] = None
    rows += [forecast(step, probability=0.05) for step in range(0, 300, 10)]
    folder = write(tmp_path / "run", [*rows, alarm(200), alarm(220, "watch")])
    found = json.loads(run("status", folder, "--json"))["result"]
    assert (found["state"], found["alarms"], found["last_alarm"]) == ("unknown", 1, 200)
    said = run("status", folder)
    assert "no losses were recorded" in said
    assert "NaN" not in said.replace("diverged, NaN", "")
    assert "lowest" not in said


def test_a_loss_that_is_nan_is_not_a_loss_that_is_not_known(tmp_path):
    rows = calm(0, 300)
    for _, row in rows[-20:]:
        row["loss"] = math.nan
    said = run("status", write(tmp_path / "run", rows))
    assert "NaN (lowest 0.99)" in said


@pytest.mark.parametrize("loss", [1.0, -1.0])
def test_a_status_that_reads_a_few_columns_is_that_of_all(loss, tmp_path):
    rows = calm(0, 5000, loss=loss)
    for step in range(900, 930):
        rows[step][1]["loss"] = 8.0
    rows[700][1]["gradient_norm"] = math.nan  # a line that has another form
    rows += [forecast(step, probability=0.1) for step in range(0, 5000, 10)]
    path = write(tmp_path / "run", rows) / "rank0.jsonl"
    found = []
    for only in (NEEDED, None):
        followed = LiveRun(path, name="run", only=only)
        followed.read_whole()
        followed.scan_whole()
        found.append((status_of(followed), followed.events))
    few, every = (dataclasses.replace(one, idle_seconds=0.0) for one, _ in found)
    assert repr(few) == repr(every)
    assert found[0][1] == found[1][1]
    assert (few.step, few.spikes, few.last_spike) == (4999, 1, 900)
    # It saves what it is for: what is not needed is not kept.
    assert np.isnan(column_of(path, NEEDED, "learning_rate")).sum() > 1000
    assert np.isfinite(column_of(path, None, "learning_rate")).all()


def column_of(path, only, name):
    followed = LiveRun(path, name="run", only=only)
    followed.read_whole()
    return followed.curves["step"].column(name)


def test_a_narrow_terminal_gets_no_line_of_a_table_that_is_wider(tmp_path):
    folder = announced(tmp_path / "run", CASES["two"][0])
    narrow = run("report", folder, "--text", columns=40)
    assert "  Announced: 70 steps ahead" in narrow
    assert "Announced" in run("report", folder, "--text").split("Spikes\n")[1].splitlines()[0]
    listed = run("runs", tmp_path, columns=40)
    assert {"Step", "Spikes"} <= set(listed.splitlines()[1].split())
    assert max(map(len, listed.splitlines())) <= 40


def test_a_probability_that_is_none_is_not_known(tmp_path):
    rows = [*calm(0, 300), forecast(290, probability=7.0)]
    folder = write(tmp_path / "run", rows)
    assert json.loads(run("status", folder, "--json"))["result"]["probability"] is None
    assert re.search(r"spike ahead +not known", run("status", folder))
