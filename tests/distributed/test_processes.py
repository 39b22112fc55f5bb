"""Processes that are watched together: they see what one process would, and nobody waits or drifts apart."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from distributed.processes import APART
from foreshock.report.ranks import compare_ranks
from foreshock.runlog import read_run

_SCRIPT = Path(__file__).with_name("processes.py")


def run(folder, *arguments):
    return subprocess.run(
        [sys.executable, str(_SCRIPT), str(folder), *arguments],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


# In one start, which would be most of the time; the last "scenario" that is printed is the one that failed.
@pytest.mark.distributed
def test_two_processes(tmp_path):
    found = run(tmp_path, "all")
    assert found.returncode == 0, found.stderr[-5000:]


@pytest.mark.distributed
@pytest.mark.parametrize("scenario", [one.__name__ for one in APART])
def test_two_processes_of_which_one_ends(scenario, tmp_path):
    found = run(tmp_path, scenario)
    assert found.returncode == 0, found.stderr[-5000:]
    # The report on all ranks says which one it was.
    ranks = compare_ranks(read_run(tmp_path / "logs" / scenario))
    assert ("ends early", 1) in [(one.what, one.rank) for one in ranks.departures]


@pytest.mark.distributed
def test_four_processes(tmp_path):
    found = run(tmp_path, "four", "4")
    assert found.returncode == 0, found.stderr[-5000:]
