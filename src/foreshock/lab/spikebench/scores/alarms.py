"""All rules on all traces → one plain dictionary, by split and group; with the two rank statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshock.lab.spikebench.rules import RULES, Rule, cost_per_step
from foreshock.lab.spikebench.scores.tally import Tally, calibrated, curve_grid, summed, tally
from foreshock.lab.spikebench.spikes import Truth, truth_of
from foreshock.lab.spikebench.trace import Column, Trace

_BY_LEVEL = ("recall", "false_control", "false_spiky", "share_control")


def score_rules(traces: Sequence[Trace], rules: Sequence[Rule] = RULES) -> dict[str, Any]:
    """Score alarm rules.

    Args:
        traces: Runs of both splits; thresholds are chosen on the development split alone.
        rules: The rules.

    Returns:
        ``rules`` says of each its source, what it needs, its default threshold and the calibrated one, by
        kind of batch. ``scores`` has by split, group (all, full, mini, language, ``family NAME``) and rule:
        ``traces``; ``cost``, F a step; ``auroc``; ``default`` and ``calibrated``, each by class of spikes;
        and ``curve``, at rising thresholds. A class has ``spikes``, ``hits``, ``recall``, ``recall_early``
        (a lead of ten steps or more), ``lead_median``, ``lead_10`` and ``leads``, the same for spikes of
        8× and more under ``tall``, and false alarms per 1,000 judged steps and the share of time in alarm,
        on spiky runs and on controls. None stands for an unavailable value, and for a calibrated threshold
        if none qualifies; a kind of batch without development controls has none at all. Traces without
        scores of a rule don't count for it.
    """
    truths = [truth_of(trace) for trace in traces]
    members = groups(truths)
    about: dict[str, Any] = {}
    scores: dict[str, Any] = {split: {group: {} for group in found} for split, found in members.items()}
    for rule in rules:
        scored = [(truth, rule.score(truth.trace)) for truth in truths]
        thresholds = _calibrated_by_kind(scored)
        about[rule.name] = {
            "source": rule.source,
            "needs": list(rule.cost),
            "default": rule.default,
            "calibrated": {kind: finite(at) for kind, at in thresholds.items() if not math.isnan(at)},
        }
        counted = _count(rule, scored, thresholds)
        for split, found in members.items():
            for group, indices in found.items():
                used = [i for i in indices if scored[i][1].steps.size]
                scores[split][group][rule.name] = _entry(rule, scored, counted, used) if used else None
    return {"rules": about, "scores": scores}


def groups(truths: Sequence[Truth]) -> dict[str, dict[str, list[int]]]:
    """Return, by split and group, the indices of the traces that belong to it."""
    found: dict[str, dict[str, list[int]]] = {}
    families = sorted({str(truth.trace.meta["family"]) for truth in truths})
    names = ("all", "full", "mini", "language", *(f"family {family}" for family in families))
    for split in sorted({str(truth.trace.meta["split"]) for truth in truths}):
        for name in names:
            indices = [i for i, truth in enumerate(truths) if _belongs(truth.trace.meta, split, name)]
            if indices:
                found.setdefault(split, {})[name] = indices
    return found


def _belongs(meta: Mapping[str, Any], split: str, name: str) -> bool:
    own = {"all", meta["kind"], f"family {meta['family']}"} | ({"language"} if meta["language"] else set())
    return meta["split"] == split and name in own


def by_class(truth: Truth, column: Column, threshold: float) -> dict[str, Tally]:
    """Return one tally for each class of spikes; the class of 3× counts spikes of 8× and more separately."""
    announces = column.values > threshold
    return {
        name: tally(truth, spikes, column.steps, announces)
        for name, spikes in truth.spikes.items()
        if name != "8x"
    }


def summed_by_class(tallies: Sequence[Mapping[str, Tally]]) -> dict[str, Any]:
    """Return the sums over traces, by class of spikes; traces without a class don't count for it."""
    names = dict.fromkeys(name for one in tallies for name in one)
    return {name: summed([one[name] for one in tallies if name in one]) for name in names}


def pooled_auroc(scored: Sequence[tuple[Truth, Column]]) -> float | None:
    """Return the AUROC of held scores for "a spike starts within 50 steps", all traces as one."""
    scores = [column.held(truth.judged[truth.asked]) for truth, column in scored]
    labels = [truth.soon[truth.asked] for truth, _ in scored]
    return finite(auroc(np.concatenate(scores), np.concatenate(labels))) if scores else None


def finite(value: float) -> float | None:
    """Return the number, or None where JSON has none for it."""
    return value if math.isfinite(value) else None


def _calibrated_by_kind(scored: Sequence[tuple[Truth, Column]]) -> dict[str, float]:
    controls = [
        (truth, column)
        for truth, column in scored
        if truth.control and truth.trace.meta["split"] == "development" and column.steps.size
    ]
    kinds = {str(truth.trace.meta["kind"]) for truth, _ in scored}
    return {
        kind: calibrated([one for one in controls if one[0].trace.meta["kind"] == kind])
        for kind in sorted(kinds)
    }


def _count(
    rule: Rule, scored: Sequence[tuple[Truth, Column]], thresholds: Mapping[str, float]
) -> dict[str, Any]:
    """Return, for each trace, its tallies at the default, at the calibrated threshold and along the curve."""
    development = [one for one in scored if one[0].trace.meta["split"] == "development"]
    grid = curve_grid(development, rule.default)
    chosen = [thresholds[truth.trace.meta["kind"]] for truth, _ in scored]
    return {
        "default": [by_class(truth, column, rule.default) for truth, column in scored],
        "calibrated": [
            by_class(*one, at) if at == at else None for one, at in zip(scored, chosen, strict=True)
        ],
        "grid": grid,
        "curve": [
            [tally(truth, truth.spikes["3x"], column.steps, column.values > at) for truth, column in scored]
            for at in grid
        ],
    }


def _entry(
    rule: Rule, scored: Sequence[tuple[Truth, Column]], counted: Mapping[str, Any], used: Sequence[int]
) -> dict[str, Any]:
    calibrated_ones = [counted["calibrated"][i] for i in used if counted["calibrated"][i] is not None]
    curve = []
    for threshold, tallies in zip(counted["grid"], counted["curve"], strict=True):
        level = summed([tallies[i] for i in used])
        tall = level["tall"]["recall"]
        curve.append({"threshold": threshold, "tall": tall, **{key: level[key] for key in _BY_LEVEL}})
    return {
        "traces": len(used),
        "cost": float(np.mean([cost_per_step(rule, scored[i][0].trace) for i in used])),
        "auroc": pooled_auroc([scored[i] for i in used]),
        "default": summed_by_class([counted["default"][i] for i in used]),
        "calibrated": summed_by_class(calibrated_ones) if len(calibrated_ones) == len(used) else None,
        "curve": curve,
    }


Floats = NDArray[np.float64]


def auroc(scores: Floats, labels: NDArray[np.bool_]) -> float:
    """Return the chance that a positive scores higher than a negative, a tie counting half.

    Args:
        scores: Scores, of shape (n,); NaN counts as lowest, as it is no alarm.
        labels: Whether each is a positive, of shape (n,).

    Returns:
        The area, in [0, 1]; NaN without positives or without negatives.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> auroc(np.array([1.0, 2.0, 3.0]), np.array([False, True, False]))
        0.5
    """
    if scores.shape != labels.shape:
        raise ValueError(f"scores have shape {scores.shape}, labels {labels.shape}; they must pair up")
    positives = int(labels.sum())
    negatives = labels.size - positives
    if not positives or not negatives:
        return math.nan
    rank = ranks(np.where(np.isnan(scores), -np.inf, scores))
    wins = float(rank[labels].sum()) - positives * (positives + 1) / 2
    return wins / (positives * negatives)


def spearman(a: Floats, b: Floats) -> float:
    """Return Spearman's rank correlation; NaN for fewer than three pairs or where all of one are equal.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> round(spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 4.0, 90.0])), 12)
        1.0
    """
    if a.shape != b.shape:
        raise ValueError(f"the two have shapes {a.shape} and {b.shape}; they must pair up")
    x, y = ranks(a), ranks(b)
    if a.size < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])


def ranks(values: Floats) -> Floats:
    """Return ranks from 1, equal values sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse.reshape(-1)])
