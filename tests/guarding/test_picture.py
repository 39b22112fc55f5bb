"""The picture of guarded runs and its table."""

from __future__ import annotations

import numpy as np
import pytest

from foreshock.lab.guardbench.illustration import GuardedRun, compare, draw, table


def made_up():
    plain = np.ones(300)
    plain[[150, 200]] = 4.0, 20.0
    return GuardedRun("A run", plain, np.full(300, 0.5), (140, 190), 2 / 300, 0.2)


def test_the_table_counts_spikes_and_compares_losses():
    run = made_up()
    assert run.spikes(3.0) == (2, 0)
    assert run.spikes(10.0) == (1, 0)
    assert run.loss_ratio == pytest.approx(0.5 / 20 ** (1 / 150) / (4 ** (1 / 150)))
    assert "| A run | 2 → 0 | 1 → 0 | 0.49 | 0.7% | 0.20 |" in table([run])


def test_the_picture_is_drawn_and_the_same_each_time(tmp_path):
    pytest.importorskip("matplotlib")
    one, other = (draw([made_up()], tmp_path / name).read_bytes() for name in ("1.svg", "2.svg"))
    assert one == other


def test_two_trainings_are_the_same_until_the_guard_acts():
    run = compare("Short", batch_size=25, steps=200, points=50, width=20)
    until = run.acted[0] if run.acted else 200
    assert np.array_equal(run.plain[:until], run.guarded[:until])
    assert len(run.plain) == len(run.guarded) == 200
    assert run.passes > 0


def test_runs_of_one_name_are_one_row():
    one, other = made_up(), made_up()
    other = GuardedRun("A run", one.plain, one.plain, (), 0.0, 0.0)
    assert "| A run | 4 → 2 | 2 → 1 | 0.70 | 0.3% | 0.10 |" in table([one, other])


def test_each_start_begins_beside_the_first():
    runs = [compare("Short", batch_size=None, steps=200, start=start, points=20) for start in (0, 1, 2, 1)]
    first = [float(run.plain[0]) for run in runs]
    assert len(set(first)) == 3
    assert first == pytest.approx([first[0]] * 4, rel=1e-4)
    assert np.array_equal(runs[1].plain, runs[3].plain)
