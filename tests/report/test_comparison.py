"""Several runs on the same charts: aligned at their spikes, each in its colour, also in a browser."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from chromium import CHROMIUM, INK
from foreshock.cli.app import app
from foreshock.explain import compare_runs
from foreshock.report.comparison import COLOURS, aligned_charts, to_mapping
from foreshock.report.html import write_html
from logs_of_explain import AT, calm, grown, grown_norm, ratio, write

LONG = 700  # steps: more than are in view at first


@pytest.fixture
def runs(tmp_path):
    """Two runs that spike, forty steps apart and measured at different steps, and one that does not."""
    ratios = [ratio(step, 0.5 + step / 1000) for step in range(0, 390, 30)]
    late = [ratio(step, 0.4) for step in range(10, 390, 30)]
    first = {"loss": grown(n=LONG), "gradient_norm": grown_norm(n=LONG)}
    second = {"loss": grown(n=LONG, at=AT + 40), "gradient_norm": grown_norm(n=LONG, at=AT + 40)}
    return [
        write(tmp_path / "a", **first, records=ratios, meta={"lr": 1.0}),
        write(tmp_path / "b", **second, meta={"lr": 1.0}),
        write(tmp_path / "quiet", loss=calm(LONG), records=late, meta={"lr": 0.1}),
    ]


def test_runs_are_shifted_to_their_own_spikes_and_the_others_to_the_first(runs):
    found = compare_runs(runs)
    loss = next(one for one in aligned_charts(runs, found) if one["id"] == "loss")
    assert loss["along"] == "steps from the spike"
    assert [one["label"] for one in loss["series"]] == ["a", "b", "quiet"]
    assert [one["role"] for one in loss["series"]] == ["run-0", "run-1", "run-2"]
    x = np.array(loss["x"])
    for run, one, shown in zip(runs, found.runs, loss["series"], strict=True):
        origin = found.step if one.onset is None else one.onset
        for ahead in (-50, 0, 3):
            [place] = np.flatnonzero(x == ahead)
            recorded = float(run.column("step", "loss")[origin + ahead])
            assert shown["values"][place] == pytest.approx(recorded, rel=1e-5)
    assert found.runs[0].onset + 40 == found.runs[1].onset


def test_ratios_of_other_steps_leave_gaps_that_are_bridged_and_runs_without_are_left_out(runs):
    chart = next(one for one in aligned_charts(runs, compare_runs(runs)) if one["id"] == "ratio")
    assert chart["spans"] is True
    assert [(one["label"], one["role"]) for one in chart["series"]] == [("a", "run-0"), ("quiet", "run-2")]
    assert sum(value is not None for value in chart["series"][0]["values"]) == 13


def test_many_runs_and_none_that_spiked(tmp_path):
    many = [write(tmp_path / str(i), loss=calm() + i) for i in range(COLOURS + 2)]
    data = to_mapping(many, compare_runs(many))
    assert data["range"] == [-399, 0]
    assert data["view"] == [-300, 0]
    roles = [one["role"] for one in data["charts"][0]["series"]]
    assert roles[0] == roles[COLOURS] == "run-0"


def test_a_loss_that_is_no_number_draws_what_there_is(tmp_path):
    lost = [write(tmp_path / name, loss=np.full(60, math.nan)) for name in "ab"]
    page = write_html(lost, tmp_path / "page.html", compared=compare_runs(lost)).read_text()
    assert '<section class="run" id="comparison"' in page


def test_names_are_text(tmp_path, runs):
    hostile = write(tmp_path / "x", loss=calm(), meta={"name": "<b>bold</b>", "other": "<script>"})
    both = [runs[0], hostile]
    page = write_html(both, tmp_path / "page.html", compared=compare_runs(both)).read_text()
    assert "<b>bold" not in page
    [data, *_] = re.findall(r'<script type="application/json" class="data">(.*?)</script>', page)
    assert json.loads(data)["charts"][0]["series"][1]["label"] == "<b>bold</b>"


def test_the_command_writes_the_page(runs, tmp_path):
    folders = [str(run.path.parent) for run in runs]
    shown = CliRunner().invoke(app, ["compare", *folders, "-o", str(tmp_path / "all.html")])
    assert shown.exit_code == 0, shown.output
    page = (tmp_path / "all.html").read_text()
    assert page.index('id="comparison"') < page.index('id="run-1"')
    assert "Setting lr: 1 in those that spiked, 0.1 in the others." in page
    plain = CliRunner().invoke(app, ["report", *folders, "-o", str(tmp_path / "report.html")])
    assert plain.exit_code == 0
    assert 'id="comparison"' not in (tmp_path / "report.html").read_text()


@pytest.mark.browser
@pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="needs chromium")
def test_the_charts_are_drawn_around_the_spike_and_widen_to_the_whole_runs(browser, runs, tmp_path):
    page = browser.new_page(viewport={"width": 1100, "height": 900})
    complaints = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    path = write_html(runs, tmp_path / "page.html", compared=compare_runs(runs))
    page.goto(path.as_uri())
    page.wait_for_function("window.foreshockRuns?.every(run => run.plots.length > 0)")
    scale = "foreshockRuns[0].plots.map(p => [p.scales.x.min, p.scales.x.max])"
    canvases = page.locator("#comparison figure canvas")
    assert canvases.count() == 5
    assert all(canvases.nth(i).evaluate(INK) for i in range(5))
    assert all(zoom == page.evaluate(scale)[0] for zoom in page.evaluate(scale))
    assert page.evaluate(scale)[0] == page.evaluate("foreshockRuns[0].data.view")
    assert page.evaluate(scale)[0][1] == 150
    page.locator("#comparison .reset").click()
    assert page.evaluate(scale)[0] == page.evaluate("foreshockRuns[0].data.range")
    assert not page.locator("#comparison .reset").is_visible()
    assert complaints == []
    page.close()
