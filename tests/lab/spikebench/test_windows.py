"""Running statistics against plain loops."""

from __future__ import annotations

import numpy as np

from foreshock.lab.spikebench.trace import Column
from foreshock.lab.spikebench.windows import (
    moving_average,
    previous,
    trailing_max,
    trailing_mean,
    trailing_min,
)

VALUES = np.array([3.0, np.nan, 1.0, 5.0, 2.0])


def test_trailing_statistics_skip_what_is_unknown():
    np.testing.assert_array_equal(trailing_mean(VALUES, 3), [3, 3, 2, 3, 8 / 3])
    np.testing.assert_array_equal(trailing_max(VALUES, 2), [3, 3, 1, 5, 5])
    np.testing.assert_array_equal(trailing_min(VALUES, 2), [np.nan, np.nan, np.nan, 1, 2])
    assert np.isnan(trailing_mean(np.array([np.nan]), 2)).all()


def test_moving_average_weighs_by_age_in_steps():
    steps, values = np.array([0, 3, 4]), np.array([1.0, np.nan, 5.0])
    average = moving_average(Column(steps, values), 4)
    old = 0.75**4
    np.testing.assert_allclose(average, [1, 1, (5 + old) / (1 + old)])


def test_previous_leaves_out_the_entry_itself_and_what_is_too_old():
    column = Column(np.array([0, 5, 10, 15]), np.array([1.0, np.inf, 3.0, 100.0]))
    np.testing.assert_array_equal(previous(np.median, column, 10, 1), [np.nan, 1, 1, 3])
    np.testing.assert_array_equal(previous(np.median, column, 15, 2), [np.nan, np.nan, np.nan, 2])


def test_previous_looks_further_back_for_rare_measurements():
    column = Column(np.arange(0, 500, 100), np.array([1.0, 2.0, 3.0, 4.0, 9.0]))
    np.testing.assert_array_equal(previous(np.median, column, 100, 3), [np.nan, np.nan, np.nan, 2, 3])
