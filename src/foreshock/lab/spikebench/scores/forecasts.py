"""Forecasts against what came: when, how surely, how high."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshock.lab.spikebench.scores.alarms import by_class, finite, groups, pooled_auroc, summed_by_class
from foreshock.lab.spikebench.scores.ranks import spearman
from foreshock.lab.spikebench.scores.replays import LEADS, Ahead, Replay, forecasts_ahead
from foreshock.lab.spikebench.scores.tally import Tally
from foreshock.lab.spikebench.scores.truth import Truth, truth_of
from foreshock.lab.spikebench.trace import Column, Trace

NOMINAL = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
SPIKE_LEADS = (10, 20, 50)
_OUTER = NormalDist().inv_cdf(0.9)  # the 80 % interval ends there


def score_forecasts(traces: Sequence[Trace], replay: Callable[[Trace], Replay]) -> dict[str, Any]:
    """Score forecasts.

    Args:
        traces: Runs of both splits.
        replay: Makes the forecasts of a trace.

    Returns:
        By split and group: ``crossing``, the relative error at each lead (``median``, ``count``, and
        ``without``: how many foresaw none); ``coverage`` of the 80 % interval; ``reliability``, nominal
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
    """Return the relative errors of the crossing time at each lead, and how many foresaw no crossing."""
    found = {}
    for lead in LEADS:
        at = ahead.lead == lead
        found[str(lead)] = _median(np.abs(ahead.expected[at] - ahead.actual[at]) / ahead.actual[at])
    return found


def spike_errors(pairs: Sequence[tuple[Truth, Replay]]) -> dict[str, Any]:
    """Return the relative errors of the time to a spike at each lead, and how many foresaw none.

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
    """Return the rank correlation of the last height forecast before the onset with what came."""
    forecast, came = [], []
    for (truth, replay), tallies in zip(pairs, alarm, strict=True):
        known = Column(replay.steps, replay.height)
        for spike, lead in zip(truth.spikes["3x"], tallies["3x"].leads, strict=True):
            height = float(known.held(np.array([spike.onset - 1]))[0])
            if lead is not None and not math.isnan(height):
                forecast.append(height)
                came.append(math.log(spike.height))
    return {"spearman": finite(spearman(np.array(forecast), np.array(came))), "count": len(came)}
