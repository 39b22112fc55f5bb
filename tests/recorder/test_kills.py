"""SIGKILL at random moments while snapshots are written; ``python -m benchmarks.snapshot_kills`` has many."""

import os

import pytest
from benchmarks.snapshot_kills import LOST, Trial, fingerprint, kill_trainings


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_trainings_leave_whole_snapshots_and_go_on_from_them(tmp_path):
    counts = kill_trainings(tmp_path, kills=6, seed=1)
    assert counts["snapshots"] > 0
    assert {name: counts[name] for name in LOST} == dict.fromkeys(LOST, 0)


def test_the_comparison_sees_a_single_bit(tmp_path):
    tensors = Trial(tmp_path).tensors()
    before = fingerprint(tensors)
    tensors["parameter/0.weight"].data[3, 5] += 1e-6
    assert fingerprint(tensors) != before
