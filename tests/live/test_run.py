import json
import math
import os

import numpy as np
import pytest

from foreshock.live.charts import CHARTS, COLUMNS
from foreshock.live.curve import Curve
from foreshock.live.run import LiveRun
from foreshock.runlog import RunLogWriter, read_run
from foreshock.spikes import detect_events
from live_logs import calm, forecast, settle, spiky


def test_a_run_read_as_it_grows_is_the_run_read_at_once(tmp_path, write, follow):
    rows = sorted(spiky(), key=lambda row: row[1]["step"])
    writer = RunLogWriter(tmp_path / "grown")
    grown = LiveRun(writer.path, name="grown")
    for begin in range(0, len(rows), 37):
        writer.write_many(rows[begin : begin + 37])
        settle(grown)
    writer.close()
    once = follow(write(tmp_path / "once", rows))
    for kind, curve in once.curves.items():
        assert len(curve) > 0
        assert grown.curves[kind].steps.tolist() == curve.steps.tolist()
        for name in COLUMNS[kind]:
            np.testing.assert_array_equal(grown.curves[kind].column(name), curve.column(name))
    assert grown.events == once.events
    assert grown.generation == once.generation == 1


def test_spikes_are_those_of_the_report(tmp_path, write, follow):
    path = write(tmp_path / "run", spiky())
    run = read_run(path)
    expected = detect_events(run.steps("step").tolist(), run.column("step", "loss").tolist())
    assert [event.kind for event in expected] == ["spike"]
    assert follow(path).events == expected


def test_a_spike_that_goes_on_is_already_there(tmp_path, write, follow):
    rows = spiky()[:410]
    [event] = follow(write(tmp_path / "run", rows)).events
    assert (event.kind, event.onset) == ("spike", 400)


def test_a_resumed_session_replaces_what_it_did_again(tmp_path):
    writer = RunLogWriter(tmp_path / "run")
    writer.write_many(calm(0, 100))
    run = LiveRun(writer.path, name="run")
    settle(run)
    before = run.generation
    writer.close()
    again = RunLogWriter(tmp_path / "run")
    again.resume(60)
    again.write_many(calm(60, 80, loss=3.0))
    again.close()
    settle(run)
    expected = read_run(tmp_path / "run")
    assert run.generation > before
    assert run.curves["step"].steps.tolist() == expected.steps("step").tolist() == list(range(80))
    assert run.curves["step"].column("loss").tolist() == expected.column("step", "loss").tolist()


def test_a_snapshot_does_not_change_when_the_run_goes_on(tmp_path):
    writer = RunLogWriter(tmp_path / "run")
    writer.write_many(calm(0, 100))
    run = LiveRun(writer.path, name="run")
    settle(run)
    taken = run.snapshot()
    steps = taken.records["step"]
    steps.numbers("loss")
    # As a thread does that reads the snapshot: an array that is looked into can't grow.
    looked_into = [memoryview(column) for block in steps._list for column in block._columns.values()]
    writer.write_many(calm(100, 3000))
    writer.close()
    settle(run)
    assert len(steps) == 100
    assert steps[99]["step"] == 99
    assert len(run.snapshot().records["step"]) == 3000
    assert len(looked_into) == 6


def test_a_loss_that_is_null_is_not_one_that_is_no_number(tmp_path, write, follow):
    rows = calm(0, 100)
    rows[50][1]["loss"] = None
    assert follow(write(tmp_path / "null", rows)).events == []
    rows[50][1]["loss"] = math.nan
    [event] = follow(write(tmp_path / "nan", rows)).events
    assert event.first_non_finite == 50


def test_the_stability_ratio_is_measured_or_followed(tmp_path, write, follow):
    rows = [
        *calm(0, 100),
        forecast(10, "unknown", stability_ratio=9.0),
        forecast(20, stability_ratio=0.5, measured=0),
        forecast(30, stability_ratio=9.0, measured=None),
        ("curvature", {"step": 40, "stability_ratio": 0.7}),
    ]
    curve = follow(write(tmp_path / "run", rows)).curves["ratio"]
    assert curve.steps.tolist() == [20, 40]
    assert curve.column("stability_ratio").tolist() == [0.5, 0.7]


def test_charts_without_values_are_left_out(tmp_path, write, follow):
    drawn = follow(write(tmp_path / "plain", calm(0, 100))).status()["charts"]
    assert drawn == ["loss", "gradient-norm", "learning-rate", "lag", "decay"]
    drawn = follow(write(tmp_path / "full", spiky())).status()["charts"]
    assert {"probability", "ratio"} <= set(drawn)
    assert "noise" not in drawn


def test_every_column_of_a_chart_is_followed():
    for chart in CHARTS:
        assert {column for _, _, column in chart.lines} <= set(COLUMNS[chart.kind])
        assert chart.to_mapping()["caption"]


def test_a_status_is_json_whatever_the_log_has(tmp_path, write, follow):
    rows = calm(0, 30)
    rows[-1][1]["loss"] = math.inf
    path = write(tmp_path / "run", rows, name="</script>\x1b[2J", steps="many", description=["x"])
    status = follow(path).status()
    assert json.loads(json.dumps(status, allow_nan=False))["loss"] == "∞"
    assert "\x1b" not in status["name"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"kind":"header","schema":99,"meta":{}}\n{"kind":"step","step":0,"loss":1}\n', "schema 99"),
        ('{"a":1}\n', "no header"),
    ],
)
def test_what_is_no_log_says_why(tmp_path, follow, content, why):
    path = tmp_path / "rank0.jsonl"
    path.write_text(content)
    found = follow(path).status()
    assert found["state"] == "unreadable"
    assert why in found["words"]


def test_a_log_that_is_gone_says_so(tmp_path, write, follow):
    path = write(tmp_path / "run", calm(0, 10))
    run = follow(path)
    os.remove(path)  # noqa: PTH107 - as another program would
    settle(run)
    assert "can't be read" in run.status()["words"]


def test_a_curve_that_goes_back_is_sorted():
    curve = Curve(["loss"])
    assert curve.extend(np.array([0.0, 5.0]), [np.array([1.0, 2.0])])
    assert not curve.extend(np.array([3.0]), [np.array([9.0])])
    assert curve.steps.tolist() == [0, 3, 5]
    assert curve.column("loss").tolist() == [1, 9, 2]


def test_a_view_keeps_every_extreme_and_one_point_beyond():
    loss = np.random.default_rng(0).uniform(1, 2, size=200_000)
    loss[123_456] = 50.0
    curve = Curve(["loss"])
    curve.extend(np.arange(200_000.0), [loss])
    steps, values = curve.view(["loss"], first=-math.inf, last=math.inf, points=1000)
    assert len(steps) <= 1002
    assert values[steps == 123_456].tolist() == [50.0]
    steps, _ = curve.view(["loss"], first=500.0, last=600.0, points=1000)
    assert steps.tolist() == list(range(499, 602))


def test_a_view_of_what_is_new_has_nothing_else():
    curve = Curve(["loss"])
    curve.extend(np.arange(100.0), [np.zeros(100)])
    curve.extend(np.arange(100.0, 103.0), [np.ones(3)])
    steps, values = curve.view(["loss"], first=-math.inf, last=math.inf, points=50, since=100)
    assert (steps.tolist(), values.tolist()) == ([100, 101, 102], [1, 1, 1])
