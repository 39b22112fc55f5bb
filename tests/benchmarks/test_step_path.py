"""How many files a reader has to open to follow one step: few, and no more than are documented."""

from __future__ import annotations

import pytest
from benchmarks.step_path import guarded_step, observed_step


@pytest.mark.parametrize(("idle", "most"), [(True, 13), (False, 19)])
def test_a_guarded_step_passes_through_few_files(idle, most):
    files = guarded_step(idle=idle).files
    assert "guarding/guard.py" in files
    assert ("guarding/sums.py" in files) == (not idle)
    assert len(files) <= most, files


def test_an_observed_step_without_a_probe_passes_through_few_files():
    files = observed_step(probe=False).files
    assert "monitor/monitor.py" in files
    assert len(files) <= 16, files
    assert len(observed_step(probe=True).files) > 10
