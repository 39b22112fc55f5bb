"""Single and sustained crossings of the curvature along the batch's gradient, and the spikes around them."""

from __future__ import annotations

import math

import numpy as np

from foreshock.lab.reproduction.experiment import Claim
from foreshock.lab.reproduction.patterns import (
    last_before,
    median,
    reached_before,
    rising_crossings,
    share_followed,
)
from foreshock.lab.spikebench.trace import Trace
from foreshock.spikes import SpikeEvent

SUSTAINED = 5
"""Consecutive steps that make a crossing a sustained one."""
AROUND = 30
"""Steps before an onset in which the crossing must lie, and after a crossing in which a spike is its own."""

SPECIFIC = (
    Claim(
        "single_false",
        "Single steps above the threshold are noisy: most are no spike.",
        f"share of single crossings that no spike follows within {AROUND} steps",
        "at least",
        0.5,
        0.25,
    ),
    Claim(
        "sustained_false",
        "Sustained crossings are specific.",
        f"share of sustained crossings that no spike follows within {AROUND} steps",
        "at most",
        0.25,
        0.5,
    ),
)
"""Claims about crossings that no spike follows."""


def direction_pattern(trace: Trace, spikes: list[SpikeEvent]) -> dict[str, float]:
    """Return how single and sustained crossings of the directional curvature go with spikes.

    Args:
        trace: A recorded run of mini-batches.
        spikes: Its spikes.

    Returns:
        By name: ``spikes``; ``sustained_hits``, the share of spikes that a sustained crossing precedes by at
        most 30 steps; ``single_false`` and ``sustained_false``, the share of crossings that no spike follows
        within 30 steps; ``median_direction``, of all readings; ``mean_square_reached``, the share of spikes
        before which the ratio of mean-square stability passed one.
    """
    direction = trace.column("gradient_ratio")
    values = np.where(np.isfinite(direction.values), direction.values, math.nan)
    single = rising_crossings(direction.steps, values)
    sustained = rising_crossings(direction.steps, values, sustained=SUSTAINED)
    hits = [last_before(sustained, spike, within=AROUND) is not None for spike in spikes]
    noise = trace.column("mean_square_ratio")
    return {
        "spikes": float(len(spikes)),
        "highest_spike": max((spike.height for spike in spikes), default=math.nan),
        "sustained_hits": float(np.mean(hits)) if hits else math.nan,
        "single_crossings": float(len(single)),
        "sustained_crossings": float(len(sustained)),
        "single_false": 1 - share_followed(single, spikes, within=AROUND),
        "sustained_false": 1 - share_followed(sustained, spikes, within=AROUND),
        "median_direction": median(values.tolist()),
        "mean_square_reached": reached_before(noise.steps, noise.values, spikes, within=2 * AROUND),
    }
