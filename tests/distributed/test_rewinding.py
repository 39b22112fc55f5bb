"""Processes that train together go back together, or none does; behind DDP and FSDP2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPT = Path(__file__).with_name("rewinding.py")
_SCENARIOS = (
    "a_nan_of_one_process_takes_both_back",
    "both_go_back_by_hand",
    "what_one_refuses_is_done_in_none",
    "shards_go_back_together",
    "shards_are_resumed_bit_by_bit",
    "one_that_goes_back_alone_is_told_so",
    "a_single_watched_process_goes_on",
)
_OF_FOUR = ("a_grid_goes_back_together", "a_snapshot_of_two_is_refused_in_four")


# In one start, which would be most of the time; the last "scenario" that is printed is the one that failed.
@pytest.mark.distributed
@pytest.mark.parametrize(("processes", "scenarios"), [(2, _SCENARIOS), (4, _OF_FOUR)])
def test_processes_go_back_together(processes, scenarios, tmp_path):
    found = subprocess.run(
        [sys.executable, str(_SCRIPT), str(tmp_path), str(processes), *scenarios],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-5000:]
