"""No test looks at a wall clock: a busy machine would fail it. Speed is measured in benchmarks/.

What a test waits for, it waits for long: the limit only ends a test that would never end.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import settings

TESTS = Path(__file__).parent
CLOCKS = {"time", "timeit"}
ALLOWED = {
    "benchmarks/test_gpu.py",  # tells a check when it began
    "cli/test_terminal.py",  # waits until a terminal shows what it should
    "distributed/processes.py",  # lets one process be slower than the other
    "distributed/sharded.py",  # lets one process be slower than the others wait
    "distributed/rewinding.py",  # sees that a process that stays away is not waited for without end
    "isolation/processes.py",  # lets one process be slower than the other
    "lab/test_interrupts.py",  # waits until processes have ended
    "live_logs.py",  # waits until a server has done what it is asked for, however slow the machine is
}
"""Files that may import a clock, relative to tests/, with the reason beside each."""

PATIENCE = 60
"""Least seconds to wait for a process or thread: a busy machine may take half of it to import torch."""
WAITS = {"alarm", "communicate", "join", "wait"}
"""Calls whose first number is how long they wait."""
IMPATIENT = {"Delivery(sink, limit=5, timeout=0.05)"}
"""Waits that must be short: this one is what is tested."""


def clocks(source: str) -> list[str]:
    """Return the modules with clocks that a source imports, and the clocks that it reads by name."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in CLOCKS]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in CLOCKS:
            found.append(str(node.module))
        elif isinstance(node, ast.Attribute) and node.attr in ("sleep", "monotonic", "process_time"):
            found.append(node.attr)
    return found


def test_no_test_imports_a_clock():
    files = sorted(TESTS.rglob("*.py"))
    assert len(files) > 100
    reading = {str(path.relative_to(TESTS)): clocks(path.read_text("utf-8")) for path in files}
    assert {name for name, found in reading.items() if found} == ALLOWED


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import time", ["time"]),
        ("from time import perf_counter", ["time"]),
        ("import os, timeit as t", ["timeit"]),
        ("def f():\n    import time\n    time.sleep(1)", ["time", "sleep"]),
        ("clock.perf_counter()\nimport datetime", []),
    ],
)
def test_clocks_are_found(source, found):
    assert clocks(source) == found


def numbers(values: list[ast.expr]) -> list[float]:
    """Return the numbers among expressions, those of seconds in a time difference too."""
    inner = [
        k.value for one in values if isinstance(one, ast.Call) for k in one.keywords if k.arg == "seconds"
    ]
    return [
        one.value
        for one in values + inner
        if isinstance(one, ast.Constant) and type(one.value) in (int, float)
    ]


def short_waits(source: str) -> list[str]:
    """Return the calls that wait for less than `PATIENCE`, and the functions with such a default."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            limits = [
                one.value
                for one in node.keywords
                if one.arg == "timeout" or (one.arg, name) == ("seconds", "until")
            ]
            limits += node.args if name in WAITS else []
            if any(0 < limit < PATIENCE for limit in numbers(limits)):
                found.append(ast.unparse(node))
        elif isinstance(node, ast.FunctionDef):
            given = [*zip(node.args.args[::-1], node.args.defaults[::-1], strict=False)]
            given += zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            limits = [default for one, default in given if one.arg in ("seconds", "timeout") and default]
            if any(0 < limit < PATIENCE for limit in numbers(limits)):
                found.append(f"def {node.name}")
    return found


def test_a_test_is_patient():
    found = {call for path in sorted(TESTS.rglob("*.py")) for call in short_waits(path.read_text("utf-8"))}
    assert found == IMPATIENT


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("run([1], timeout=20)", ["run([1], timeout=20)"]),
        ("thread.join(timeout=5.5); thread.join(60); ', '.join(names)", ["thread.join(timeout=5.5)"]),
        ("writer.wait(30); process.wait(); page.wait_for(1)", ["writer.wait(30)"]),
        ("start(timeout=dt.timedelta(seconds=30))", ["start(timeout=dt.timedelta(seconds=30))"]),
        ("until(done, seconds=20); summary(seconds=2)", ["until(done, seconds=20)"]),
        ("def until(true, *, seconds=20.0): pass\ndef far(seconds=90, *, timeout): pass", ["def until"]),
        ("seen.wait_for_selector('p', timeout=60_000)", []),
    ],
)
def test_short_waits_are_found(source, found):
    assert short_waits(source) == found


def deadlines(source: str) -> list[str]:
    """Return what a source says of the deadlines of properties."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [ast.unparse(one) for one in calls if any(option.arg == "deadline" for option in one.keywords)]


def test_no_property_has_a_deadline():
    assert settings.default.deadline is None
    set_in = {
        str(path.relative_to(TESTS)) for path in TESTS.rglob("*.py") if deadlines(path.read_text("utf-8"))
    }
    assert set_in == {"conftest.py"}


def test_deadlines_are_found():
    assert deadlines("@settings(max_examples=3, deadline=100)\ndef f(deadline=1): pass") == [
        "settings(max_examples=3, deadline=100)"
    ]
