"""Crossings of the edge in simulated runs: the excursions of one run, and their number over β₁ and β₂."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshock.dynamics.quadratic import AdamSettings, Quadratic, Real
from foreshock.dynamics.simulation import trajectory

Column = Sequence[float] | NDArray[Any]

_REARMED = 0.99  # the ratio must fall below this before another crossing is counted


@dataclass(frozen=True)
class Excursion:
    """One excursion of the stability ratio above one, and the spike that it causes.

    Steps are row numbers of the run, from 0.

    Attributes:
        start: First step with a ratio of at least one.
        growth: First step from `start` on at which Σv is larger than at the step before.
        peak: Step of the largest Σg² before the next excursion.
        end: First step after `start` with a ratio below one.
        peak_ratio: Largest ratio from `start` to `end`.
        log_magnification: ln of Σg² at `peak` divided by that at `start`.
    """

    start: int
    growth: int
    peak: int
    end: int
    peak_ratio: float
    log_magnification: float


def find_excursions(ratio: Column, second_moment: Column, squared_gradient: Column) -> list[Excursion]:
    """Return the complete excursions of a run: those that are followed by another one.

    The last excursion is left out, since its peak may lie beyond the end of the run.

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
        raise ValueError(
            f"ratio, second_moment and squared_gradient have shapes {[column.shape for column in columns]}; "
            "they must agree: pass columns of the same run"
        )
    above = ratios >= 1
    # A run that begins above one has no crossing there, hence the comparison with the step before.
    starts = np.flatnonzero(above[1:] & ~above[:-1]) + 1
    found = []
    for start, following in itertools.pairwise(starts):
        # argmax finds the first True; there is one, since another crossing follows.
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
                # A difference of logarithms, in the precision of the run: the quotient can overflow a double.
                log_magnification=float(np.log(squares[peak]) - np.log(squares[start])),
            )
        )
    return found


@dataclass(frozen=True)
class PhaseDiagram:
    """Crossings of the edge by Adam on ½θ², over a grid of decays.

    Attributes:
        beta1: β₁ of the rows, shape (n₁,).
        beta2: β₂ of the columns, shape (n₂,).
        crossings: Number of times that the stability ratio rose through one after having been below 0.99,
            shape (n₁, n₂).
        peak_ratio: Largest stability ratio, shape (n₁, n₂).
        late_peak_ratio: Largest stability ratio of the second half of the run, shape (n₁, n₂).
        interval: Mean number of steps from one crossing to the next, shape (n₁, n₂); NaN with fewer than two.
    """

    beta1: NDArray[np.float64]
    beta2: NDArray[np.float64]
    crossings: NDArray[np.int64]
    peak_ratio: NDArray[np.float64]
    late_peak_ratio: NDArray[np.float64]
    interval: NDArray[np.float64]


def phase_diagram(
    beta1: Sequence[float],
    beta2: Sequence[float],
    *,
    learning_rate: float,
    steps: int,
    dtype: type[Real] = np.longdouble,
) -> PhaseDiagram:
    """Run Adam (ε = 0) from θ = 1 on ½θ² for every pair of decays.

    With ε = 0 a step does not depend on the scale of the gradient. The path of θ is therefore the same for
    every curvature, and depends on η/θ_0 only.

    Cost: all pairs run at once, with some twenty array operations per step.

    Args:
        beta1: Values of β₁.
        beta2: Values of β₂.
        learning_rate: η > 0.
        steps: Number of updates, ≥ 1; spikes appear within a few multiples of 1/(1 − β₂).
        dtype: Precision; see :func:`foreshock.dynamics.simulate`.

    Returns:
        Crossings and peaks of each pair, shape (n₁, n₂).

    Raises:
        ValueError: If an argument lies outside its interval.

    Example:
        >>> diagram = phase_diagram([0.0, 0.9], [0.9, 0.99], learning_rate=0.15, steps=1000)
        >>> (diagram.crossings > 0).tolist()
        [[True, True], [False, True]]
    """
    rows, columns = np.meshgrid(np.asarray(beta1, float), np.asarray(beta2, float), indexing="ij")
    settings = AdamSettings(learning_rate, beta1=rows.ravel(), beta2=columns.ravel())
    count, first, last = (np.zeros(rows.size, dtype=np.int64) for _ in range(3))
    peak, late = np.zeros(rows.size, dtype), np.zeros(rows.size, dtype)
    above = np.zeros(rows.size, dtype=bool)
    for step, moment in enumerate(trajectory(Quadratic(1.0), settings, steps=steps, dtype=dtype)):
        ratio = moment.stability_ratio
        # Some pairs settle at one exactly. Without the gap from 0.99 to 1, rounding alone would count.
        now = np.where(above, ratio >= _REARMED, ratio >= 1)
        rising = now & ~above
        first = np.where(rising & (count == 0), step, first)
        last = np.where(rising, step, last)
        count += rising
        above = now
        peak = np.maximum(peak, ratio)
        if 2 * step >= steps:
            late = np.maximum(late, ratio)
    with np.errstate(invalid="ignore"):
        interval = np.where(count > 1, (last - first) / np.maximum(count - 1, 1), np.nan)
    shaped = [values.reshape(rows.shape) for values in (peak.astype(float), late.astype(float), interval)]
    return PhaseDiagram(rows[:, 0], columns[0], count.reshape(rows.shape), *shaped)
