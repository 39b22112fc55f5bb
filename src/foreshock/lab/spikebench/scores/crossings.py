"""When the stability ratio reached one, to fractions of a step: what forecasts of it are held against."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foreshock.lab.spikebench.trace import Column


@dataclass(frozen=True)
class Crossing:
    """One rise of the stability ratio through one.

    Attributes:
        step: When it reached one, by interpolating its logarithm between two measurements.
        below_since: Last measured step before at which it was not below one; the first of all measured steps
            if it never was.
    """

    step: float
    below_since: int


def crossings(ratio: Column) -> list[Crossing]:
    """Return the crossings, in order.

    Args:
        ratio: Stability ratios; those that are not finite or not positive are left out.

    Example:
        >>> ratio = Column(np.array([0, 10, 20]), np.array([0.25, 0.5, 2.0]))
        >>> crossings(ratio)
        [Crossing(step=15.0, below_since=0)]
    """
    usable = np.isfinite(ratio.values) & (ratio.values > 0)
    steps, logs = ratio.steps[usable], np.log(ratio.values[usable])
    found = []
    since = int(steps[0]) if steps.size else 0
    for i in range(logs.size):
        if logs[i] < 0:
            continue
        if i and logs[i - 1] < 0:
            part = -logs[i - 1] / (logs[i] - logs[i - 1])
            found.append(Crossing(float(steps[i - 1] + part * (steps[i] - steps[i - 1])), since))
        since = int(steps[i])
    return found
