"""What commands print for scripts: JSON as the reference page says, and exit statuses."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from typer.testing import CliRunner

from foreshock.cli.app import app
from foreshock.runlog import RunLogWriter
from foreshock.spikes import LossEvent
from live_logs import calm, forecast, spiky

ROOT = Path(__file__).parents[2]
FOREIGN = "$\\frac{ [bold]x[/] <img src=x onerror=alert(1)> | \x1b]52;c;cm0gLXJm\x07 \u202eevil"


@pytest.fixture(scope="module")
def page():
    """Return the maker of the reference page."""
    spec = importlib.util.spec_from_file_location("json_output", ROOT / "docs" / "json_output.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def write(folder, rows, **meta):
    log = RunLogWriter(folder, meta=meta)
    log.write_many(rows)
    log.close()
    return folder


def alarm(step, level="alarm"):
    return ("alarm", {"step": step, "level": level, "reason": "why", "forecast": forecast(step)[1]})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs by the worst that happened in them."""
    folder = tmp_path_factory.mktemp("runs")
    # A step record is never logged after a later one.
    diverged = [*spiky()[:700], *calm(700, 1400, loss=30.0)]
    lost = calm(0, 300)
    lost[-1][1]["loss"] = math.nan
    return {
        "none": write(folder / "none", [*calm(0, 300), alarm(200, "watch")]),
        "alarm": write(folder / "alarm", [*calm(0, 300), alarm(200)]),
        "spike": write(folder / "spike", spiky(), name=FOREIGN, description=FOREIGN),
        "divergence": write(folder / "divergence", diverged),
        "nan": write(folder / "nan", lost),
    }


def run(*arguments: Any, **options: Any) -> Any:
    return CliRunner().invoke(app, list(map(str, arguments)), **options)


def complaints(value: Any, kind: Any, page: Any, place: str = "") -> list[str]:
    """Return where a value that was printed is not of the type that the page says."""
    kind = LossEvent if isinstance(kind, typing.TypeVar) else kind
    origin, inner = get_origin(kind), get_args(kind)
    record = origin or kind
    if dataclasses.is_dataclass(record):
        expected = page.fields(record)
        if not isinstance(value, dict) or list(value) != list(expected):
            return [f"{place}: {value!r} has not the fields of {record.__name__}"]
        return [
            c for name, one in expected.items() for c in complaints(value[name], one, page, f"{place}.{name}")
        ]
    if origin in (types.UnionType, typing.Union):
        found = [complaints(value, one, page, place) for one in inner]
        return [] if any(not one for one in found) else found[0]
    if origin is Literal:
        return [] if value in inner else [f"{place}: {value!r}"]
    if origin in (tuple, list, Sequence):
        if not isinstance(value, list):
            return [f"{place}: {value!r}"]
        kinds = inner if origin is tuple and inner[-1] is not Ellipsis else [inner[0]] * len(value)
        return [c for i, one in enumerate(value) for c in complaints(one, kinds[i], page, f"{place}[{i}]")]
    if origin in (dict, Mapping):
        return [] if isinstance(value, dict) else [f"{place}: {value!r}"]
    allowed = {
        str: (str,),
        int: (int,),
        bool: (bool,),
        float: (float, int, type(None)),
        type(None): (type(None),),
        Any: (object,),
    }.get(kind, (str,))
    infinite = kind is float and value in ("Infinity", "-Infinity")
    wrong = not isinstance(value, allowed) or (kind in (int, float) and isinstance(value, bool))
    return [f"{place}: {value!r} is no {kind}"] if wrong and not infinite else []


CHECKPOINT = """
import torch
def factory():
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    return model, lambda m, b: m(b).square().mean(), torch.optim.Adam(model.parameters())
batches = [torch.ones(4, 3)]
"""


@pytest.fixture(scope="module")
def printed(runs, tmp_path_factory):
    """What each command prints, by command; it is cut off here from what is slow: the demo."""
    from foreshock.demo.digits_cnn import DigitsConfig
    from foreshock.demo.stdlib_transformer import TransformerConfig

    folder = tmp_path_factory.mktemp("printed")
    (folder / "trained.py").write_text(CHECKPOINT)
    (folder / "log.csv").write_text("step,train/loss,lr\n0,1.5,0.1\n1,1.25,0.1\n")
    checkpoint = folder / "c.pt"
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(folder))
        model, loss_fn, optimizer = importlib.import_module("trained").factory()
        loss_fn(model, torch.ones(4, 3)).backward()
        optimizer.step()
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, checkpoint)
        patched.setattr(DigitsConfig, "quick", lambda *, seed: DigitsConfig(steps=12, images=20, seed=seed))
        patched.setattr(TransformerConfig, "quick", lambda *, seed: TransformerConfig(steps=12, seed=seed))
        named = ["--model", "trained:factory", "--data", "trained:batches"]
        calls = {
            "status": ["status", runs["spike"]],
            "runs": ["runs", runs["spike"].parent],
            "report": ["report", *runs.values()],
            "figure": ["figure", runs["spike"], "-o", folder / "x.svg", "--kind", "loss"],
            "explain": ["explain", runs["spike"]],
            "compare": ["compare", *runs.values(), "-o", folder / "all.html"],
            "curvature": ["curvature", checkpoint, *named],
            "doctor": ["doctor", checkpoint],
            "import": ["import", folder / "log.csv", "-o", folder / "imported"],
            "demo": ["demo", "--quick", "--out", folder / "demo"],
        }
        return {name: run(*words, "--json") for name, words in calls.items()}


def test_the_page_says_what_the_records_say(page):
    assert page.PAGE.read_text(encoding="utf-8") == page.json_output_page(), "run python docs/json_output.py"


def test_every_command_with_the_option_is_on_the_page(page):
    named = {
        command.name or command.callback.__name__
        for command in app.registered_commands
        if "as_json" in command.callback.__annotations__
    }
    assert named == set(page.RESULTS)


def test_commands_print_what_the_page_says(page, printed):
    # Those two have a training to replay, in tests/cli/test_replay.py.
    for name in page.RESULTS.keys() - {"replay", "advise"}:
        what = page.RESULTS[name]
        result = printed[name]
        assert result.exit_code == 0, (name, result.output)
        found = json.loads(result.stdout, parse_constant=pytest.fail)
        assert (found["schema"], found["command"]) == (1, name)
        kind = page.result_type(what)
        assert complaints(found["result"], list[kind] if what.startswith("list") else kind, page, name) == []


def test_nothing_that_is_printed_commands_the_terminal(printed):
    for name, result in printed.items():
        assert "\x1b" not in result.stdout, name
        assert "\u202e" not in result.stdout, name


LEVELS = ["alarm", "spike", "divergence"]
STATUS = {"none": 0, "alarm": 3, "spike": 4, "divergence": 5, "nan": 5}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("command", [["status"], ["report", "--format", "md"], ["report"], ["explain"]])
def test_the_exit_status_says_the_worst_that_happened(runs, command, level, tmp_path):
    output = ["-o", tmp_path / "page.html"] if command == ["report"] else []
    for worst, expected in STATUS.items():
        bad_enough = worst != "none" and (worst == "nan" or LEVELS.index(worst) >= LEVELS.index(level))
        result = run(*command, runs[worst], *output, "--fail-on", level)
        assert result.exit_code == (expected if bad_enough else 0), (worst, result.output)


def test_of_several_runs_the_worst_decides(runs, tmp_path):
    assert run("runs", runs["none"].parent, "--fail-on", "spike").exit_code == 5
    assert run("report", runs["none"], runs["alarm"], "--json", "--fail-on", "alarm").exit_code == 3
    assert run("runs", runs["none"].parent).exit_code == 0


def test_what_happened_long_ago_can_be_left_out(runs):
    asked = ["status", runs["spike"], "--fail-on", "alarm", "--last"]
    assert run(*asked, 100).exit_code == 0
    assert run(*asked, 400).exit_code == 4


def test_what_is_wrong_is_one_line_and_nothing_on_standard_output(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "rank0.jsonl").touch()
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
    for command in ("status", "report", "explain"):
        for place in ("none", "empty", "other.jsonl"):
            result = run(command, tmp_path / place, "--json")
            assert result.exit_code == 1, (command, place)
            assert result.stdout == ""
            assert result.stderr.count("\n") == 1
