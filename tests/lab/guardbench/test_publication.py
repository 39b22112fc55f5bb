"""Scores → tables, figures, the page, and the command that does it all."""

from __future__ import annotations

import dataclasses
import itertools
from functools import partial

import pytest
from typer.testing import CliRunner

from foreshock.cli.app import app
from foreshock.lab.guardbench import cost, methods
from foreshock.lab.guardbench import run as running
from foreshock.lab.guardbench.comparison import compare
from foreshock.lab.guardbench.figures import decades, frontier, shares, untangle, write_heat, write_pareto
from foreshock.lab.guardbench.methods import method
from foreshock.lab.guardbench.publication import load_scores, page_of, summary, write_pages
from foreshock.lab.guardbench.tables import (
    cost_table,
    family_table,
    harm_table,
    method_table,
    overview_table,
    task_table,
    verdict,
)
from foreshock.lab.jobs import write_json
from foreshock.lab.spikebench.suite import DEVELOPMENT, HELD_OUT, adam, configure
from foreshock.report.drawing import figure_class
from lab.guardbench.results import result

TINY = configure(DEVELOPMENT, "mlp-tiny", adam(0.02), 5, 130, points=20, width=8)
OTHER = configure(HELD_OUT, "mlp-hidden", adam(0.02), None, 130, points=20, width=8)
COSTS = {
    "step": 0.0123,
    "parameters": 1234,
    "methods": {"amsgrad": {"median": 1.04, "mean": 1.5, "bytes": 12.0}},
    "larger": {"step": 0.123, "parameters": 123456, "methods": {}},
}


@pytest.fixture(scope="module")
def scores():
    runs = [
        result(spikes=(4.0, 9.0), validation=1.0),
        result("amsgrad", spikes=(5.0,), loss=0.5),
        result("guard-secant", loss=0.1, validation=1.3, acted=0.02),
        result("cdat", loss=50.0),
        result(config="calm", family="control", group="mini"),
        result("guard-secant", config="calm", family="control", group="mini", acted=0.0),
    ]
    return compare(runs) | {"costs": COSTS}


def cells(text, first):
    [line] = [line for line in text.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_holds_what_is_left_and_what_it_cost(scores):
    row = cells(method_table(scores, "development", "full"), "guard-secant")
    assert row[1:5] == ["0", "0", "0", "0"]
    assert row[5:] == ["0.1", "0.1", "0.1", "1.3", "1.3", "1", "2 %", "0"]
    assert cells(method_table(scores, "development", "full"), "adam")[1:4] == ["2", "1", "0"]


def test_a_method_with_fewer_runs_is_told_beside_adam_s_spikes_in_these():
    runs = [result(spikes=(4.0, 9.0)), result(seed=1, spikes=(12.0,)), result("amsgrad", spikes=(5.0,))]
    row = cells(method_table(compare(runs), "development", "full"), "amsgrad, 1 runs")
    assert row[1:4] == ["1 of 2", "0 of 1", "0 of 0"]


def test_families_have_a_column_each(scores):
    text = family_table(scores, "development")
    assert text.splitlines()[0] == "| method | control | mlp |"
    assert cells(text, "guard-secant") == ["guard-secant", "0, 1", "0, 0.1"]
    assert cells(text, "amsgrad") == ["amsgrad", "–", "1, 0.5"]


def test_harm_is_named_for_those_it_is_asked_of(scores):
    text = harm_table(scores, "development", above=1.1, sources=("foreshock",))
    assert cells(text, "guard-secant") == ["guard-secant", "task", "0.1", "1.3", "2 → 0"]
    assert "cdat" not in text
    assert "cdat" in harm_table(scores, "development", above=10.0, sources=("own",))
    assert harm_table(scores, "development", above=2.0, sources=("foreshock",)).startswith("Nowhere")


def test_tasks_and_costs_have_their_numbers(scores):
    assert cells(task_table(scores, "development"), "task")[-1] == "2"
    assert cells(cost_table(COSTS), "amsgrad") == ["amsgrad", "1.04×", "1.50×", "–", "–", "12.0"]
    larger = {"methods": {"amsgrad": {"median": 1.01, "mean": 1.02, "bytes": 12.0}}}
    assert cells(cost_table(COSTS | {"larger": larger}), "amsgrad")[3:5] == ["1.01×", "1.02×"]


def test_the_history_of_the_held_out_half_stands_at_the_end_and_is_announced(scores, tmp_path):
    plain = write_pages(scores, tmp_path, command="x")[0].read_text()
    text = write_pages(scores, tmp_path, command="x", history="## Before\n\nIt was scored twice.")[
        0
    ].read_text()
    assert text.endswith("It was scored twice.\n")
    assert "scored more than once" in text
    assert "scored more than once" not in plain


@pytest.fixture(scope="module")
def both_halves():
    """Return scores of both halves; of the held-out one the guard does well."""
    held_out = [
        result(spikes=(4.0, 9.0, 20.0), split="held-out", config="other"),
        result("guard-auto", spikes=(5.0,), loss=0.5, validation=1.013, split="held-out", config="other"),
        result("amsgrad", spikes=(5.0, 9.0), loss=0.7, validation=1.2, split="held-out", config="other"),
        result("cdat", spikes=(5.0, 9.0), loss=1.7, split="held-out", config="other"),
    ]
    return compare([result(spikes=(4.0,)), result("guard-auto", loss=2.0), *held_out]) | {"costs": COSTS}


def test_the_verdict_names_the_guard_and_the_best_of_the_others(both_halves):
    ours, best = verdict(both_halves, "held-out").split("\n\n")
    assert ours.startswith("In 1 runs the loss spikes 3 times (2 times above 8 ×")
    assert "once (never above 8 × its running median) with `guard-auto`" in ours
    assert "training loss is 0.5 × Adam's, the validation loss 1.01 ×; in 0 of 1 runs" in ours
    assert "Of the 2 methods by others `amsgrad` leaves the fewest spikes: the loss spikes 2 times" in best
    assert "in 1 of 1 runs one of the two is above 1.1 × Adam's" in best
    assert verdict(both_halves, "development").endswith("above 1.1 × Adam's.")


def test_without_the_guard_there_is_no_verdict(scores):
    assert verdict(scores, "development") == ""


def test_the_overview_has_adam_first_and_then_who_leaves_fewest(both_halves):
    lines = overview_table(both_halves, "held-out").splitlines()
    assert lines[0] == "| method | Full batch: spikes | loss | validation | harmed, of 1 | step time |"
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["adam", "**guard-auto**", "amsgrad", "cdat"]
    assert cells("\n".join(lines), "amsgrad")[1:] == ["2", "0.7", "1.2", "1", "1.50×"]
    assert cells("\n".join(lines), "adam")[-1] == "–"


def test_the_held_out_half_comes_first_and_the_other_has_a_page_of_its_own(both_halves, tmp_path):
    main, other, *figures = write_pages(both_halves, tmp_path, command="x")
    assert (main.name, other.name) == ("guard.md", "guard-development.md")
    text, further = main.read_text(), other.read_text()
    assert "guard-held-out-full.svg" in text
    assert "guard-development-full.svg" not in text
    assert "guard-development-full.svg" in further
    assert "(guard-development.md)" in text
    assert "(guard.md)" in further
    assert "on which nothing was chosen" in text
    assert "on which rules and constants" in further
    assert len(figures) == 4


def test_another_suite_has_pages_and_figures_of_its_own(both_halves, tmp_path):
    main, other, *figures = write_pages(both_halves, tmp_path, command="x", name=page_of("normalised"))
    assert (main.name, other.name) == ("guard-normalised.md", "guard-normalised-development.md")
    assert main.read_text().startswith("# Methods against loss spikes, with batch normalisation\n")
    assert "(guard-normalised-development.md)" in main.read_text()
    assert "(guard-normalised.md)" in other.read_text()
    assert all(path.name.startswith("guard-normalised-") for path in figures)
    assert page_of("full") == page_of("quick") == "guard"


def test_unknown_groups_are_refused(scores):
    with pytest.raises(ValueError, match="no group 'language' of split 'development'"):
        method_table(scores, "development", "language")
    with pytest.raises(ValueError, match="split is 'held-out'"):
        family_table(scores, "held-out")


def test_every_row_has_as_many_cells_as_its_header(scores, tmp_path):
    text = write_pages(scores, tmp_path, command="x")[0].read_text()
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.strip().splitlines()}) == 1


def test_the_page_shows_every_method_and_names_its_figures(scores, tmp_path):
    page, *figures = write_pages(scores, tmp_path, command="foreshock bench guard --suite quick")
    text = page.read_text()
    assert "`foreshock bench guard --suite quick`" in text
    assert page.name == "guard.md"
    # The controls of the mini-batches have no spike, and so no picture of how many are left.
    assert {path.name for path in figures} == {"guard-development-full.svg", "guard-development-tasks.svg"}
    assert all(path.name in text and path.stat().st_size > 500 for path in figures)
    run = {"adam", "amsgrad", "guard-secant", "cdat"}
    assert {name for name in scores["methods"] if f"| {name} |" in text} == run
    assert "Held-out" not in text
    assert "12.3 ms" in text


def test_a_page_without_costs(scores, tmp_path):
    text = write_pages(scores | {"costs": None}, tmp_path, command="x")[0].read_text()
    assert "What they cost" not in text


def test_points_are_shares_of_adam_s_spikes(scores):
    points = shares(scores["scores"]["development"]["full"])
    assert [name for name, _, _ in points] == ["adam", "amsgrad", "cdat", "guard-secant"]
    assert [x for _, x, _ in points] == pytest.approx([1, 0.5, 10, 0.1])
    assert [y for _, _, y in points] == [1, 0.5, 0, 0]
    assert frontier(points) == {"guard-secant"}


def test_nothing_to_draw_is_an_error(scores, tmp_path):
    with pytest.raises(ValueError, match="no spike in these runs"):
        write_pareto(scores["scores"]["development"]["mini"], tmp_path / "a.svg")
    with pytest.raises(ValueError, match="no task to draw"):
        write_heat([], tmp_path / "b.svg")


def test_a_tenth_of_the_loss_is_full_colour():
    assert [decades({"loss": loss}) for loss in (1e-3, 0.1, 1.0, 10.0, None)] == [-1, -1, 0, 1, 1]


def test_scores_are_read_back(scores, tmp_path):
    read = load_scores(write_json(scores, tmp_path / "scores.json"))
    assert summary(read, "development") == summary(scores, "development")
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ValueError, match="not a file of GuardBench's scores"):
        load_scores(tmp_path / "other.json")


def test_labels_at_one_place_are_stacked():
    figure = figure_class()(figsize=(4, 3))
    axis = figure.subplots()
    labels = [
        axis.annotate("a long name", (0.5, y), xytext=(5, 2), textcoords="offset points")
        for y in (0.5, 0.5, 0.52, 0.9)
    ]
    untangle(figure, labels)
    figure.draw_without_rendering()
    boxes = [one.get_window_extent() for one in labels]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert labels[0].xyann == labels[3].xyann == (5, 2)


@pytest.fixture
def tiny(monkeypatch):
    """Let the suite be two tiny configurations, and measure costs of two methods on one of them."""
    chosen = tuple(method(name) for name in ("adam", "amsgrad", "guard-secant"))
    monkeypatch.setattr(running, "suite", lambda size: (TINY, OTHER))
    monkeypatch.setattr(methods.table, "METHODS", chosen)
    measured = partial(cost.measure_costs, chosen, subject=TINY, rounds=2)
    monkeypatch.setattr(cost, "measure_all_costs", lambda: measured() | {"larger": measured()})


def test_the_command_trains_what_is_missing_and_scores_it(tmp_path, tiny):
    arguments = ["bench", "guard", "--out", str(tmp_path), "--jobs", "1"]
    first = CliRunner().invoke(app, arguments)
    assert first.exit_code == 0, first.output
    assert "3 of 3 trainings to run" in first.output
    assert "3/3  mlp-tiny-0-guard-secant" in first.output
    assert "| guard-secant |" in first.output
    assert {task["config"] for task in load_scores(tmp_path / "scores.json")["tasks"]} == {"mlp-tiny"}
    page = (tmp_path / "pages" / "guard.md").read_text()
    assert "What they cost" in page
    again = CliRunner().invoke(app, arguments)
    assert "trainings to run" not in again.output


def test_the_held_out_half_is_run_only_for_a_release(tmp_path, tiny):
    arguments = ["bench", "guard", "--out", str(tmp_path), "--jobs", "1"]
    CliRunner().invoke(app, arguments)
    released = CliRunner().invoke(app, [*arguments, "--release"])
    assert "3 of 6 trainings to run" in released.output
    assert "## held-out" in released.output
    assert "bench guard --suite quick --release" in (tmp_path / "pages" / "guard.md").read_text()


def test_methods_are_chosen_by_name_and_adam_is_always_there(tmp_path, tiny):
    arguments = ["bench", "guard", "--out", str(tmp_path), "--jobs", "1"]
    chosen = CliRunner().invoke(app, [*arguments, "--method", "guard-secant"])
    assert chosen.exit_code == 0, chosen.output
    assert {path.stem for path in (tmp_path / "results").iterdir()} == {
        "mlp-tiny-0-adam",
        "mlp-tiny-0-guard-secant",
    }
    page = (tmp_path / "pages" / "guard.md").read_text()
    assert "What they cost" not in page
    assert "`foreshock bench guard --suite quick --method guard-secant`" in page
    unknown = CliRunner().invoke(app, [*arguments, "--method", "guard"])
    assert unknown.exit_code == 1
    assert "there is no method 'guard'" in unknown.output


def test_partial_scores_what_is_there_and_says_if_nothing_is(tmp_path, tiny):
    nothing = CliRunner().invoke(app, ["bench", "guard", "--out", str(tmp_path), "--partial"])
    assert nothing.exit_code == 1
    assert "nothing to compare" in nothing.output
    trial = running.Trial(TINY, 0, method("adam"))
    running.run_suite([trial], tmp_path / "results")
    some = CliRunner().invoke(app, ["bench", "guard", "--out", str(tmp_path), "--partial"])
    assert some.exit_code == 0, some.output
    assert "What they cost" not in (tmp_path / "pages" / "guard.md").read_text()


def test_the_high_rate_keeps_its_family():
    assert dataclasses.replace(OTHER, rate="high").category == "mlp"
    assert dataclasses.replace(TINY, outliers=0.1).category == "outliers"
