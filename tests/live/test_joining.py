"""A training that went on under another monitor is one run wherever runs are followed."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from foreshock.cli.app import app
from foreshock.live.charts import COLUMNS
from foreshock.live.joining import join
from foreshock.live.run import LiveRun
from foreshock.live.watched import WatchedFolder
from foreshock.report.summary import summarise
from foreshock.runlog import RunLogWriter, read_run
from live_logs import calm, forecast, spiky


def watch(folder):
    watched = WatchedFolder(folder)
    while watched.look():
        pass
    for run in watched.all_runs():
        run.scan_whole()
    return watched


def by_step(rows):
    return sorted(rows, key=lambda row: row[1]["step"])


@pytest.fixture
def resumed(tmp_path, write):
    """A run that was resumed twice, with a spike before and after the first time."""
    folder = tmp_path / "run"
    first = by_step(spiky())
    last = first[-1][1]["step"]
    write(folder, first)
    again = [(kind, row | {"step": row["step"] + last - 20}) for kind, row in first]
    write(folder, again)
    write(folder, calm(2 * last - 40, 2 * last + 100))
    return folder


def test_the_logs_of_one_training_are_the_run_of_the_report(resumed):
    [run] = watch(resumed.parent).all_runs()
    expected = read_run(resumed)
    assert len(expected.joined) == 2
    assert run.path == expected.path
    assert run.curves["step"].steps.tolist() == expected.steps("step").tolist()
    for kind in ("step", "forecast", "curvature"):
        assert len(run.curves[kind]) == len(expected.records[kind]) > 0
        for name in COLUMNS[kind]:
            np.testing.assert_array_equal(run.curves[kind].column(name), expected.column(kind, name))
    summary = summarise(expected)
    assert [event.onset for event in run.events_by_now()] == [one.spike.onset for one in summary.outcomes]
    assert len(run.events) == 2
    assert (run.starts, run.created) == (expected.starts, expected.created)
    assert run.snapshot().steps("step").tolist() == expected.steps("step").tolist()
    assert len(run.records["step"]) > len(expected.records["step"])


def test_it_is_joined_as_soon_as_it_goes_on_and_grows_from_there(tmp_path, write):
    write(tmp_path / "run", calm(0, 300))
    watched = watch(tmp_path)
    [before] = watched.all_runs()
    writer = RunLogWriter(tmp_path / "run")
    writer.write_many(calm(280, 290))
    watched.search()
    watched.look()
    [after] = watched.all_runs()
    assert after is not before
    assert before.key not in watched.runs
    assert after.last_step == 289
    generation = after.generation
    writer.write_many(calm(290, 320))
    watched.look()
    assert after.curves["step"].steps.tolist() == list(range(320))
    assert after.generation == generation
    writer.close()
    (tmp_path / "run" / "2" / "rank0.jsonl").unlink()
    watched.search()
    assert watched.all_runs() == [before]


def test_what_leads_up_to_it_may_be_rewritten(tmp_path, write):
    path = write(tmp_path / "run", calm(0, 300))
    write(tmp_path / "run", calm(300, 320))
    watched = watch(tmp_path)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:281]))
    watched.look()
    [run] = watched.all_runs()
    assert run.curves["step"].steps.tolist() == [*range(280), *range(300, 320)]
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:101]))
    watched.look()
    assert sorted(len(one.curves["step"]) for one in watched.all_runs()) == [20, 100]


@pytest.mark.parametrize("first", [0, 700])
def test_a_run_of_its_own_stays_one(tmp_path, write, first):
    write(tmp_path / "run", calm(0, 300))
    write(tmp_path / "run", calm(first, first + 50))
    assert len(watch(tmp_path).all_runs()) == 2
    assert read_run(tmp_path / "run").joined == ()


def test_two_trainings_from_one_checkpoint_both_have_what_led_up_to_it(tmp_path, write):
    write(tmp_path / "run", calm(0, 300))
    write(tmp_path / "run", calm(200, 250))
    write(tmp_path / "run", calm(200, 400))
    runs = watch(tmp_path).all_runs()
    assert [run.curves["step"].steps.tolist() for run in runs] == [list(range(250)), list(range(400))]


def test_nothing_is_joined_while_a_log_is_still_read(tmp_path, write):
    paths = [write(tmp_path / "run", calm(0, 300)), write(tmp_path / "run", calm(200, 250))]
    runs = [LiveRun(path, name="run") for path in paths]
    for run in runs:
        run.look(most=10_000)
    assert join(runs) == runs
    for run in runs:
        run.read_whole()
    assert join(runs) == runs[1:]


def test_status_runs_and_the_report_count_the_same(resumed):
    def result(*arguments):
        done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)["result"]

    status, [listed] = result("status", resumed), result("runs", resumed.parent)
    assert status["spikes"] == listed["spikes"] == 2
    assert status["step"] == listed["step"] == read_run(resumed).steps("step")[-1]
    assert status["probes"] == listed["probes"] > 0
    [report] = result("report", resumed)
    assert report["summary"]["steps"] == len(read_run(resumed).records["step"])


def test_only_the_newest_of_runs_of_their_own_has_its_status_shown(tmp_path, write):
    write(tmp_path / "run", calm(0, 300))
    write(tmp_path / "run", [*calm(0, 50), forecast(40)])
    done = CliRunner().invoke(app, ["status", str(tmp_path / "run"), "--json"])
    assert json.loads(done.stdout)["result"]["step"] == 49
