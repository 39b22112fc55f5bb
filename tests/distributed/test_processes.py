"""Processes that are watched together: they see what one process would, and nobody waits or drifts apart."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from distributed.processes import APART, ON_FOUR, SCENARIOS

_SCRIPT = Path(__file__).with_name("processes.py")


def run(folder, *arguments):
    return subprocess.run(
        [sys.executable, str(_SCRIPT), str(folder), *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.distributed
@pytest.mark.parametrize("scenario", [one.__name__ for one in (*SCENARIOS, *APART)])
def test_two_processes(scenario, tmp_path):
    found = run(tmp_path, scenario)
    assert found.returncode == 0, found.stderr[-3000:]


@pytest.mark.distributed
@pytest.mark.parametrize("scenario", [one.__name__ for one in ON_FOUR])
def test_four_processes(scenario, tmp_path):
    found = run(tmp_path, scenario, "4")
    assert found.returncode == 0, found.stderr[-3000:]
