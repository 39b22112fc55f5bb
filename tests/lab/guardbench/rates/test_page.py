"""The page of rates is made of its JSON alone, and the command makes both."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from foreshock.cli.app import app
from foreshock.lab.guardbench.rates import choosing, suite, trials
from foreshock.lab.guardbench.rates.choosing import collect, compare
from foreshock.lab.guardbench.rates.page import load_rates, rates_page, write_rates
from foreshock.lab.guardbench.rates.tables import verdict
from foreshock.lab.jobs import write_json
from foreshock.lab.spikebench.suite import DEVELOPMENT, HELD_OUT, adam, configure
from lab.guardbench.rates.test_choosing import TABLE, made

pytest.importorskip("matplotlib")


def test_the_page_is_reproducible_from_json(tmp_path):
    data = collect(made(TABLE))
    path = write_json(data, tmp_path / "rates.json")
    first = write_rates(load_rates(path), tmp_path / "a", command="x")
    again = write_rates(load_rates(path), tmp_path / "b", command="x")
    assert [one.name for one in first] == ["rates.md", "rates-loss.svg", "rates-validation.svg"]
    assert [one.read_bytes() for one in first] == [one.read_bytes() for one in again]
    assert first[0].read_text() == rates_page(
        data, command="x", drawn={"loss": "rates-loss.svg", "validation": "rates-validation.svg"}
    )


def test_the_page_says_what_there_is():
    text = rates_page(collect(made(TABLE)[:-1] + made(TABLE, task="language-tiny")), command="x", drawn=DRAWN)
    assert "35 runs, 18 of them of whole seeds" not in text  # a seed of the first task is not whole: 9 + 18
    assert "35 runs, 27 of them of whole seeds, which count" in text
    assert "trained 1 tasks" in text
    assert re.search(r"\| \*\*guard-auto\*\* \| 0\.209 \|", text)


DRAWN = {"loss": "a.svg", "validation": "b.svg"}


def test_the_verdict_names_the_best_and_the_guards_places():
    table = TABLE | {"guard-alone": {0: (9.0, 9.0, 9.0), 1: (9.0, 9.0, 9.0)}}
    text = verdict(compare(collect(made(table))))
    assert "`guard-auto` has the least training loss: 0.209 × Adam's" in text
    assert "`guard-auto` is first of 4 with 0.209 ×; `guard-alone` is 4th of 4 with 3.18 ×." in text


def test_another_file_is_refused(tmp_path):
    (tmp_path / "other.json").write_text('{"runs": []}')
    with pytest.raises(ValueError, match=r"is not the rates\.json that"):
        load_rates(tmp_path / "other.json")


@pytest.fixture
def tiny(monkeypatch):
    """Let there be two tiny tasks, and two rates."""
    options = {"points": 20, "width": 4}
    tasks = (
        configure(DEVELOPMENT, "mlp-one", adam(0.01), 5, 10, **options),
        configure(HELD_OUT, "mlp-two", adam(0.01), 5, 10, **options),
    )
    for module in (suite, choosing):
        monkeypatch.setattr(module, "TASKS", tasks)
    monkeypatch.setattr(suite, "COMPARED", ("adam", "guard-alone"))
    monkeypatch.setattr(trials.rate_trials, "__kwdefaults__", {"seeds": 2, "factors": (1.0, 2.0)})


def test_the_command_trains_what_is_missing_and_compares(tmp_path, tiny):
    arguments = ["bench", "rates", "--out", str(tmp_path), "--jobs", "1"]
    first = CliRunner().invoke(app, arguments)
    assert first.exit_code == 0, first.output
    assert "8 of 8 trainings to run" in first.output
    assert "| **guard-alone** |" in first.output
    again = CliRunner().invoke(app, [*arguments, "--release"])
    assert "8 of 16 trainings to run" in again.output
    assert {run["task"] for run in json.loads((tmp_path / "rates.json").read_text())["runs"]} == {
        "mlp-one",
        "mlp-two",
    }
    assert "`foreshock bench rates --release`" in (tmp_path / "pages" / "rates.md").read_text()


def test_partial_says_what_is_missing(tmp_path, tiny):
    arguments = ["bench", "rates", "--out", str(tmp_path), "--partial"]
    nothing = CliRunner().invoke(app, arguments)
    assert nothing.exit_code == 1
    assert "no result yet" in nothing.output
    unknown = CliRunner().invoke(app, [*arguments, "--task", "mlp-two"])
    assert "no task 'mlp-two' in the development half" in unknown.output


def test_other_processes_find_the_tasks(tmp_path):
    """Trainings of a real task, sent by name; of three steps' cost, since only the name matters."""
    from foreshock.lab.guardbench import run

    trial = trials.rate_trials(suite.TASKS[:1], [run.method("adam")])[0]
    sent = []
    original, run.train_one = run.train_one, lambda found, folder: sent.append((found, folder)) or folder
    try:
        run._train_named(trial.config.name, 0, "adam", 0, tmp_path)
    finally:
        run.train_one = original
    assert sent[0][0].config == trial.config
