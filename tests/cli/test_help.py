"""Help, completion and the reference page: every command, nothing imported for it, nothing stale."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from ast import literal_eval
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = [
    (),
    ("demo",),
    ("report",),
    ("figure",),
    ("watch",),
    ("status",),
    ("runs",),
    ("top",),
    ("explain",),
    ("import",),
    ("compare",),
    ("replay",),
    ("advise",),
    ("curvature",),
    ("doctor",),
    ("bench",),
    ("bench", "forecast"),
    ("bench", "guard"),
    ("bench", "probability"),
    ("bench", "tapes"),
    ("bench", "causes"),
    ("bench", "rewind"),
    ("bench", "advice"),
    ("bench", "rates"),
    ("reproduce",),
]
HEAVY = ("torch", "numpy", "matplotlib", "jinja2", "sklearn", "starlette", "uvicorn")

SHOW = """
import io, sys
from contextlib import redirect_stdout
from foreshock.cli.app import app
for words in {commands!r}:
    for flag in ("-h", "--help"):
        with redirect_stdout(io.StringIO()) as shown:
            status = app([*words, flag], prog_name="foreshock", standalone_mode=False)
        print(repr((words, flag, status, shown.getvalue())))
print(repr([name for name in {heavy!r} if name in sys.modules]))
"""


@pytest.fixture(scope="module")
def helps():
    """Return the help of every command by its words, and what heavy modules showing it imported."""
    script = SHOW.format(commands=COMMANDS, heavy=HEAVY)
    environment = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env=environment
    )
    assert run.returncode == 0, run.stderr
    *shown, heavy = map(literal_eval, run.stdout.splitlines())
    return {(words, flag): text for words, flag, _, text in shown}, heavy


def test_help_imports_nothing_heavy(helps):
    assert helps[1] == []


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_help_under_both_flags(helps, words):
    short, long = (helps[0][words, flag] for flag in ("-h", "--help"))
    assert short == long
    assert f"Usage: {' '.join(('foreshock', *words))}" in short


def test_the_product_comes_first_and_research_after_it_in_a_panel_of_its_own(helps):
    shown = helps[0][(), "--help"]
    titles = ["Options", "Commands", "Research"]
    places = [shown.index(f" {title} ") for title in titles]
    assert places == sorted(places)
    commands, research = shown[places[1] : places[2]], shown[places[2] :]
    assert re.findall(r"^\W*(demo|report|curvature|bench|reproduce)\b", commands, re.M) == [
        "demo",
        "report",
        "curvature",
    ]
    assert set(re.findall(r"^\W*(demo|report|curvature|bench|reproduce)\b", research, re.M)) == {
        "bench",
        "reproduce",
    }
    assert "--install-completion" in shown
    assert "--show-completion" in shown


def test_nothing_but_the_commands_of_this_list_is_registered():
    from foreshock.cli.app import app

    plain = {(command.name or command.callback.__name__,) for command in app.registered_commands}
    groups = {(group.name,) for group in app.registered_groups}
    inside = {
        (group.name, command.callback.__name__)
        for group in app.registered_groups
        for command in group.typer_instance.registered_commands
    }
    assert {(), *plain, *groups, *inside} == set(COMMANDS)


def foreshock(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "foreshock", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )


def test_the_shell_completes_commands():
    typed = {"_FORESHOCK_COMPLETE": "complete_bash", "COMP_WORDS": "foreshock re", "COMP_CWORD": "1"}
    assert sorted(foreshock(**typed).stdout.split()) == ["replay", "report", "reproduce"]
    assert "complete" in foreshock(_FORESHOCK_COMPLETE="source_bash").stdout


def test_the_reference_page_says_what_the_commands_say(helps):
    spec = importlib.util.spec_from_file_location("command_line", ROOT / "docs" / "command_line.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    page = maker.PAGE.read_text(encoding="utf-8")
    assert page == maker.command_line_page(), "run python docs/command_line.py"
    # Read from what typer shows, not from what the page was made of.
    for words in COMMANDS:
        names = re.findall(r"(?<![\w-])--[a-z][a-z-]+", helps[0][words, "-h"])
        for name in set(names) - {"--help", "--show-completion"}:
            section = page
            if words and words != ("bench",):
                section = page.split(f"### foreshock {' '.join(words)}\n")[1].split("\n### ")[0]
            assert f"`{name}" in section or f" {name}`" in section, f"{words}: {name}"
