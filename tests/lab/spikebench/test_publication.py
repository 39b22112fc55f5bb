"""From traces to JSON, tables and figures, and the command that does it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from foreshock.cli.app import app
from foreshock.lab.spikebench import run as running
from foreshock.lab.spikebench.page import benchmark_page, runs_table, smaller_table
from foreshock.lab.spikebench.publication import load_scores, save_scores, score, summary, write_pages
from foreshock.lab.spikebench.suite import RunConfig
from foreshock.lab.spikebench.trace import Column, Trace
from foreshock.lab.tasks import OptimizerConfig
from lab.spikebench.test_replay import STEPS, full, mini, sparse

SPIKE = 340


@pytest.fixture(scope="module")
def scores():
    loss = np.ones(STEPS.size)
    loss[SPIKE : SPIKE + 4] = 9.0
    spiky = full()
    spiky = Trace(spiky.meta, spiky.columns | {"loss": Column(STEPS, loss)})
    noisy = mini(0.02)
    noisy = Trace(noisy.meta, noisy.columns | {"loss": Column(STEPS, np.where(loss > 1, 40.0, 1.0))})
    controls = [
        Trace(
            dict(full().meta) | {"role": "control"}, {**full().columns, "stability_ratio": sparse(0.5, 20)}
        ),
        mini(0.0001, role="control"),
    ]
    return score([spiky, noisy, *controls])


def test_the_spikes_and_what_was_said_before_them_are_counted(scores):
    assert scores["runs"][0]["spikes"] == [[SPIKE, 9.0]]
    watch = scores["forecasts"]["development"]["full"]["watch"]["3x"]
    assert (watch["hits"], watch["spikes"]) == (1, 1)
    assert 10 <= watch["lead_median"] < SPIKE - 100


def test_scores_survive_json(scores, tmp_path):
    read = load_scores(save_scores(scores, tmp_path / "new" / "scores.json"))
    assert read["runs"] == json.loads(json.dumps(scores["runs"]))
    assert load_scores(save_scores(read, tmp_path / "again.json")) == read
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ValueError, match="not a file of SpikeBench's scores"):
        load_scores(tmp_path / "other.json")


def test_the_page_shows_every_figure_and_what_the_forecast_caught(scores, tmp_path):
    figures = [path for path in write_pages(scores, tmp_path) if path.suffix == ".svg"]
    page = benchmark_page(scores, figures, images="pictures")
    shown = [figure for figure in figures if "family" not in figure.name]
    assert len(shown) >= 4
    for figure in shown:
        assert f"](pictures/{figure.name})" in page
    told = "4 runs: spikes above 3×: 1 in full-batch runs, 1 in mini-batch runs; 2 controls"
    assert told in " ".join(page.split())
    assert "| Full batch | development | 1 | 1.000 (1 of 1) | 1.000 (1 of 1) |" in page


def test_smaller_spikes_of_text_have_a_table_of_their_own():
    caught = {"hits": 3, "spikes": 4, "lead_median": 12.0}
    missed = {"hits": 0, "spikes": 4, "lead_median": None}
    entry = {"watch": {"3x": caught, "+20 %": caught}, "alarm": {"3x": missed, "+20 %": missed}}
    found = smaller_table({"forecasts": {"held-out": {"language": entry}}}, ["held-out"])
    assert found.splitlines()[2:] == [
        "| +20 % | held-out | 4 | 0.750 (3 of 4) | 12 steps | 0.000 (0 of 4) | – |"
    ]


def test_the_tables_name_every_run_and_every_rule(scores):
    text = summary(scores, "development")
    assert "| synthetic | full | spiky | 1 (≤ 9×) |" in runs_table(scores, "development")
    for name in scores["rules"]["rules"]:
        assert name in text


def test_pages_have_tables_and_figures(scores, tmp_path):
    names = {path.name for path in write_pages(scores, tmp_path)}
    assert {
        "development.md",
        "all-tables.md",
        "recall-development-full.svg",
        "leads-development-mini.svg",
    } <= names
    assert all((tmp_path / name).stat().st_size > 500 for name in names)


def test_nothing_to_score_is_an_error():
    with pytest.raises(ValueError, match="no traces to score"):
        score([])


def test_the_command_records_what_is_missing_and_scores_it(tmp_path, monkeypatch):
    tiny = RunConfig(
        name="tiny",
        family="mlp",
        options={"points": 20, "width": 8},
        optimizer=OptimizerConfig("adam", 0.02),
        batch_size=None,
        steps=130,
        split="development",
        role="spiky",
    )
    control = dataclasses.replace(tiny, name="tame", role="control", batch_size=10)
    monkeypatch.setattr(running, "suite", lambda size: (tiny, control))
    runner = CliRunner()
    arguments = ["bench", "forecast", "--out", str(tmp_path), "--jobs", "1"]
    first = runner.invoke(app, arguments)
    assert first.exit_code == 0, first.output
    assert "2 of 2 runs to record" in first.output
    assert "2/2  tame-0" in first.output
    assert len(load_scores(tmp_path / "scores.json")["runs"]) == 2
    assert (tmp_path / "pages" / "development.md").exists()
    again = runner.invoke(app, [*arguments, "--partial"])
    assert again.exit_code == 0, again.output
    assert "to record" not in again.output


def test_the_command_without_traces_says_so(tmp_path):
    result = CliRunner().invoke(app, ["bench", "forecast", "--out", str(tmp_path), "--partial"])
    assert result.exit_code == 1
    assert "record some first" in result.output


def test_a_split_without_development_runs_can_be_scored(tmp_path):
    spiky = full()
    loss = np.where((STEPS >= SPIKE) & (STEPS < SPIKE + 4), 9.0, 1.0)
    about = dict(spiky.meta) | {"split": "test"}
    scores = score([Trace(about, spiky.columns | {"loss": Column(STEPS, loss)})])
    assert list(scores["rules"]["scores"]) == ["test"]
    pages = write_pages(scores, tmp_path)
    assert (tmp_path / "test.md") in pages
