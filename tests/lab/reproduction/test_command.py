"""The command as a user runs it."""

import io
import subprocess
import sys

import pytest
from rich.console import Console
from typer.testing import CliRunner

from foreshock.cli.app import app
from foreshock.lab.commands.reproduce import _progress
from foreshock.lab.reproduction.results import load_result
from foreshock.runlog import read_run

TINY = ["--set", "steps=600", "--set", "grid=3", "--set", "grid_steps=50"]


def reproduce(*arguments):
    return CliRunner().invoke(app, ["reproduce", *map(str, arguments)])


def test_a_run_is_kept_judged_told_and_resumed(tmp_path):
    shown = reproduce("quadratic", *TINY, "--seeds", 2, "--out", tmp_path)
    assert shown.exit_code == 0, shown.output
    assert "quadratic, seed 1: 3 of 3" in shown.output
    assert "confirmed: Gradient descent with the same learning rate" in shown.output
    result = load_result(tmp_path / "results" / "cpu" / "quadratic.json")
    assert result.seeds == [0, 1]
    assert result.command == (
        "foreshock reproduce quadratic --seeds 2 --set steps=600 --set grid=3 --set grid_steps=50"
    )
    assert result.settings["grid"] == 3
    assert read_run(tmp_path / "cpu" / "quadratic" / "seed1").steps("step").size == 600
    page = (tmp_path / "pages" / "reproduction.md").read_text()
    assert "images/reproduction/quadratic-cycle.png" in page
    again = reproduce("quadratic", *TINY, "--seeds", 2, "--out", tmp_path)
    assert again.exit_code == 0
    assert "seed 1" not in again.output


def test_a_run_at_the_middle_scale_is_kept_with_its_device(tmp_path):
    tiny = ["steps=110", "warmup_steps=5", "examples=24", "batch_size=6", "probe_examples=12", "layers=1"]
    tiny += ["probe_every=100", "direction_every=100", "width=8", "heads=2", "length=4"]
    words = [word for one in tiny for word in ("--set", one)]
    shown = reproduce("llm", "--scale", "medium", "--device", "cpu", "--seeds", 1, *words, "--out", tmp_path)
    assert shown.exit_code == 0, shown.output
    result = load_result(tmp_path / "results" / "medium" / "llm.json")
    assert result.command.endswith("--set length=4 --device cpu")
    assert result.notes == ["Text: source of the standard library of Python."]
    assert (tmp_path / "pages" / "images" / "reproduction" / "llm-medium-loss.png").exists()
    assert "(reproduce-llm-medium)=" in (tmp_path / "pages" / "reproduction.md").read_text()


def test_seeds_may_begin_later(tmp_path):
    shown = reproduce("quadratic", *TINY, "--seeds", 1, "--first-seed", 4, "--out", tmp_path)
    assert shown.exit_code == 0, shown.output
    result = load_result(tmp_path / "results" / "cpu" / "quadratic.json")
    assert result.seeds == [4]
    assert "--seeds 1 --first-seed 4" in result.command
    assert (tmp_path / "pages" / "images" / "reproduction" / "quadratic-cycle.png").exists()


def test_the_pages_alone(tmp_path):
    reproduce("quadratic", *TINY, "--seeds", 1, "--out", tmp_path)
    shown = reproduce("page", "--results", tmp_path / "results", "--docs", tmp_path / "docs")
    assert shown.exit_code == 0, shown.output
    assert (tmp_path / "docs" / "explanation" / "principles.md").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gan"], "There is no experiment 'gan'; there are quadratic"),
        (
            ["fnn-1d", "--scale", "medium"],
            "There is no experiment 'fnn-1d' at scale medium; there are transf",
        ),
        (["llm", "--scale", "medium", "--set", "shorter=0.9999"], "shorter is 0.9999; it must be a β₂ below"),
        (["quadratic", "--set", "grit=3"], "There is no setting 'grit'; there are steps, learning_rate"),
        (["quadratic", "--set", "steps=none"], "steps is 'none'; it must be a whole number"),
        (["all", "--set", "steps=3"], "--set changes one experiment"),
        (["page"], "there are no results in"),
        (["cnn", "--data", "nowhere", "--seeds", "1"], "There is no CIFAR-10 at nowhere"),
        (["llm", "--text", "nowhere.txt", "--seeds", "1"], "There is no text file nowhere.txt"),
    ],
)
def test_mistakes_are_told_in_a_line(arguments, message, tmp_path):
    shown = reproduce(*arguments, "--out", tmp_path)
    assert shown.exit_code == 1
    assert f"error: {message}" in shown.output


def test_every_part_of_an_experiment_shows_its_progress():
    console = Console(file=io.StringIO(), width=80)
    advance = _progress(console, "toy", 0)
    for _ in range(2):
        for done in range(1, 9):
            advance(done, 8)
    shown = console.file.getvalue().splitlines()
    assert shown == 2 * [f"  toy, seed 0: {done} of 8" for done in (2, 4, 6, 8)]


def test_help_tells_the_experiments():
    shown = reproduce("--help")
    assert shown.exit_code == 0
    for word in ("quadratic", "interventions", "--scale"):
        assert word in shown.output


def test_help_imports_no_torch():
    script = (
        "import sys; from foreshock.cli.app import app; from typer.testing import CliRunner; "
        "shown = CliRunner().invoke(app, ['reproduce', '--help']); "
        "sys.exit(shown.exit_code or 'torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
