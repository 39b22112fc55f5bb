"""Two measures that look at order only: the area under the ROC curve and Spearman's correlation."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def auroc(scores: Floats, labels: NDArray[np.bool_]) -> float:
    """Return the chance that a positive scores higher than a negative, a tie counting half.

    Args:
        scores: Scores, of shape (n,); NaN counts as lowest, as it is no alarm.
        labels: Whether each is a positive, of shape (n,).

    Returns:
        The area, in [0, 1]; NaN without positives or without negatives.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> auroc(np.array([1.0, 2.0, 3.0]), np.array([False, True, False]))
        0.5
    """
    if scores.shape != labels.shape:
        raise ValueError(f"scores have shape {scores.shape}, labels {labels.shape}; they must pair up")
    positives = int(labels.sum())
    negatives = labels.size - positives
    if not positives or not negatives:
        return math.nan
    rank = ranks(np.where(np.isnan(scores), -np.inf, scores))
    wins = float(rank[labels].sum()) - positives * (positives + 1) / 2
    return wins / (positives * negatives)


def spearman(a: Floats, b: Floats) -> float:
    """Return Spearman's rank correlation; NaN for fewer than three pairs or where all of one are equal.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> round(spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 4.0, 90.0])), 12)
        1.0
    """
    if a.shape != b.shape:
        raise ValueError(f"the two have shapes {a.shape} and {b.shape}; they must pair up")
    x, y = ranks(a), ranks(b)
    if a.size < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])


def ranks(values: Floats) -> Floats:
    """Return ranks from 1, equal values sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse.reshape(-1)])
