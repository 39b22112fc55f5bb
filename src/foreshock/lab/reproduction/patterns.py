"""How crossings of the edge, spikes and the decay of v follow each other in a recorded run."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from foreshock.dynamics import Drift
from foreshock.lab.spikebench.spikes import ground_truth
from foreshock.lab.spikebench.trace import Trace
from foreshock.spikes import SpikeEvent

NEAR = 30
"""Steps before an onset in which the directional curvature must have crossed."""
FAR = 150
"""Steps before an onset in which λ_max(Ĥ) must have crossed, and after a crossing for its spike."""
WINDOW = 40
"""Steps before a crossing over which v and the two curvatures are followed."""

Steps = NDArray[np.int64]
Values = NDArray[np.float64]

REARMED = 0.99
"""A ratio must have been below this before its next rise through one counts as another crossing."""


def rising_crossings(steps: Steps, ratio: Values, *, sustained: int = 1) -> list[int]:
    """Return the steps at which a ratio rises through one.

    Args:
        steps: Steps of the readings, increasing, shape (n,).
        ratio: Multiples of the threshold, shape (n,); NaN is neither above nor below.
        sustained: Readings running that must be at or above one; the crossing is the first of them.

    Example:
        >>> ratio = np.array([0.5, 1.1, 0.9, 1.1, 1.2, 1.2])
        >>> rising_crossings(np.arange(6), ratio), rising_crossings(np.arange(6), ratio, sustained=3)
        ([1, 3], [3])
    """
    found, streak, armed = [], 0, True
    for index, value in enumerate(ratio):
        streak = streak + 1 if value >= 1 else 0
        if streak == sustained and armed:
            found.append(int(steps[index - sustained + 1]))
            armed = False
        armed = armed or value < REARMED
    return found


def last_before(events: Sequence[int], spike: SpikeEvent, *, within: int) -> int | None:
    """Return the last of some steps that lies at a spike's onset or at most `within` steps before it.

    Args:
        events: Steps, increasing.
        spike: The spike.
        within: How far back to look.
    """
    near = [event for event in events if spike.onset - within <= event <= spike.onset]
    return near[-1] if near else None


def share_preceded(events: Sequence[int], spikes: Sequence[SpikeEvent], *, within: int) -> float:
    """Return the share of spikes that one of some events precedes; NaN without spikes.

    Args:
        events: Steps, increasing.
        spikes: The spikes.
        within: Greatest number of steps from event to onset.
    """
    hits = [last_before(events, spike, within=within) is not None for spike in spikes]
    return float(np.mean(hits)) if hits else math.nan


def share_followed(events: Sequence[int], spikes: Sequence[SpikeEvent], *, within: int) -> float:
    """Return the share of events that a spike's onset follows; NaN without events.

    Args:
        events: Steps, increasing.
        spikes: The spikes.
        within: Greatest number of steps from event to onset.
    """
    onsets = [spike.onset for spike in spikes]
    hits = [any(event <= onset <= event + within for onset in onsets) for event in events]
    return float(np.mean(hits)) if hits else math.nan


def reached_before(
    steps: Steps, ratio: Values, spikes: Sequence[SpikeEvent], *, within: int, level: float = 1.0
) -> float:
    """Return the share of spikes before whose onset a ratio reached a level; NaN without spikes.

    Args:
        steps: Steps of the readings, shape (n,).
        ratio: The readings, shape (n,).
        spikes: The spikes.
        within: How many steps before the onset count.
        level: What must be reached.
    """
    hits = []
    for spike in spikes:
        near = ratio[(steps >= spike.onset - within) & (steps <= spike.onset)]
        near = near[~np.isnan(near)]
        if near.size:
            hits.append(float(near.max() >= level))
    return float(np.mean(hits)) if hits else math.nan


def mean_before(steps: Steps, values: Values, events: Sequence[int], *, window: int) -> Values:
    """Return the mean of a quantity over the steps before each event, shape (events,)."""
    means = [values[(steps >= event - window) & (steps < event)] for event in events]
    return np.array([np.nanmean(part) if np.isfinite(part).any() else math.nan for part in means])


def log_growth(steps: Steps, values: Values, event: int, *, window: int) -> float:
    """Return ln of a positive quantity at an event over that `window` steps before, from a straight line.

    Args:
        steps: Steps of the readings, shape (n,).
        values: The readings, shape (n,).
        event: The step at which the window ends.
        window: Its length, in steps.

    Returns:
        The slope of the line times `window`; NaN with fewer than three positive readings.

    Example:
        >>> steps = np.arange(0, 101, 10)
        >>> round(log_growth(steps, np.exp(0.01 * steps), 100, window=50), 6)
        0.5
    """
    chosen = (steps >= event - window) & (steps <= event) & (values > 0)
    if chosen.sum() < 3:
        return math.nan
    slope = np.polyfit(steps[chosen], np.log(values[chosen]), 1)[0]
    return float(slope * window)


def median(values: Sequence[float]) -> float:
    """Return the median of the numbers that are not NaN; NaN if none is left."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.median(known)) if known else math.nan


def full_batch_pattern(trace: Trace) -> dict[str, float]:
    """Return the quantities of the paper's claims on full-batch runs.

    Args:
        trace: A recorded run.

    Returns:
        By name: ``spikes``, their number; ``direction_reached``, the share of spikes in whose 30 steps
        before the onset gᵀĤg/‖g‖² passed 2/η; ``crossed``, the share that a crossing of λ_max(Ĥ) precedes by
        at most 150 steps; ``crossings_per_spike``; ``crossings_without_spike``, the share that no spike
        follows; ``lead``, median steps from crossing to onset; ``decay_exponent``, median over crossings of
        its mean over the 40 steps before; ``growth``, of ln λ_max(Ĥ) over these steps, and
        ``landscape_growth``, of ln λ_max(H), medians over crossings; ``landscape_share``, the second over
        the first; ``alignment``, its median at the onset.
    """
    spikes = ground_truth(trace)["3x"]
    ratio, direction = trace.column("stability_ratio"), trace.column("gradient_ratio")
    crossings = rising_crossings(ratio.steps, ratio.values)
    before = [last_before(crossings, spike, within=FAR) for spike in spikes]
    leads = [float(spike.onset - at) for spike, at in zip(spikes, before, strict=True) if at is not None]
    followed = share_followed(crossings, spikes, within=FAR)
    return {
        "spikes": float(len(spikes)),
        "highest_spike": max((spike.height for spike in spikes), default=math.nan),
        "direction_reached": reached_before(direction.steps, direction.values, spikes, within=NEAR),
        "crossed": share_preceded(crossings, spikes, within=FAR),
        "crossings_per_spike": len(crossings) / len(spikes) if spikes else math.nan,
        "crossings_without_spike": 1 - followed,
        "lead": median(leads),
        "alignment": _at_onset(trace, spikes),
        **growth_before(trace, sorted({at for at in before if at is not None})),
    }


def growth_before(trace: Trace, crossings: Sequence[int]) -> dict[str, float]:
    """Return how v and the two curvatures moved before some crossings.

    Args:
        trace: A recorded run.
        crossings: Steps at which λ_max(Ĥ) rose through 2/η.
    """
    exponent, ratio, raw = (trace.column(name) for name in ("decay_exponent", "stability_ratio", "sharpness"))
    decays = mean_before(exponent.steps, exponent.values, crossings, window=WINDOW)
    growth = [log_growth(ratio.steps, ratio.values, at, window=WINDOW) for at in crossings]
    landscape = [log_growth(raw.steps, raw.values, at, window=WINDOW) for at in crossings]
    total, part = median(growth), median(landscape)
    return {
        "decay_exponent": median(decays.tolist()),
        "growth": total,
        "landscape_growth": part,
        "landscape_share": abs(part) / total if total > 0 else math.nan,
        "pure_decay_growth": median([pure_decay(at, beta2=float(trace.meta["beta2"])) for at in crossings]),
    }


def pure_decay(step: int, *, beta2: float) -> float:
    """Return the growth of ln λ_max(Ĥ) over 40 steps if v only decays, bias correction included.

    Args:
        step: Last step of the window.
        beta2: β₂.

    Example:
        >>> round(pure_decay(100_000, beta2=0.999), 4), round(pure_decay(340, beta2=0.999), 4)
        (0.02, 0.0729)
    """
    if step < WINDOW:
        return math.nan
    return Drift(beta2, step=step - WINDOW + 1).under_decay(WINDOW)


def _at_onset(trace: Trace, spikes: Sequence[SpikeEvent]) -> float:
    onsets = np.array([spike.onset for spike in spikes], dtype=np.int64)
    return median(trace.column("alignment").held(onsets).tolist())
