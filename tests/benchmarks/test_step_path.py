"""How many files a reader has to open to follow one guarded step: few, and no more than are documented."""

from __future__ import annotations

import pytest
from benchmarks.step_path import guarded_step


@pytest.mark.parametrize(("idle", "most"), [(True, 8), (False, 14)])
def test_a_guarded_step_passes_through_few_files(idle, most):
    files = guarded_step(idle=idle).files
    assert "guarding/guard.py" in files
    assert ("guarding/sums.py" in files) == (not idle)
    assert len(files) <= most, files
