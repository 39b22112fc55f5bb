"""How well a rule, or one quantity, parts the members of a class from the others."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def balanced_accuracy(said: Sequence[bool], labels: Sequence[bool]) -> float:
    """Return the mean of the shares that are right of either class; one half is chance; NaN without both.

    Args:
        said: What a rule says.
        labels: What is true.

    Example:
        >>> balanced_accuracy([True, True, False], [True, False, False])
        0.75
    """
    yes, true = np.array(said, dtype=bool), np.array(labels, dtype=bool)
    if not 0 < true.sum() < true.size:
        return math.nan
    return float((yes[true].mean() + (~yes[~true]).mean()) / 2)


def discrimination(values: Sequence[float], labels: Sequence[bool]) -> float:
    """Return the chance that a member of a class has a larger value than another; a tie counts one half.

    It is the area under the ROC curve.

    Args:
        values: A quantity; where it is NaN it is left out.
        labels: Whether each belongs to the class.

    Example:
        >>> discrimination([1.0, 2.0, 3.0], [False, True, True]), discrimination([1.0, 1.0], [True, False])
        (1.0, 0.5)
    """
    numbers, inside = np.array(values, dtype=float), np.array(labels, dtype=bool)
    known = ~np.isnan(numbers)
    numbers, inside = numbers[known], inside[known]
    if not 0 < inside.sum() < inside.size:
        return math.nan
    apart = numbers[inside][:, None] - numbers[~inside]
    return float(np.mean(0.5 + 0.5 * np.sign(apart)))
