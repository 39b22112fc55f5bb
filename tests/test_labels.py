"""Runs of the same name: what tells them apart, wherever several are shown."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from foreshock.cli.app import app
from foreshock.live.watched import WatchedFolder
from foreshock.report import write_figure, write_html
from foreshock.runlog import RunLogWriter, read_run
from foreshock.runlog.labels import labels
from live_logs import calm

LOG = "rank0.jsonl"


@pytest.mark.parametrize(
    ("names", "logs", "expected"),
    [
        (["base", "wide"], ["r/a/base", "r/a/wide"], ["base", "wide"]),
        (["base", "base"], ["r/a/base", "r/b/base"], ["a/base", "b/base"]),
        (["base", "base"], ["x/a/base", "y/a/base"], ["x/a/base", "y/a/base"]),
        (["base"] * 3, ["x/a/base", "y/a/base", "y/b/base"], ["x/a/base", "y/a/base", "y/b/base"]),
        (["mine", "mine"], ["r/a/base", "r/b/base"], ["mine (a/base)", "mine (b/base)"]),
        (["mine", "mine", "run"], ["r/a", "r/b", "r/run"], ["mine (a)", "mine (b)", "run"]),
        (["base", "base"], ["r/base", "r/base"], ["base (1)", "base (2)"]),
        (["a/base", "base", "base"], ["q", "r/a/base", "r/b/base"], ["a/base (1)", "a/base (2)", "b/base"]),
    ],
)
def test_runs_of_one_name_are_told_apart_by_the_shortest_path(names, logs, expected):
    assert labels(names, [Path(log) / LOG for log in logs]) == expected


def test_ranks_and_files_of_one_folder_are_told_apart_too():
    assert labels(["r", "r"], [Path("r/rank0.jsonl"), Path("r/rank1.jsonl")]) == ["r (rank0)", "r (rank1)"]


def test_of_a_long_label_the_end_is_kept():
    first, second = labels(["x" * 90 + "1", "x" * 90 + "2"], [Path("a") / LOG, Path("b") / LOG])
    assert (len(first), first[0], first[-1], second[-1]) == (60, "…", "1", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs")
    for name, loss in (("a", 1.0), ("b", 5.0)):
        log = RunLogWriter(place / name / "base", meta={"name": "base", "learning_rate": loss})
        log.write_many(calm(0, 120, loss=loss))
        log.close()
    return place


def said(*arguments, width=None):
    found = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": width} if width else None)
    assert found.exit_code == 0, found.output
    return found.stdout


def test_every_surface_has_the_same_two_labels(folder, tmp_path):
    places = [folder / "a/base", folder / "b/base"]
    runs = [read_run(place) for place in places]
    both = {"a/base", "b/base"}

    page = write_html(runs, tmp_path / "page.html").read_text(encoding="utf-8")
    assert set(re.findall(r'"label":"(\w/base)"', page)) == both
    figure = write_figure(runs, tmp_path / "x.svg", kind="loss").read_text(encoding="utf-8")
    assert both <= set(re.findall(r"<!-- (.*?) -->", figure))
    compared = json.loads(said("compare", *places, "--json"))["result"]
    assert {run["name"] for run in compared["runs"]} == both
    for form in (("--text",), ("--format", "md")):
        text = said("report", *places, *form)
        assert all(label in text for label in both)
    listed = said("runs", folder)
    assert all(label in listed for label in both)

    watched = WatchedFolder(folder)
    while watched.look():
        pass
    watched.look()
    assert {run.status()["label"] for run in watched.all_runs()} == both
    assert {run.status()["name"] for run in watched.all_runs()} == {"base"}


def test_a_run_alone_keeps_its_name_until_another_one_comes(folder):
    watched = WatchedFolder(folder / "a")
    while watched.look():
        pass
    [run] = watched.all_runs()
    before = run.version
    assert (run.status()["label"], run.version) == ("base", before)


def test_a_narrow_table_keeps_the_end_of_a_path(tmp_path):
    for name in ("first", "second"):
        log = RunLogWriter(tmp_path / "an-experiment-with-a-long-name" / "and-another-part-of-it" / name)
        log.write_many(calm(0, 30))
        log.close()
    for width in ("34", "60", "200"):
        listed = said("runs", tmp_path, width=width)
        rows = [line for line in listed.splitlines() if "unknown" in line]
        assert [row.split()[0][-5:] for row in rows] == ["first", "econd"], listed
        assert max(map(len, listed.splitlines())) <= int(width)
        assert "Step" in listed or width == "34"
