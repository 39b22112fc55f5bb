"""What a recorded full-batch run says about the paper's pattern: decay of v, crossing, alignment, spike."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from foreshock.dynamics import Drift
from foreshock.lab.reproduction.episodes import (
    last_before,
    log_growth,
    mean_before,
    median,
    reached_before,
    rising_crossings,
    share_followed,
    share_preceded,
)
from foreshock.lab.spikebench.spikes import ground_truth
from foreshock.lab.spikebench.trace import Trace
from foreshock.spikes import SpikeEvent

NEAR = 30
"""Steps before an onset in which the directional curvature must have crossed."""
FAR = 150
"""Steps before an onset in which λ_max(Ĥ) must have crossed, and after a crossing for its spike."""
WINDOW = 40
"""Steps before a crossing over which v and the two curvatures are followed."""


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
