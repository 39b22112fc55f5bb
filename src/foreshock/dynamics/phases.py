"""Where in the plane of β₁ and β₂ Adam spikes on the simplest problem there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreshock.dynamics.quadratic import AdamSettings, Quadratic, Real
from foreshock.dynamics.simulation import trajectory

_REARMED = 0.99  # below this ratio the next crossing counts as a new one


@dataclass(frozen=True)
class PhaseDiagram:
    """What Adam does on ½θ² over a grid of decays.

    Attributes:
        beta1: β₁ of the rows, shape (n₁,).
        beta2: β₂ of the columns, shape (n₂,).
        crossings: How often the stability ratio rose through one, having been below 0.99, shape (n₁, n₂).
        peak_ratio: Largest stability ratio, shape (n₁, n₂).
        late_peak_ratio: Largest stability ratio of the second half of the run, shape (n₁, n₂).
        interval: Mean steps from one crossing to the next; NaN with fewer than two, shape (n₁, n₂).
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

    With ε = 0 the curvature drops out of θ's path, and only η/θ_0 matters.

    Args:
        beta1: Values of β₁.
        beta2: Values of β₂.
        learning_rate: η > 0.
        steps: Number of updates, ≥ 1; a β₂ shows its spikes within some multiples of 1/(1 − β₂).
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
        # Some pairs settle at one exactly: without the gap, rounding alone would cross it.
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
