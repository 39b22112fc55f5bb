"""No test looks at a wall clock: a busy machine would fail it. Speed is measured in benchmarks/."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
CLOCKS = {"time", "timeit"}
ALLOWED = {
    "benchmarks/test_gpu.py",  # tells a check when it began
    "cli/test_terminal.py",  # waits until a terminal shows what it should
    "distributed/processes.py",  # lets one process be slower than the other
    "distributed/rewinding.py",  # sees that a process that stays away is not waited for without end
    "isolation/processes.py",  # lets one process be slower than the other
    "lab/test_interrupts.py",  # waits until processes have ended
    "live_logs.py",  # waits until a server has done what it is asked for, however slow the machine is
}
"""Files that may import a clock, relative to tests/, with the reason beside each."""


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
