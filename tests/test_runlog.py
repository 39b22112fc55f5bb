"""The log survives what happens to logs."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from foreshock.forecast import Forecast
from foreshock.runlog import RunLogWriter, read_run


def test_records_come_back_as_they_were(tmp_path):
    log = RunLogWriter(tmp_path / "a" / "run", meta={"name": "small", "betas": (0.9, 0.999)})
    log.write("step", {"step": 0, "loss": 1.5})
    forecast = Forecast(0, 0.5, math.inf, 3.0, math.inf, math.nan, "rising", "a line – é")
    log.write("forecast", forecast)
    log.close()
    run = read_run(tmp_path / "a" / "run")
    assert run.meta == {"name": "small", "betas": [0.9, 0.999]}
    [record] = run.records["forecast"]
    assert record["steps_to_instability"] == math.inf
    assert math.isnan(record["growth_rate"])
    assert record["basis"] == "a line – é"
    assert run.skipped == 0


def test_every_line_is_strict_json(tmp_path):
    log = RunLogWriter(tmp_path)
    log.write("step", {"step": 0, "loss": math.nan, "nested": {"values": [math.inf, -math.inf]}})
    refuse = lambda token: pytest.fail(f"{token} is not JSON")  # noqa: E731
    rows = [json.loads(line, parse_constant=refuse) for line in log.path.read_text().splitlines()]
    assert rows[1]["loss"] == "NaN"
    assert rows[1]["nested"] == {"values": ["Infinity", "-Infinity"]}


def test_columns_pair_up_with_steps(tmp_path):
    log = RunLogWriter(tmp_path)
    for step, value in enumerate([1.0, None, math.inf]):
        log.write("curvature", {"step": step, "threshold": value})
    run = read_run(tmp_path)
    np.testing.assert_array_equal(run.steps("curvature"), [0, 1, 2])
    np.testing.assert_array_equal(run.column("curvature", "threshold"), [1.0, math.nan, math.inf])
    assert run.column("curvature", "absent").shape == (3,)
    assert run.column("forecast", "absent").shape == (0,)


def test_a_run_is_readable_while_it_is_written_and_after_kill_9(tmp_path):
    script = textwrap.dedent(f"""
        from foreshock.runlog import RunLogWriter
        log = RunLogWriter({str(tmp_path)!r})
        step = 0
        while True:
            log.write("step", {{"step": step, "loss": 1.0 / (step + 1)}})
            step += 1
            if step == 100:
                print("a hundred", flush=True)
    """)
    writer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout.readline() == "a hundred\n"
        seen = len(read_run(tmp_path).steps("step"))
        assert writer.poll() is None
    finally:
        os.kill(writer.pid, signal.SIGKILL)
        writer.communicate()
    run = read_run(tmp_path)
    assert len(run.steps("step")) >= seen >= 100
    np.testing.assert_array_equal(run.steps("step"), np.arange(len(run.steps("step"))))


def test_a_torn_last_line_is_skipped_and_closed_by_the_next_writer(tmp_path):
    log = RunLogWriter(tmp_path)
    log.write("step", {"step": 0, "loss": 1.0})
    log.close()
    with log.path.open("ab") as file:
        file.write(b'{"kind":"step","step":1,"lo')
    torn = read_run(tmp_path)
    assert (len(torn.steps("step")), torn.skipped) == (1, 1)
    again = RunLogWriter(tmp_path)
    again.write("step", {"step": 1, "loss": 0.5})
    resumed = read_run(tmp_path)
    assert resumed.steps("step").tolist() == [0, 1]
    assert resumed.skipped == 1


def test_a_resumed_session_replaces_what_it_does_again(tmp_path):
    first = RunLogWriter(tmp_path, meta={"name": "first"})
    for step in range(10):
        first.write("step", {"step": step, "loss": 1.0})
        first.write("curvature", {"step": step, "stability_ratio": 0.1})
    second = RunLogWriter(tmp_path, meta={"name": "second"})
    for step in range(6, 8):
        second.write("step", {"step": step, "loss": 2.0})
    run = read_run(tmp_path)
    assert run.steps("step").tolist() == list(range(8))
    assert run.column("step", "loss").tolist() == [1.0] * 6 + [2.0] * 2
    assert run.steps("curvature").tolist() == list(range(6))
    assert run.meta["name"] == "second"


def test_scalars_of_numpy_and_torch_are_numbers_and_the_rest_is_text(tmp_path):
    meta = {"count": np.int64(3), "rate": torch.tensor(0.5), "dtype": torch.float32, "nan": np.float32("nan")}
    RunLogWriter(tmp_path, meta=meta)
    assert read_run(tmp_path).meta == {"count": 3, "rate": 0.5, "dtype": "torch.float32", "nan": "NaN"}


def test_a_late_record_does_not_shield_obsolete_ones(tmp_path):
    first = RunLogWriter(tmp_path)
    for step in (0, 5, 6, 1):
        first.write("event", {"step": step, "name": "x", "message": "y"})
    RunLogWriter(tmp_path).write("event", {"step": 3, "name": "x", "message": "y"})
    run = read_run(tmp_path)
    assert run.steps("event").tolist() == [0, 1, 3]
    assert (run.starts, run.schema) == (2, 1)
    assert run.version


def test_an_unwritable_folder_is_an_error_with_a_way_out(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match="run=None to keep no log"):
        RunLogWriter(tmp_path / "file" / "run")


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run log at"):
        read_run(tmp_path / "nowhere")
    RunLogWriter(tmp_path / "runs" / "base")
    with pytest.raises(FileNotFoundError, match=r"runs below it: .*base"):
        read_run(tmp_path / "runs")
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(ValueError, match="no header line"):
        read_run(tmp_path / "other.jsonl")
    (tmp_path / "new.jsonl").write_text('{"kind":"header","schema":99,"created":"","meta":{}}\n')
    with pytest.raises(ValueError, match="schema 99"):
        read_run(tmp_path / "new.jsonl")
