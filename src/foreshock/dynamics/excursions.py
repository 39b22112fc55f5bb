"""Excursions of the stability ratio above one in a simulated run, and the spikes they cause."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Column = Sequence[float] | NDArray[Any]


@dataclass(frozen=True)
class Excursion:
    """One excursion; steps count from 0, the first row.

    Attributes:
        start: First step with a ratio of at least one.
        growth: First step from `start` on with Σv above that of the step before.
        peak: Step of the largest Σg² up to the next excursion.
        end: First step after `start` with a ratio below one.
        peak_ratio: Largest ratio in between.
        log_magnification: ln of Σg² at `peak` divided by that at `start`.
    """

    start: int
    growth: int
    peak: int
    end: int
    peak_ratio: float
    log_magnification: float


def find_excursions(ratio: Column, second_moment: Column, squared_gradient: Column) -> list[Excursion]:
    """Return the complete excursions of a run: those after which the ratio rose through one again.

    Args:
        ratio: Stability ratio of each step.
        second_moment: Σv of each step.
        squared_gradient: Σg² of each step.

    Raises:
        ValueError: If the lengths differ.

    Example:
        >>> ratio, v, g = [0.9, 1.1, 1.2, 0.8, 1.1], [4.0, 3.9, 5.0, 4.9, 4.8], [1.0, 1.0, 9.0, 2.0, 1.0]
        >>> found = find_excursions(ratio, v, g)[0]
        >>> found.start, found.growth, found.peak, found.end, found.peak_ratio
        (1, 2, 2, 3, 1.2)
    """
    columns = [np.asarray(column) for column in (ratio, second_moment, squared_gradient)]
    ratios, moments, squares = columns
    if not ratios.shape == moments.shape == squares.shape:
        raise ValueError(f"the columns have shapes {[column.shape for column in columns]}; they must agree")
    above = ratios >= 1
    starts = np.flatnonzero(above[1:] & ~above[:-1]) + 1
    found = []
    for start, following in itertools.pairwise(starts):
        end = start + int(np.argmax(~above[start:following]))
        rising = moments[start:following] > moments[start - 1 : following - 1]
        peak = start + int(np.argmax(squares[start:following]))
        found.append(
            Excursion(
                start=int(start),
                growth=int(start + np.argmax(rising)) if rising.any() else int(end),
                peak=int(peak),
                end=int(end),
                peak_ratio=float(ratios[start:end].max()),
                log_magnification=float(np.log(squares[peak]) - np.log(squares[start])),
            )
        )
    return found
