"""What a run's losses say: spikes, the worst ratio, how low it came, and whether it diverged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreshock.lab.spikebench.spikes import WINDOW, judged_column, spikes_above
from foreshock.lab.spikebench.trace import Column
from foreshock.spikes import SpikeDefinition

HEIGHTS = (3, 8, 10)  # multiples of the running median above which spikes are counted
FLOOR = SpikeDefinition().floor
CEILING = 10.0  # × the first loss: by how much a failed run has failed is of no interest


@dataclass(frozen=True)
class Judgement:
    """What is scored of a run's training losses.

    Attributes:
        spikes: Heights of the spikes above 3 × the running median; infinite for one that overflowed.
        worst_ratio: Largest loss ÷ the median of the 100 steps before it; 1 if no step can be judged.
        mean_loss: Geometric mean of the second half of the run, no loss counted below 1e-8 or above 10 × the
            first one.
        diverged: Whether a loss was not finite, or the median of the last 100 lies above the first loss.
    """

    spikes: tuple[float, ...]
    worst_ratio: float
    mean_loss: float
    diverged: bool


def judge(losses: NDArray[np.float64], *, smooth: bool, steps: int) -> Judgement:
    """Judge the losses of a run.

    A run that ended early because its loss was not finite counts, for the steps it lacks, with its first or
    its last finite loss, whichever is larger.

    Args:
        losses: Loss of each step, shape (n,); NaN where the step's own batch was corrupted.
        smooth: Whether spikes are sought in the mean of five steps, as for mini-batches.
        steps: How many the run should have had.

    Raises:
        ValueError: If there is no loss.

    Example:
        >>> losses = np.concatenate([np.ones(150), [9.0], np.ones(149)])
        >>> judge(losses, smooth=False, steps=300).spikes
        (9.0,)
    """
    corrupted = np.isnan(losses)
    seen = losses[~corrupted]
    if not seen.size:
        raise ValueError("there is no loss to judge")
    column = judged_column(Column(np.flatnonzero(~corrupted), seen), smooth=smooth)
    heights = tuple(event.height for event in spikes_above(column, float(HEIGHTS[0])))
    filled = fill(losses, steps=steps)
    first = abs(filled[0])
    ended = not np.isfinite(seen).all()
    return Judgement(
        spikes=heights,
        worst_ratio=_worst_ratio(column.values, floor=FLOOR * first),
        mean_loss=geometric_mean(filled[steps // 2 :], first=first),
        diverged=bool(ended or np.median(filled[-WINDOW:]) > first),
    )


def fill(losses: NDArray[np.float64], *, steps: int) -> NDArray[np.float64]:
    """Return the losses of a whole run: corrupted steps interpolated, and with what an early end counts.

    Args:
        losses: Loss of each step, shape (n,); NaN where the step's own batch was corrupted.
        steps: How many the run should have had.

    Example:
        >>> fill(np.array([2.0, 1.0, np.inf]), steps=5).tolist()
        [2.0, 1.0, 2.0, 2.0, 2.0]
    """
    finite = losses[np.isfinite(losses)]
    if not finite.size:
        return np.full(steps, np.inf)
    whole = np.full(steps, np.nan)
    whole[: losses.size] = losses
    lost = np.isposinf(whole)
    lost[losses.size :] = True
    whole[lost] = max(finite[0], finite[-1])
    gaps = np.isnan(whole)
    whole[gaps] = np.interp(np.flatnonzero(gaps), np.flatnonzero(~gaps), whole[~gaps])
    return whole


def geometric_mean(values: NDArray[np.float64], *, first: float) -> float:
    """Return the geometric mean of losses, none counted below 1e-8 or above 10 × the first one.

    Below, rounding moves a loss; above, a run has failed, and by how much is of no interest.

    Args:
        values: Losses, shape (n,).
        first: The first loss of the run, positive.

    Example:
        >>> round(geometric_mean(np.array([0.0, 1e30]), first=1.0), 9)
        0.000316228
    """
    return float(np.exp(np.mean(np.log(np.clip(values, FLOOR * first, CEILING * first)))))


def _worst_ratio(values: NDArray[np.float64], *, floor: float) -> float:
    if values.size <= WINDOW:
        return 1.0
    windows = np.lib.stride_tricks.sliding_window_view(values, WINDOW)[:-1]
    medians = np.median(windows, axis=1)
    later = values[WINDOW:]
    counted = (later > floor) & np.isfinite(medians)
    ratios = later[counted] / np.maximum(medians[counted], np.finfo(np.float64).tiny)
    return float(max(ratios.max(initial=1.0), 1.0))
