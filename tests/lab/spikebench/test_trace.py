"""A trace survives saving, shows only the past, and refuses what readers can't use."""

from __future__ import annotations

import numpy as np
import pytest

from foreshock.lab.spikebench.trace import Column, Trace
from lab.spikebench.traces import column, meta, noisy_trace


def test_a_saved_trace_is_read_back_whole(tmp_path):
    trace = noisy_trace(kind="mini")
    trace.columns["critical_rate"].values[3] = np.inf
    trace.columns["kurtosis"].values[2] = np.nan
    again = Trace.load(trace.save(tmp_path / "new" / "run.npz"))
    assert dict(again.meta) == dict(trace.meta)
    assert set(again.columns) == set(trace.columns)
    for name, old in trace.columns.items():
        np.testing.assert_array_equal(again.columns[name].steps, old.steps)
        np.testing.assert_array_equal(again.columns[name].values, old.values)
    assert again.columns["loss"].steps.dtype == np.int64


def test_held_is_the_last_value_at_or_before():
    held = column([1.0, 2.0], every=10, start=10).held(np.array([9, 10, 19, 20, 99]))
    np.testing.assert_array_equal(held, [np.nan, 1, 1, 2, 2])


def test_until_keeps_the_step_itself():
    trace = noisy_trace(n=100).until(50)
    assert trace.columns["loss"].steps[-1] == 50
    assert trace.columns["stability_ratio"].steps[-1] == 50
    assert trace.until(49).columns["stability_ratio"].steps[-1] == 45


def test_a_column_that_was_not_recorded_is_empty():
    assert Trace(meta(), {"loss": column([1.0])}).column("pair_mean").steps.size == 0


@pytest.mark.parametrize("steps", [[1, 1], [2, 1]])
def test_steps_that_do_not_increase_are_refused(steps):
    with pytest.raises(ValueError, match="increase strictly"):
        Column(np.array(steps), np.ones(2))


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match=r"shape \(3,\), values \(2,\)"):
        Column(np.arange(3), np.ones(2))


def test_incomplete_traces_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has no loss"):
        Trace(meta(), {})
    with pytest.raises(ValueError, match="meta lacks family"):
        Trace({key: value for key, value in meta().items() if key != "family"}, {"loss": column([1.0])})
    with pytest.raises(ValueError, match="split is 'spare'"):
        Trace(meta(split="spare"), {"loss": column([1.0])})
    with pytest.raises(ValueError, match=r"saved as \.npz"):
        noisy_trace().save(tmp_path / "run.json")
    np.savez(tmp_path / "other.npz", x=np.ones(1))
    with pytest.raises(ValueError, match="no meta"):
        Trace.load(tmp_path / "other.npz")
