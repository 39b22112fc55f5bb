"""The journal: what is kept is written, what repeats takes two lines, ranks have files of their own."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import distributed

from foreshock.monitor import Monitor, StepObservation
from foreshock.monitor.journal import Journal, process_rank
from foreshock.report import summarise, to_text
from foreshock.runlog import read_run


def rows_of(folder, rank=0):
    return [json.loads(line) for line in (folder / f"rank{rank}.jsonl").read_text().splitlines()[1:]]


def observation(step, loss=1.0):
    return StepObservation(step, loss, 0.1, 1e-3, 2.0, 0.5, 0.01, 0.02)


def test_what_is_kept_is_written_at_once_and_in_order(tmp_path):
    journal = Journal(tmp_path)
    for step in range(3):
        journal.add("step", observation(step, loss=math.nan))
    assert (tmp_path / "rank0.jsonl").read_bytes() == b""
    journal.write("forecast", {"step": 2, "lag": math.inf})
    rows = rows_of(tmp_path)
    assert [(row["kind"], row["step"]) for row in rows] == [("step", s) for s in range(3)] + [("forecast", 2)]
    assert (rows[0]["loss"], rows[3]["lag"]) == ("NaN", "Infinity")
    assert rows[0] == {"kind": "step", **vars(observation(0)), "loss": "NaN"}


def test_what_is_kept_does_not_grow_without_end(tmp_path):
    journal = Journal(tmp_path)
    for step in range(1500):
        journal.add("step", {"step": step})
    assert len(rows_of(tmp_path)) == 1000
    journal.close()
    assert len(rows_of(tmp_path)) == 1500


@pytest.mark.parametrize("end", ["journal.close()", "del journal", "sys.exit()"])
def test_nothing_is_lost_at_the_end(tmp_path, end):
    script = f"""
        import sys
        from foreshock.monitor.journal import Journal
        journal = Journal({str(tmp_path)!r})
        for step in range(5):
            journal.add("step", {{"step": step}})
            journal.event(step, "non-finite loss", "the loss is nan", level=None)
        {end}
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)
    run = read_run(tmp_path)
    assert run.steps("step").tolist() == list(range(5))
    assert [(row["step"], row.get("count", 1)) for row in run.records["event"]] == [(0, 1), (1, 4)]


def events(journal, *steps, message="the loss is nan"):
    for step in steps:
        journal.add("step", {"step": step})
        journal.event(step, "non-finite loss", message)


def spans(folder):
    return [
        (row["step"], row.get("until", row["step"]), row.get("count", 1))
        for row in rows_of(folder)
        if row["kind"] == "event"
    ]


def test_an_event_at_each_step_is_the_first_and_one_for_all_others(tmp_path, caplog):
    journal = Journal(tmp_path)
    events(journal, *range(300, 1500))
    assert spans(tmp_path) == [(300, 300, 1)]
    journal.close()
    assert spans(tmp_path) == [(300, 300, 1), (301, 1300, 1000), (1301, 1499, 199)]
    assert len(caplog.messages) == 1
    summary = summarise(read_run(tmp_path))
    [event] = summary.events
    assert (event.step, event.last, event.count) == (300, 1499, 1200)
    assert "the loss is nan" in to_text(summary)


def test_an_event_that_is_over_is_closed_by_the_step_after_the_next(tmp_path):
    journal = Journal(tmp_path)
    events(journal, 3, 4, 5, 9, 20, 21)
    assert spans(tmp_path) == [(3, 3, 1), (4, 5, 2), (9, 9, 1), (20, 20, 1)]
    for step in (22, 23):
        journal.write("step", {"step": step})
    assert spans(tmp_path)[-1] == (21, 21, 1)
    assert "count" not in rows_of(tmp_path)[-2]


def test_events_of_other_words_are_counted_apart(tmp_path):
    journal = Journal(tmp_path)
    for step in range(4):
        events(journal, step)
        journal.event(step, "non-finite loss", "the loss is inf", level=logging.INFO)
    journal.close()
    assert spans(tmp_path) == [(0, 0, 1), (0, 0, 1), (1, 3, 3), (1, 3, 3)]


def test_events_of_an_earlier_log_are_shown_once_too(tmp_path):
    header = {"kind": "header", "schema": 2, "foreshock": "", "created": "", "meta": {}}
    one = {"kind": "event", "name": "non-finite loss", "message": "the loss is nan"}
    rows = [header, *({**one, "step": step} for step in (*range(7, 500), 900))]
    (tmp_path / "rank0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    [event] = summarise(read_run(tmp_path)).events
    assert (event.step, event.last, event.count, event.message) == (7, 900, 494, "the loss is nan")


def test_a_monitor_whose_state_is_loaded_goes_on_in_its_log_and_another_one_does_not(tmp_path, caplog):
    def trained(steps, state=None):
        model = torch.nn.Linear(3, 1)
        optimizer = torch.optim.Adam(model.parameters())
        with Monitor(model, optimizer, run=tmp_path) as monitor:
            if state is not None:
                monitor.load_state_dict(state)
            for _ in range(steps):
                loss = model(torch.ones(2, 3)).square().mean()
                loss.backward()
                monitor.observe(None, loss)
                optimizer.step()
            return monitor.state_dict()

    state = trained(5)
    trained(2, state)
    run = read_run(tmp_path)
    assert (run.steps("step").tolist(), run.starts, run.earlier) == (list(range(7)), 2, ())
    assert "earlier run" not in caplog.text
    trained(3)
    run = read_run(tmp_path)
    assert (run.steps("step").tolist(), run.earlier) == ([0, 1, 2], (tmp_path / "rank0.jsonl",))
    assert "has the records of an earlier run" in caplog.text


LAUNCHED = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
}


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, 0),
        (LAUNCHED, 3),
        ({"RANK": "3"}, 0),
        (LAUNCHED | {"MASTER_PORT": ""}, 0),
        (LAUNCHED | {"RANK": "4"}, 0),
        (LAUNCHED | {"RANK": "-1"}, 0),
        (LAUNCHED | {"WORLD_SIZE": "many"}, 0),
    ],
)
def test_the_rank_is_that_of_a_launch_and_not_of_any_variable(environment, rank, monkeypatch, tmp_path):
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert process_rank() == rank
    journal = Journal(tmp_path)
    journal.write("step", {"step": 0})
    assert len(rows_of(tmp_path, rank)) == 1


def test_the_rank_of_an_initialised_run_counts_more_than_the_environment(tmp_path, monkeypatch):
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        assert process_rank() == 0
    finally:
        distributed.destroy_process_group()


def test_a_disk_that_is_full_ends_the_log_and_is_said_once(tmp_path, monkeypatch, caplog):
    journal = Journal(tmp_path)

    def full(descriptor, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", full)
    for step in range(3):
        journal.write("step", {"step": step})
    assert len(caplog.messages) == 1
    assert "the run log ends here" in caplog.text
    journal.resume(1)
    journal.event(3, "name", "message", level=None)
    journal.close()
    assert Journal(None).close() is None
