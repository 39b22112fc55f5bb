"""Whether a probability is right: how well it parts, how sharp it is, and whether it means what it says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshock.lab.spikebench.scores.alarms import auroc
from foreshock.lab.spikebench.scores.held import Held

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
_BINS = 10
_SMALLEST = 1e-4  # probabilities nearer to zero or one count as this far from them


def asked(runs: Sequence[Held]) -> tuple[Floats, Bools]:
    """Return the scores of all runs where it is known what followed, and whether a spike did.

    Args:
        runs: The runs.
    """
    if not runs:
        return np.empty(0), np.empty(0, dtype=bool)
    return (
        np.concatenate([run.score[run.asked] for run in runs]),
        np.concatenate([run.soon[run.asked] for run in runs]),
    )


def auroc_within(runs: Sequence[Held]) -> Floats:
    """Return the AUROC of each run that has steps of both types, shape (their number,).

    Args:
        runs: The runs.
    """
    found = (auroc(run.score[run.asked], run.soon[run.asked]) for run in runs)
    return np.array([one for one in found if not math.isnan(one)], dtype=np.float64)


def brier_skill(probability: Floats, outcome: Bools) -> float:
    """Return one less the mean square error over that of the base rate; NaN without both outcomes.

    Args:
        probability: Probabilities, shape (n,).
        outcome: What followed, shape (n,).

    Example:
        >>> brier_skill(np.array([0.0, 1.0]), np.array([False, True]))
        1.0
    """
    if not 0 < outcome.sum() < outcome.size:
        return math.nan
    base = float(np.mean((outcome.mean() - outcome) ** 2))
    return 1 - float(np.mean((probability - outcome) ** 2)) / base


def reliability(probability: Floats, outcome: Bools) -> list[dict[str, Any]]:
    """Return, for ten bins of probability, how many there are, their mean, and how often a spike followed.

    Args:
        probability: Probabilities in [0, 1], shape (n,).
        outcome: What followed, shape (n,).

    Example:
        >>> reliability(np.array([0.32, 0.38]), np.array([False, True]))
        [{'count': 2, 'forecast': 0.35, 'observed': 0.5}]
    """
    bins = np.minimum((probability * _BINS).astype(int), _BINS - 1)
    return [
        {
            "count": int((bins == i).sum()),
            "forecast": float(probability[bins == i].mean()),
            "observed": float(outcome[bins == i].mean()),
        }
        for i in np.unique(bins).tolist()
    ]


def reliability_slope(probability: Floats, outcome: Bools) -> float:
    r"""Return b of the logistic regression :math:`\ln(y/(1-y)) = a + b \ln(p/(1-p))`.

    One is right; below one the probabilities are too extreme, above one too cautious. NaN without both
    outcomes, or if the probabilities are all alike.

    Args:
        probability: Probabilities, shape (n,).
        outcome: What followed, shape (n,).
    """
    if not 0 < outcome.sum() < outcome.size or np.ptp(probability) == 0:
        return math.nan
    inside = np.clip(probability, _SMALLEST, 1 - _SMALLEST)
    design = np.stack([np.ones(inside.size), np.log(inside / (1 - inside))], axis=1)
    found = np.array([0.0, 1.0])
    for _ in range(30):
        chance = 1 / (1 + np.exp(-np.clip(design @ found, -30, 30)))
        bend = (design * (chance * (1 - chance))[:, None]).T @ design + 1e-9 * np.eye(2)
        change = np.linalg.solve(bend, design.T @ (outcome - chance))
        found = found + np.clip(change, -2, 2)
        if float(np.abs(change).max()) < 1e-8:
            break
    return float(found[1])
