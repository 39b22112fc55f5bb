"""Forecasts against the crossings and spikes that followed: when, how surely, how high."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshock.lab.spikebench.scores.alarms import (
    by_class,
    finite,
    groups,
    pooled_auroc,
    spearman,
    summed_by_class,
)
from foreshock.lab.spikebench.scores.tally import Tally
from foreshock.lab.spikebench.spikes import Truth, truth_of
from foreshock.lab.spikebench.trace import Column, Trace

NOMINAL = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
SPIKE_LEADS = (10, 20, 50)
_OUTER = NormalDist().inv_cdf(0.9)  # the 80 % interval ends there

LEADS = (20, 50, 100, 200)
"""Steps before a crossing at which forecasts of it are judged."""
FURTHEST = 300
"""Most steps before a crossing at which a forecast of it counts for the coverage of the interval."""


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


@dataclass(frozen=True)
class Replay:
    """Forecasts of one trace, as they would have been made, all of shape (n,).

    Attributes:
        steps: Steps at which they were made, increasing.
        watch: Whether a watch was on.
        alarm: Whether an alarm was on.
        score: What rises towards an instability; NaN where unknown.
        expected: Steps until the stability ratio reaches one; infinity if never, NaN if unknown.
        low: Lower end of the 80 % interval of `expected`.
        high: Upper end.
        height: Expected height of the spike over the median before it; NaN if unknown.
        passes: What was measured for it cost, in forward and backward passes (F).
        until_spike: Steps until the loss is expected to be visibly off its level; infinity if never, NaN if
            unknown.

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
    """Forecasts of crossings that followed, each of shape (n,): made `actual` steps before the crossing.

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


def score_forecasts(traces: Sequence[Trace], replay: Callable[[Trace], Replay]) -> dict[str, Any]:
    """Score forecasts.

    Args:
        traces: Runs of both splits.
        replay: Makes the forecasts of a trace.

    Returns:
        By split and group: ``crossing``, the relative error at each lead (``median``, ``count``, and
        ``without``: how many forecast none); ``coverage`` of the 80 % interval; ``reliability``, nominal
        against observed; ``spike``, the relative error of the time to a spike above 3× at leads of 10, 20 and
        50 steps; ``height``, Spearman's correlation with ln height over the spikes that the alarm
        hit; ``cost``, F a step; ``auroc`` of the score; and ``watch`` and ``alarm`` as for rules.
    """
    truths = [truth_of(trace) for trace in traces]
    replays = [replay(trace) for trace in traces]
    ahead = [forecasts_ahead(truth.trace, made) for truth, made in zip(truths, replays, strict=True)]
    return {
        split: {
            group: _entry(
                [truths[i] for i in indices], [replays[i] for i in indices], [ahead[i] for i in indices]
            )
            for group, indices in found.items()
        }
        for split, found in groups(truths).items()
    }


def crossing_errors(ahead: Ahead) -> dict[str, Any]:
    """Return the relative errors of the crossing time at each lead, and how many forecast no crossing."""
    found = {}
    for lead in LEADS:
        at = ahead.lead == lead
        found[str(lead)] = _median(np.abs(ahead.expected[at] - ahead.actual[at]) / ahead.actual[at])
    return found


def spike_errors(pairs: Sequence[tuple[Truth, Replay]]) -> dict[str, Any]:
    """Return the relative errors of the time to a spike at each lead, and how many forecast none.

    Spikes above 3× are asked for that come at least so many steps after the last one ended.
    """
    found: dict[str, list[float]] = {str(lead): [] for lead in SPIKE_LEADS}
    for truth, replay in pairs:
        known = Column(replay.steps, replay.until_spike)
        free_from = int(replay.steps[0]) if replay.steps.size else 0
        for spike in truth.spikes["3x"]:
            for lead in SPIKE_LEADS:
                if spike.onset - lead >= free_from:
                    expected = float(known.held(np.array([spike.onset - lead]))[0])
                    found[str(lead)].append(abs(expected - lead) / lead)
            free_from = spike.end + 1
    return {lead: _median(np.array(errors)) for lead, errors in found.items()}


def _median(errors: NDArray[np.float64]) -> dict[str, Any]:
    known = errors[np.isfinite(errors)]
    return {
        "median": float(np.median(known)) if known.size else None,
        "count": int(known.size),
        "without": int(errors.size - known.size),
    }


def coverage(ahead: Ahead) -> dict[str, Any]:
    """Return the share of 80 % intervals that held the crossing: at the leads, and within 300 steps."""
    inside = (ahead.low <= ahead.actual) & (ahead.actual <= ahead.high)
    at_leads = (ahead.lead > 0) & np.isfinite(ahead.expected)
    within = (ahead.lead == 0) & ~np.isnan(ahead.low) & ~np.isnan(ahead.high)
    return {
        name: {"share": float(inside[which].mean()) if which.any() else None, "count": int(which.sum())}
        for name, which in (("at_leads", at_leads), ("within_300", within))
    }


def reliability(ahead: Ahead) -> list[dict[str, Any]]:
    """Return, for nominal levels, the observed share of crossings inside the interval of that level.

    Only the 80 % interval is forecast; the others are its own, each side scaled as a normal distribution
    would have it. Forecasts with a finite expectation, up to 300 steps before a crossing.
    """
    which = (ahead.lead == 0) & np.isfinite(ahead.expected)
    miss = ahead.actual[which] - ahead.expected[which]
    side = np.where(
        miss < 0, ahead.expected[which] - ahead.low[which], ahead.high[which] - ahead.expected[which]
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.where(miss == 0, 0.0, np.abs(miss) / side)
    known = distance[~np.isnan(distance)]
    levels = [(nominal, NormalDist().inv_cdf((1 + nominal) / 2) / _OUTER) for nominal in NOMINAL]
    return [
        {
            "nominal": nominal,
            "observed": float((known <= reach).mean()) if known.size else None,
            "count": int(known.size),
        }
        for nominal, reach in levels
    ]


def _entry(truths: Sequence[Truth], replays: Sequence[Replay], ahead: Sequence[Ahead]) -> dict[str, Any]:
    pooled = Ahead(*(np.concatenate([getattr(one, name) for one in ahead]) for name in Ahead.__annotations__))
    pairs = list(zip(truths, replays, strict=True))
    watch = [_tallies(truth, made, made.watch) for truth, made in pairs]
    alarm = [_tallies(truth, made, made.alarm) for truth, made in pairs]
    return {
        "traces": len(truths),
        "cost": float(np.mean([made.passes.mean() for made in replays])),
        "crossing": crossing_errors(pooled),
        "coverage": coverage(pooled),
        "reliability": reliability(pooled),
        "spike": spike_errors(pairs),
        "height": _heights(pairs, alarm),
        "auroc": pooled_auroc([(truth, Column(made.steps, made.score)) for truth, made in pairs]),
        "watch": summed_by_class(watch),
        "alarm": summed_by_class(alarm),
    }


def _tallies(truth: Truth, replay: Replay, on: NDArray[np.bool_]) -> dict[str, Tally]:
    return by_class(truth, Column(replay.steps, on.astype(float)), 0.5)


def _heights(pairs: Sequence[tuple[Truth, Replay]], alarm: Sequence[dict[str, Tally]]) -> dict[str, Any]:
    """Return the rank correlation of the last height forecast before the onset with the spike's height."""
    forecast, observed = [], []
    for (truth, replay), tallies in zip(pairs, alarm, strict=True):
        known = Column(replay.steps, replay.height)
        for spike, lead in zip(truth.spikes["3x"], tallies["3x"].leads, strict=True):
            height = float(known.held(np.array([spike.onset - 1]))[0])
            if lead is not None and not math.isnan(height):
                forecast.append(height)
                observed.append(math.log(spike.height))
    return {"spearman": finite(spearman(np.array(forecast), np.array(observed))), "count": len(observed)}
