"""Forecasts replayed on a trace, and those among them that were followed by a crossing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreshock.lab.spikebench.scores.crossings import crossings
from foreshock.lab.spikebench.trace import Trace

LEADS = (20, 50, 100, 200)
FURTHEST = 300


@dataclass(frozen=True)
class Replay:
    """Forecasts of one trace, as they would have been made, all of shape (n,).

    Attributes:
        steps: Steps at which they were made, increasing.
        watch: Whether a watch was on.
        alarm: Whether an alarm was on.
        score: What rises towards an instability; NaN where it can't be told.
        expected: Steps until the stability ratio reaches one; infinity if never, NaN if it can't be told.
        low: Lower end of the 80 % interval of `expected`.
        high: Upper end.
        height: Expected height of the spike over the median before it; NaN if it can't be told.
        passes: What was measured for it cost, in forward and backward passes (F).
        until_spike: Steps until the loss is expected to be visibly off its level; infinity if never, NaN if
            it can't be told.

    Raises:
        ValueError: If they differ in shape, or `expected` is negative.
    """

    steps: NDArray[np.int64]
    watch: NDArray[np.bool_]
    alarm: NDArray[np.bool_]
    score: NDArray[np.float64]
    expected: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    height: NDArray[np.float64]
    passes: NDArray[np.float64]
    until_spike: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Check that all pair up."""
        shapes = {name: values.shape for name, values in vars(self).items()}
        if len(set(shapes.values())) != 1:
            raise ValueError(f"the columns of a replay must have one shape, not {shapes}")
        if (self.expected < 0).any():
            raise ValueError(
                f"expected is {np.nanmin(self.expected)} somewhere; it is steps ahead, 0 or more"
            )


@dataclass(frozen=True)
class Ahead:
    """Forecasts of crossings that came, each of shape (n,): made `actual` steps before the crossing.

    Attributes:
        lead: The nominal lead they were picked for; 0 for all within 300 steps.
        actual: Steps until the crossing.
        expected: As forecast.
        low: Lower end of the 80 % interval.
        high: Upper end.
    """

    lead: NDArray[np.int64]
    actual: NDArray[np.float64]
    expected: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def forecasts_ahead(trace: Trace, replay: Replay) -> Ahead:
    """Return the forecasts of the crossings of a trace.

    For each lead and crossing before which the ratio was below one for that long, the last forecast made at
    least so many steps before it (lead 20, …), if it was made within one stride of that; and every forecast
    made since the ratio was last above one, up to 300 steps before the crossing (lead 0).
    """
    stride = float(np.median(np.diff(replay.steps))) if replay.steps.size > 1 else 1.0
    rows: list[tuple[int, float, int]] = []
    for crossing in crossings(trace.column("stability_ratio")):
        remaining = crossing.step - replay.steps
        made = (replay.steps > crossing.below_since) & (remaining > 0) & (remaining <= FURTHEST)
        rows += [(0, float(remaining[i]), int(i)) for i in np.flatnonzero(made)]
        for lead in LEADS:
            early = np.flatnonzero(made & (remaining >= lead) & (remaining < lead + stride + 1))
            if early.size:
                rows.append((lead, float(remaining[early[-1]]), int(early[-1])))
    index = np.array([i for _, _, i in rows], dtype=np.int64)
    return Ahead(
        np.array([lead for lead, _, _ in rows], dtype=np.int64),
        np.array([actual for _, actual, _ in rows], dtype=np.float64),
        replay.expected[index],
        replay.low[index],
        replay.high[index],
    )
