"""Running statistics that look back only: an entry uses itself and those before it, or only those before."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from foreshock.lab.spikebench.trace import Column

Floats = NDArray[np.float64]


def trailing_mean(values: Floats, count: int) -> Floats:
    """Return the mean of the last `count` values, of fewer at the start; NaN counts as no value.

    Example:
        >>> trailing_mean(np.array([1.0, 3.0, 5.0, 7.0]), 2)
        array([1., 2., 4., 6.])
    """
    windows = _trailing(values, count, np.nan)
    known = ~np.isnan(windows)
    total = np.where(known, windows, 0.0).sum(axis=1)
    return ratio(total, known.sum(axis=1).astype(float))


def trailing_max(values: Floats, count: int) -> Floats:
    """Return the largest of the last `count` values; NaN counts as no value and is left where all are."""
    return np.asarray(np.fmax.reduce(_trailing(values, count, np.nan), axis=1))


def trailing_min(values: Floats, count: int) -> Floats:
    """Return the smallest of the last `count` values; NaN until there are as many, or where one is NaN."""
    return np.asarray(_trailing(values, count, np.nan).min(axis=1))


def moving_average(column: Column, time: float) -> Floats:
    """Return the exponential average over about `time` steps, started at the first value.

    A value counts for (1 − 1/time)^age, whatever the distance between measurements; NaN counts as none.

    Example:
        >>> column = Column(np.array([0, 1, 2]), np.array([2.0, 2.0, 2.0]))
        >>> moving_average(column, 30)
        array([2., 2., 2.])
    """
    keep = 1 - 1 / time
    total = weight = 0.0
    averages = np.full(column.values.shape, np.nan)
    for i, value in enumerate(column.values):
        fade = keep ** float(column.steps[i] - column.steps[i - 1]) if i else 0.0
        total, weight = total * fade, weight * fade
        if not np.isnan(value):
            total, weight = total + value, weight + 1
        if weight > 0:
            averages[i] = total / weight
    return averages


def previous(statistic: Callable[[Floats], float], column: Column, span: int, least: int = 5) -> Floats:
    """Return a statistic of the values before each entry, without its own.

    Args:
        statistic: For example :func:`numpy.median`; it gets finite values only.
        column: The measurements.
        span: How many steps to look back; further where these hold fewer than `least` values.
        least: With fewer finite values in all before it, the entry is NaN.
    """
    finite = np.isfinite(column.values)
    steps, values = column.steps[finite], column.values[finite]
    first = np.searchsorted(steps, column.steps - span, side="left")
    last = np.searchsorted(steps, column.steps, side="left")
    first = np.maximum(np.minimum(first, last - least), 0)
    found = [statistic(values[a:b]) if b - a >= least else np.nan for a, b in zip(first, last, strict=True)]
    return np.asarray(found, dtype=np.float64)


def ratio(above: Floats, below: Floats) -> Floats:
    """Return above ÷ below; NaN where that has no value."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(above / below)


def _trailing(values: Floats, count: int, before: float) -> Floats:
    if not values.size:
        return np.empty((0, count))
    padded = np.concatenate((np.full(count - 1, before), values))
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, count))
