"""The quantities of the paper's claims at the middle scale, and the claims."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from foreshock.lab.reproduction.experiment import Claim
from foreshock.lab.reproduction.medium.recorded import Event, Recorded, removed
from foreshock.lab.reproduction.patterns import WINDOW, mean_before, median, reached_before
from foreshock.lab.reproduction.sustained import AROUND, SPECIFIC, SUSTAINED, direction_pattern
from foreshock.lab.spikebench.spikes import ground_truth
from foreshock.lab.spikebench.trace import Trace
from foreshock.spikes import SpikeEvent

LEAST_GROWTH = 0.03
"""Growth of ln λ_max(Ĥ) below which there is no rise to divide."""
_BEFORE = 100
_PEAKS = {"displaced": "displaced", "frozen": "v frozen", "floor": "v ≥ g²"}
"""Branches, and what they are called on the page."""


def medium_pattern(recorded: Recorded, plain: Recorded | None, *, beta2: float) -> dict[str, float]:
    """Return what the claims are about.

    Args:
        recorded: The measured training.
        plain: The same training with a shorter memory of v; None if there was none.
        beta2: Its β₂.
    """
    trace = recorded.trace
    spikes = ground_truth(trace)["3x"]
    measured = direction_pattern(trace, spikes) | _crossings(trace, spikes) | _states(trace, spikes)
    measured |= _apart(recorded.events)
    if plain is not None:
        fewer = len(ground_truth(plain.trace)["3x"])
        measured[f"spikes at {beta2:g}"] = float(fewer)
        measured["shorter_ratio"] = fewer / len(spikes) if spikes else math.nan
    measured["accuracy, training set"], measured["accuracy, held out"] = recorded.accuracy
    measured["parameters"] = float(trace.meta["parameters"])
    return measured


def _crossings(trace: Trace, spikes: Sequence[SpikeEvent]) -> dict[str, float]:
    """Return before which share of the spikes each ratio was at or above one, in the 100 steps before."""
    names = {
        "crossed": "stability_ratio",
        "batch_crossed": "batch_ratio",
        "update_crossed": "batch_update_ratio",
        "direction_crossed": "gradient_ratio",
    }
    found = {}
    for name, column in names.items():
        points = trace.column(column)
        found[name] = reached_before(points.steps, points.values, spikes, within=_BEFORE)
    return found


def _states(trace: Trace, spikes: Sequence[SpikeEvent]) -> dict[str, float]:
    """Return the state of v before spikes and over the run: its lag, and how purely it decays."""
    onsets = [spike.onset - 10 for spike in spikes]
    lag, exponent = trace.column("lag_ratio"), trace.column("decay_exponent")
    with np.errstate(divide="ignore"):
        lags = np.where(lag.values > 0, 1 / lag.values, math.nan)
    before = [np.nanmedian(lags[(lag.steps >= at - WINDOW) & (lag.steps < at)]) for at in onsets]
    return {
        "lag before spikes": median([float(value) for value in before]),
        "lag, whole run": median(lags.tolist()),
        "decay_exponent": median(
            mean_before(exponent.steps, exponent.values, onsets, window=WINDOW).tolist()
        ),
    }


def _apart(events: Sequence[Event]) -> dict[str, float]:
    divided = [event for event in events if event.get("total", 0.0) >= LEAST_GROWTH]
    robust = [event for event in events if not removed(event.get("displaced", 0.0))]
    return {
        "taken apart": float(len(events)),
        "with a rise": float(len(divided)),
        "share": median([event["share"] for event in divided]),
        "v, % a step": _rate(divided, "preconditioner"),
        "landscape, % a step": _rate(divided, "landscape"),
        "robust": float(len(robust)),
        "frozen_removed": float(np.mean([removed(e["frozen"]) for e in robust])) if robust else math.nan,
        "floor_removed": float(np.mean([removed(e["floor"]) for e in robust])) if robust else math.nan,
        **{f"peak, {words}": median([event[name] for event in robust]) for name, words in _PEAKS.items()},
    }


def _rate(events: Sequence[Event], part: str) -> float:
    return median([100 * event[part] / (event["high"] - event["low"]) for event in events])


CLAIMS = (
    Claim(
        "spikes",
        "Training with β₂ = 0.999 spikes.",
        "spikes above 3 × the median",
        "at least",
        1,
        1,
    ),
    Claim(
        "sustained_hits",
        "Spikes come with sustained crossings of the directional curvature gᵀĤg/‖g‖² of the batch.",
        f"share of spikes preceded within {AROUND} steps by {SUSTAINED} readings running above 2/η",
        "at least",
        0.9,
        0.5,
    ),
    *SPECIFIC,
    Claim(
        "crossed",
        "λ_max(Ĥ) passes 2/η before a spike.",
        "share of spikes with λ_max(Ĥ) of the fixed batch above 2/η in the 100 steps before",
        "at least",
        0.9,
        0.5,
    ),
    Claim(
        "decay_exponent",
        "Before a spike v decays as β₂ᵗ.",
        f"decay exponent of v over the {WINDOW} steps that end 10 before the onset, median over spikes",
        "at least",
        0.9,
        0.7,
    ),
    Claim(
        "share",
        "Decay of the preconditioner, not the landscape, makes λ_max(Ĥ) grow before a spike.",
        "share of the preconditioner (H frozen) in the last rise of ln λ_max(Ĥ) before a spike, median over "
        "spikes",
        "at least",
        0.8,
        0.5,
    ),
    Claim(
        "frozen_removed",
        "With v frozen where λ_max(Ĥ) begins to rise the spike does not come.",
        "share of the spikes that come again after a displacement of 10⁻⁴ that freezing v removes",
        "at least",
        0.95,
        0.5,
    ),
    Claim(
        "shorter_ratio",
        "A smaller β₂ has fewer spikes.",
        "spikes with β₂ = 0.9 ÷ spikes with β₂ = 0.999",
        "at most",
        0.5,
        0.99,
    ),
)
"""The claims, the same for every training at this scale."""
