import json
import math

import numpy as np
import pytest

from foreshock.forecast import NOISY_EDGE, RunForecaster
from foreshock.live.log import ratios
from foreshock.report.charts import action_spans, charts, step_range, to_mapping
from foreshock.report.decimation import POINTS
from foreshock.report.forecasts import fans
from foreshock.report.summary import summarise
from foreshock.runlog import RunLogWriter, read_run
from foreshock.runlog.reader import rows_of
from foreshock.runlog.values import drawn_ratios
from summaries import reading, state

ALL = [
    *("loss", "probability", "ratio", "countdown", "directions", "alignment"),
    *("gradient-norm", "learning-rate", "lag", "decay"),
]


def by_id(run):
    return {chart["id"]: chart for chart in charts(run)}


def test_a_full_run_has_all_charts_and_they_are_json(spiky):
    drawn = to_mapping(spiky, summarise(spiky))
    assert [chart["id"] for chart in drawn["charts"]] == ALL
    assert json.loads(json.dumps(drawn, allow_nan=False))["range"] == [0, 1199]
    for chart in drawn["charts"]:
        assert chart["title"]
        assert len(chart["caption"]) > 60
        assert {len(series["values"]) for series in chart["series"]} == {len(chart["x"])}


def test_the_lines_are_the_log(spiky):
    drawn = by_id(spiky)
    np.testing.assert_allclose(
        drawn["ratio"]["series"][0]["values"],
        spiky.column("curvature", "stability_ratio"),
        rtol=1e-5,  # six digits are drawn
    )
    assert drawn["ratio"]["x"] == spiky.steps("curvature").tolist()
    assert drawn["ratio"]["threshold"] == 1.0
    assert [fan["step"] for fan in drawn["ratio"]["fans"]] == [fan.step for fan in fans(spiky)]
    assert drawn["ratio"]["fans"]


def test_the_countdown_compares_the_forecast_with_the_outcome(spiky):
    chart = by_id(spiky)["countdown"]
    values = {series["label"]: series["values"] for series in chart["series"]}
    at = chart["x"].index(590)
    assert values["80 % at least"][at] <= values["forecast"][at] <= values["80 % at most"][at]
    assert values["forecast"][at] == pytest.approx(values["outcome"][at], rel=0.2)
    upper, lower = chart["band"]
    assert chart["series"][upper]["label"] == "80 % at most"
    assert chart["series"][lower]["label"] == "80 % at least"


def test_a_noisy_run_shows_the_edge_of_mini_batches(tmp_path):
    writer = RunLogWriter(tmp_path / "noisy")
    run = RunForecaster(beta2=0.999)
    for step in range(60):
        run.record_step(loss=1.0, squared_gradient=0.01, second_moment=1.0)
        run.record_noise(step, mean=0.2, variance=0.02, noise_factor=19.0)
        writer.write("forecast", run.forecast(step, constant=False))
    writer.close()
    chart = by_id(read_run(tmp_path / "noisy"))["noise"]
    ratio, lag = (series["values"] for series in chart["series"])
    assert ratio[:2] == [None, None]
    assert ratio[-1] == pytest.approx(0.2 + 19 * 0.02 / 0.2)
    assert lag[-1] == pytest.approx(100)
    assert chart["threshold"] == NOISY_EDGE


def test_without_curvature_only_the_free_signals_are_drawn(blind):
    assert list(by_id(blind)) == ["loss", "gradient-norm", "learning-rate", "lag", "decay"]


def test_an_empty_log_has_no_charts(log):
    run = log()
    assert charts(run) == []
    assert step_range(run) == (0, 1)


def test_what_a_logarithmic_axis_cannot_show_is_a_gap(log):
    values = [1.0, 0.0, 0.0, float("nan"), float("inf"), None, 2.0]
    run = log(*(("step", {"step": i, "loss": value}) for i, value in enumerate(values)))
    [chart] = charts(run)
    assert chart["x"] == [0, 1, 2, 3, 4, 6]
    assert chart["series"][0]["values"] == [1.0, None, None, None, None, 2.0]


def test_a_spike_of_one_step_in_a_long_run_is_drawn(log):
    rows = [{"step": i, "loss": 50.0 if i == 7_777 else 1.0} for i in range(9_000)]
    [chart] = charts(log(*(("step", row) for row in rows)))
    assert len(chart["x"]) <= POINTS
    assert dict(zip(chart["x"], chart["series"][0]["values"], strict=True))[7_777] == 50.0


def test_marks_are_the_outcomes(spiky):
    summary = summarise(spiky)
    spikes = to_mapping(spiky, summary)["marks"]["spikes"]
    assert [mark["onset"] for mark in spikes] == [o.spike.onset for o in summary.outcomes]
    assert [mark["announced"] for mark in spikes] == [o.announced for o in summary.outcomes]
    assert all(mark["label"].endswith("×") for mark in spikes)


def test_forecasts_that_never_cross_still_leave_a_countdown(log):
    row = {"stability_ratio": 0.5, "steps_to_instability": 40.0, "interval_low": None}
    run = log(*(("forecast", {"step": step, **row}) for step in range(5)))
    assert by_id(run)["countdown"]["range"] == (0.0, 60.0)


def test_a_loss_below_zero_has_a_linear_axis(log):
    run = log(*(("step", {"step": i, "loss": value}) for i, value in enumerate([3.0, -1.0, -2.5])))
    [chart] = charts(run)
    assert not chart["log"]
    assert chart["series"][0]["values"] == [3.0, -1.0, -2.5]


def test_actions_of_a_guard_are_drawn_as_few_spans(log):
    acted = [*range(100, 160), 4000, 4002, 9000]
    guard = [("guard", {"step": step, "policy": "auto", "remedy": "clip"}) for step in acted]
    idle = [("guard", {"step": 7000, "policy": "auto", "remedy": "cooldown"})]
    run = log(*(("step", {"step": i, "loss": 1.0}) for i in range(10_000)), *guard, *idle)
    assert action_spans(run) == [(100, 159), (4000, 4002), (9000, 9000)]
    drawn = to_mapping(run, summarise(run))["marks"]["actions"]
    assert json.loads(json.dumps(drawn)) == [[100, 159], [4000, 4002], [9000, 9000]]


def test_norms_and_rates_that_are_no_numbers_are_gaps(log):
    rows = [{"step": i, "loss": 1.0, "gradient_norm": norm} for i, norm in enumerate([1.0, "much", None])]
    chart = by_id(log(*(("step", row) for row in rows)))["gradient-norm"]
    assert chart["series"][0]["values"] == [1.0, None, None]


def test_a_long_run_keeps_every_point_around_its_spike(tmp_path):
    steps = 30_000
    loss = 1 + 0.01 * np.random.default_rng(0).standard_normal(steps)
    loss[20_000:20_008] = 9.0
    log = RunLogWriter(tmp_path)
    log.write_many([("step", {"step": step, "loss": value}) for step, value in enumerate(loss.tolist())])
    log.close()
    run = read_run(tmp_path)
    [drawn] = to_mapping(run, summarise(run))["charts"]
    assert len(drawn["x"]) < POINTS + 200
    near = [step for step in drawn["x"] if 19_975 <= step <= 20_030]
    assert near == list(range(19_975, 20_031))
    [thin] = charts(run)
    assert len([step for step in thin["x"] if 19_975 <= step <= 20_030]) < 40


def test_a_line_does_not_bridge_steps_at_which_the_ratio_was_not_known(log):
    """A forecast that waits for more readings breaks none: its reading is fresh."""
    run = log(
        reading(10, 0.4),
        state(10, "unknown", measured=10),
        state(20, "unknown", measured=10),
        reading(30, 0.5),
        state(30, "stable", 0.5, measured=30),
        state(140, "unknown", 0.5, measured=30),
        state(150, "unknown", math.nan),
        reading(200, 0.9),
        state(200, "unknown", 0.9, measured=200),
    )
    steps, values = drawn_ratios(run)
    assert steps.tolist() == [10, 30, 140, 150, 200]
    assert np.isnan(values).tolist() == [False, False, True, True, False]
    live = np.sort(np.concatenate([ratios(kind, rows_of(run, kind), 0)[0] for kind in run.records], axis=1))
    assert np.isnan(live[1]).sum() == 2
