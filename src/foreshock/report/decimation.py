"""Fewer points for the same picture: the lowest and the highest of each stretch are kept.

A stride or a mean would drop the one step that matters; a loss spike may last a single one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

POINTS = 4000


def keep(
    columns: Sequence[NDArray[np.float64]], *, points: int = POINTS, whole: Sequence[tuple[int, int]] = ()
) -> NDArray[np.int64]:
    """Return the indices to draw, increasing, so that no extreme of any column is lost.

    Each stretch of equal length keeps the index of the minimum and the maximum of every column, and
    the first index at which a column has no value, so that gaps stay gaps.

    Args:
        columns: Series over one common axis, each of shape (n,), NaN where there is no value.
        points: Up to so many points all are kept; above, each column keeps at most about so many.
        whole: Stretches, each of a first index and one after the last, of which all is kept besides.

    Example:
        >>> loss = np.ones(100_000)
        >>> loss[54_321] = 9.0
        >>> 54_321 in keep([loss]), len(keep([loss])) <= POINTS
        (True, True)
    """
    size = len(columns[0]) if columns else 0
    if size <= points:
        return np.arange(size)
    width = -(-size // max(points // 3, 1))
    even = size // width * width
    kept = [np.array([0, size - 1]), *(np.arange(max(low, 0), min(high, size)) for low, high in whole)]
    for column in columns:
        kept.append(_extremes(column[:even].reshape(-1, width)))
        kept.append(even + _extremes(column[even:].reshape(1, -1)))
    return np.unique(np.concatenate(kept))


def _extremes(stretches: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return where in the flat array the extremes and the first gap of each stretch are, shape (n,)."""
    count, width = stretches.shape
    if not width:
        return np.empty(0, dtype=np.int64)
    missing = np.isnan(stretches)
    rows = np.arange(count)
    gaps = rows[missing.any(axis=1)]
    lowest = np.where(missing, math.inf, stretches).argmin(axis=1)
    highest = np.where(missing, -math.inf, stretches).argmax(axis=1)
    first_gap = missing[gaps].argmax(axis=1)
    return np.concatenate([rows * width + lowest, rows * width + highest, gaps * width + first_gap])
