"""Run the tests of what the product promises on a GPU, ``tests/test_cuda.py``, and keep what came of each."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree as ET

from benchmarks.gpu.setting import Keep, Result, Setting

_ROOT = Path(__file__).parents[2]
_TESTS = "tests/test_cuda.py"
_LONGEST = 600  # characters of a failure that are kept


def measure(setting: Setting, keep: Keep) -> None:
    """Run the tests in several processes, and keep their outcomes."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-v",
            _TESTS,
            f"--junitxml={report}",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:benchmark",
        ]
        command += ["-n", str(_processes(setting))]
        path = os.pathsep.join([str(_ROOT / "src"), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"FORESHOCK_TEST_DEVICE": setting.device, "PYTHONPATH": path}
        try:
            ended = subprocess.run(  # noqa: S603 - of our own
                command,
                cwd=_ROOT,
                env=environment,
                capture_output=True,
                text=True,
                timeout=max(setting.left, 30),
                check=False,
            )
            output = ended.stdout + ended.stderr
        except subprocess.TimeoutExpired as error:
            output = (error.stdout or b"").decode(errors="replace")
        if report.exists():
            keep(outcomes(report))
        else:
            keep({"tests": printed(output), "output": output[-2000:]})


def _processes(setting: Setting) -> int:
    """Return how many processes run the tests; 0 runs them in one, without any beside it."""
    cores = len(os.sched_getaffinity(0))
    return min(4, cores) if setting.is_cuda and cores > 1 else 0


def printed(output: str) -> list[Result]:
    """Return the tests that had ended when there was no time left for the report.

    Args:
        output: What ``pytest -v`` printed, by one process or by several.
    """
    words = {"PASSED": "passed", "FAILED": "failure", "ERROR": "error", "SKIPPED": "skipped"}
    several = re.findall(r"(PASSED|FAILED|ERROR|SKIPPED) \S+?::(\S.*)", output)
    one = re.findall(r"::(test_\S.*?) (PASSED|FAILED|ERROR|SKIPPED)", output)
    found = [*several, *((word, name) for name, word in one)]
    return [{"name": name.strip(), "outcome": words[word], "seconds": 0.0} for word, name in found]


def outcomes(report: Path) -> Result:
    """Return the tests of a JUnit report: name, outcome, seconds, and how a failure begins.

    Args:
        report: The XML file that pytest wrote.
    """
    tests = []
    for case in ET.parse(report).getroot().iter("testcase"):  # noqa: S314 - of our own
        found = {child.tag: child for child in case}
        outcome = next((tag for tag in ("failure", "error", "skipped") if tag in found), "passed")
        row: Result = {
            "name": case.get("name", ""),
            "outcome": outcome,
            "seconds": float(case.get("time", 0)),
        }
        if outcome != "passed":
            row["message"] = (found[outcome].get("message") or "")[:_LONGEST]
        tests.append(row)
    return {"tests": tests}
