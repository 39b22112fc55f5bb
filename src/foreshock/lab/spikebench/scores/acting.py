"""What an alarm is worth to who acts on it, and the main numbers of a forecast with their intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from foreshock.lab.spikebench.scores.alarms import auroc
from foreshock.lab.spikebench.scores.held import Held
from foreshock.lab.spikebench.scores.molchan import curve_of
from foreshock.lab.spikebench.scores.probabilities import (
    asked,
    auroc_within,
    brier_skill,
    reliability_slope,
)

DRAWS = 200
"""Resamplings of the runs for an interval."""
Numbers = Mapping[str, float]


def alarm_numbers(runs: Sequence[Held]) -> dict[str, float]:
    """Return what the alarms of runs catch and what they cost in time.

    Args:
        runs: Runs that are not calm controls.

    Returns:
        ``recall`` and ``recall_tall`` (8× and more), the shares of spikes before which an alarm was on in the
        last 50 steps, and ``recall_early`` in those but the last ten; ``share`` of steps outside spikes in
        alarm; ``precision``, the share of them after which a spike did begin within 50; ``gain``, recall over
        share; ``lead``, the median number of steps from the start of the alarm to the spike; ``episodes`` per
        1,000 steps. NaN where there is nothing to count.
    """
    leads = np.concatenate([run.leads for run in runs]) if runs else np.empty(0)
    tall = np.concatenate([run.tall for run in runs]) if runs else np.empty(0, dtype=bool)
    steps = sum(int(run.counted.sum()) for run in runs)
    on = sum(int((run.alarm & run.counted).sum()) for run in runs)
    judged = sum(int((run.alarm & run.asked).sum()) for run in runs)
    right = sum(int((run.alarm & run.asked & run.soon).sum()) for run in runs)
    caught = ~np.isnan(leads)
    recall, share = _over(int(caught.sum()), leads.size), _over(on, steps)
    return {
        "recall": recall,
        "recall_early": _over(sum(int(run.early.sum()) for run in runs), leads.size),
        "recall_tall": _over(int((caught & tall).sum()), int(tall.sum())),
        "share": share,
        "precision": _over(right, judged),
        "gain": _over(recall, share),
        "lead": float(np.median(leads[caught])) if caught.any() else math.nan,
        "episodes": 1000 * _over(sum(_episodes(run) for run in runs), steps),
    }


def probability_numbers(runs: Sequence[Held]) -> dict[str, float]:
    """Return how right the probabilities of runs are, controls among them.

    Args:
        runs: The runs.

    Returns:
        ``auroc`` over all steps, and within runs its median and mean, ``auroc_within`` and
        ``auroc_within_mean``; ``brier_skill`` against the base rate; the ``slope`` of the reliability; and
        ``known``, the share of steps with a probability. Where it is unknown it counts as lowest for the
        AUROC and is left out otherwise.
    """
    scores, outcome = asked(runs)
    within = auroc_within(runs)
    known = ~np.isnan(scores)
    return {
        "auroc": auroc(scores, outcome),
        "auroc_within": float(np.median(within)) if within.size else math.nan,
        "auroc_within_mean": float(np.mean(within)) if within.size else math.nan,
        "brier_skill": brier_skill(scores[known], outcome[known]),
        "slope": reliability_slope(scores[known], outcome[known]),
        "known": _over(int(known.sum()), known.size),
    }


def main_numbers(runs: Sequence[Held]) -> dict[str, float]:
    """Return both, and the area skill of the Molchan curve.

    Args:
        runs: The runs of a group, controls among them; calm ones count for the probabilities alone.
    """
    spiky = [run for run in runs if not run.calm]
    curve, early = curve_of(spiky), curve_of(spiky, early=True)
    return {
        **probability_numbers(runs),
        **alarm_numbers(spiky),
        "area_skill": math.nan if curve is None else curve.area_skill,
        "area_skill_early": math.nan if early is None else early.area_skill,
    }


def intervals(
    runs: Sequence[Held],
    numbers: Callable[[Sequence[Held]], Numbers] = main_numbers,
    *,
    draws: int = DRAWS,
) -> dict[str, tuple[float, float]]:
    """Return 95 % intervals of numbers, by drawing as many runs with replacement again and again.

    Args:
        runs: The runs.
        numbers: What to compute of them.
        draws: How often.

    Returns:
        By name, the 2.5th and 97.5th percentile of the draws in which it is not NaN.
    """
    random = np.random.default_rng(0)
    drawn: dict[str, list[float]] = {}
    for _ in range(draws):
        chosen = [runs[i] for i in random.integers(0, len(runs), len(runs))]
        for name, value in numbers(chosen).items():
            if math.isfinite(value):
                drawn.setdefault(name, []).append(value)
    return {
        name: (float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975)))
        for name, values in drawn.items()
    }


def plain(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Return numbers with None for those that are not finite, which JSON does not have.

    Args:
        numbers: By name.
    """
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def _episodes(run: Held) -> int:
    on = (run.alarm & run.counted)[run.counted]
    return int((on & ~np.concatenate(([False], on[:-1]))).sum())


def _over(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
