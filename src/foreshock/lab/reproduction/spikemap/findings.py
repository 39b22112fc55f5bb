"""Lines of cells → what the map says: shares, crossings, forks, outcomes, and the formula of the border."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshock.lab.reproduction.patterns import median
from foreshock.lab.reproduction.skill import balanced_accuracy, discrimination
from foreshock.lab.reproduction.spikemap.cells import MEMORIES
from foreshock.lab.reproduction.spikemap.outcomes import Outcome
from foreshock.lab.reproduction.spikemap.survey import FACTOR

Spike = Mapping[str, Any]
"""One measured spike: what `measure_spike` found, with the settings and the seed of its cell."""
Floats = NDArray[np.float64]

LEAST_GROWTH = 0.03
"""Growth of ln λ_max(Ĥ) below which there is no rise to divide: eigenvalues are good to one or two."""
BLAMED = 0.5
_RIDGE = 0.1
# Without weight decay something else still moves the landscape; the accuracies are the same at 10⁻⁵ and 10⁻³.
LEAST_PULL = 1e-4
_FOLDS = 10
OUTCOMES: tuple[Outcome, ...] = ("neutral", "benign", "malignant", "catastrophic")
SIGNALS: Mapping[str, str] = MappingProxyType(
    {"ratio": "λ_max(Ĥ)", "gradient_ratio": "λ_grad", "mean_square": "mean-square ratio"}
)


def spikes_of(lines: Iterable[Mapping[str, Any]], field: str = "judged") -> list[Spike]:
    """Return all measured spikes, each with the settings of its cell.

    Args:
        lines: Lines of the map, or of another experiment on such cells.
        field: Where a line has its spikes.
    """
    settings = ("kind", "batch", "beta2", "decay", "rate", "seed", "steps")
    return [{**{name: line[name] for name in settings}, **one} for line in lines for one in line[field]]


def share(spike: Spike) -> float:
    """Return the part of v in the rise of ln λ_max(Ĥ); NaN if it rose by less than 3 %."""
    return float(spike["share"]) if spike.get("total", 0.0) >= LEAST_GROWTH else math.nan


def with_share(spikes: Iterable[Spike]) -> list[Spike]:
    """Return the spikes before which λ_max(Ĥ) rose enough to be divided."""
    return [spike for spike in spikes if not math.isnan(share(spike))]


def robust(spikes: Iterable[Spike]) -> list[Spike]:
    """Return the spikes that come again, in the same hundred steps, after a displacement of 10⁻⁴."""
    return [spike for spike in spikes if spike.get("displaced", 0.0) >= FACTOR]


def removed(spike: Spike) -> bool:
    """Return whether freezing v where λ_max(Ĥ) was lowest removes the spike."""
    return float(spike["frozen"]) < FACTOR


def held(spike: Spike) -> bool:
    """Return whether v ≥ g² from forty steps before the onset on keeps the loss calm for a hundred steps."""
    return spike.get("measure") == "floor"


def speed(spike: Spike, part: str) -> float:
    """Return by how much a part of the rise moves ln λ_max(Ĥ) in a step, on average.

    Args:
        spike: A spike with a share.
        part: "preconditioner" or "landscape".
    """
    return float(spike[part]) / float(spike["high"] - spike["low"])


def fraction(members: Sequence[Spike], holds: Callable[[Spike], bool]) -> float:
    """Return the share of spikes, or of lines, for which something holds; NaN of none."""
    return sum(map(holds, members)) / len(members) if members else math.nan


def crossed_first(spike: Spike) -> str:
    """Return which of the three passed one first in the hundred steps before: a name in `SIGNALS`, or "none".

    In full batch the mean-square ratio is λ_max(Ĥ) itself and does not count. Ties go to λ_max(Ĥ).
    """
    names = [name for name in SIGNALS if spike["batch"] == "mini" or name != "mean_square"]
    leads = {name: spike.get(f"{name}_lead", math.nan) for name in names}
    known = {name: lead for name, lead in leads.items() if not math.isnan(lead)}
    return max(known, key=lambda name: known[name]) if known else "none"


def decay_speed(spike: Spike) -> float:
    """Return ½(1 − β₂)/(1 − β₂ᵗ): by how much a v that only decays moves ln λ_max(Ĥ) in the step of an onset.

    Args:
        spike: A spike.
    """
    return float(0.5 * (1 - spike["beta2"]) / (1 - spike["beta2"] ** max(spike["onset"], 1)))


@dataclass(frozen=True)
class Formula:
    """A formula of the border: v is to blame where b₀ + Σ bᵢ·xᵢ > 0.

    Attributes:
        names: The quantities xᵢ.
        weights: b₀, b₁, …
    """

    names: tuple[str, ...]
    weights: tuple[float, ...]

    def blames_v(self, spike: Spike) -> bool:
        """Return whether v is to blame for a spike by this formula."""
        values = [QUANTITIES[name](spike) for name in self.names]
        return self.weights[0] + sum(b * x for b, x in zip(self.weights[1:], values, strict=True)) > 0


QUANTITIES: Mapping[str, Callable[[Spike], float]] = MappingProxyType(
    {
        "ln lag": lambda spike: math.log(max(spike["lag"], 1e-6)),
        "ln(1 + noise)": lambda spike: math.log1p(spike["noise"]),
        "ln η": lambda spike: math.log(spike["rate"]),
        "ln(1 − β₂)": lambda spike: math.log(1 - spike["beta2"]),
        "decay": lambda spike: float(spike["decay"] > 0),
        "ln s": lambda spike: math.log(decay_speed(spike)),
        "ln(ηw + 10⁻⁴)": lambda spike: math.log(spike["rate"] * spike["decay"] + LEAST_PULL),
    }
)
"""What a formula may use, each known before the spike."""
BORDER = ("ln s", "ln(ηw + 10⁻⁴)", "ln(1 + noise)")
"""The formula that the pages quote: how fast v can fall, against how fast decay pulls, and the noise."""
FORMULAS: tuple[tuple[str, ...], ...] = (
    BORDER,
    ("ln lag", "ln(1 + noise)", "ln η"),
    ("ln(1 − β₂)", "decay"),
    ("ln lag", "ln(1 − β₂)", "decay"),
    ("ln lag", "ln(1 + noise)", "ln η", "ln(1 − β₂)", "decay"),
)


def fit_formula(spikes: Sequence[Spike], names: Sequence[str]) -> Formula | None:
    """Fit a formula by logistic regression with a slight ridge.

    Args:
        spikes: Spikes with a share.
        names: Names in `QUANTITIES`.

    Returns:
        The formula; None if all spikes lie on one side.
    """
    labels = np.array([share(spike) >= BLAMED for spike in spikes], dtype=float)
    if not 0 < labels.sum() < labels.size:
        return None
    raw = np.array([[QUANTITIES[name](spike) for name in names] for spike in spikes])
    centre, scale = raw.mean(axis=0), np.maximum(raw.std(axis=0), 1e-9)
    scaled = (raw - centre) / scale
    fitted = _logistic(np.column_stack([np.ones(len(raw)), scaled]), labels)
    weights = fitted[1:] / scale
    return Formula(tuple(names), (float(fitted[0] - weights @ centre), *map(float, weights)))


def _logistic(design: Floats, labels: Floats) -> Floats:
    """Return the weights of a logistic regression by Newton's method; the first is not penalised."""
    weights = np.zeros(design.shape[1])
    penalty = np.diag([0.0, *[_RIDGE] * (design.shape[1] - 1)])
    for _ in range(50):
        chance = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        slope = design.T @ (chance - labels) + penalty @ weights
        curvature = (design.T * (chance * (1 - chance))) @ design + penalty + 1e-9 * np.eye(len(weights))
        weights = weights - np.linalg.solve(curvature, slope)
    return weights


def _accuracy(spikes: Sequence[Spike], formula: Formula) -> float:
    said = [formula.blames_v(spike) for spike in spikes]
    return balanced_accuracy(said, [share(spike) >= BLAMED for spike in spikes])


@dataclass(frozen=True)
class Judged:
    """A formula, fitted on one seed and judged elsewhere.

    Attributes:
        formula: Fitted on the first seed.
        same: Balanced accuracy on that seed.
        other: On the other seeds.
        cells: On tenths of the cells, each judged by a fit on the other nine tenths.
        elsewhere: On each kind of network, judged by a fit on the other kinds.
    """

    formula: Formula
    same: float
    other: float
    cells: float
    elsewhere: float


def judge_formulas(spikes: Sequence[Spike]) -> list[Judged]:
    """Fit each formula on the first seed, and judge it on the others.

    Args:
        spikes: All spikes.
    """
    return [judged for names in FORMULAS if (judged := judge_formula(spikes, names)) is not None]


def judge_formula(spikes: Sequence[Spike], names: Sequence[str]) -> Judged | None:
    """Fit one formula on the first seed, and judge it on the others, on other cells and on other networks.

    Args:
        spikes: All spikes.
        names: Names in `QUANTITIES`.

    Returns:
        The judgement; None if all spikes of the first seed lie on one side.
    """
    known = with_share(spikes)
    first = min((spike["seed"] for spike in known), default=0)
    own, others = ([s for s in known if (s["seed"] == first) == side] for side in (True, False))
    formula = fit_formula(own, names)
    if formula is None:
        return None
    return Judged(
        formula,
        _accuracy(own, formula),
        _accuracy(others, formula),
        held_out(known, names, _tenth),
        held_out(known, names, lambda spike: spike["kind"]),
    )


def _tenth(spike: Spike) -> int:
    """Return which tenth of the cells a spike belongs to; both seeds of a cell belong to the same."""
    return int(hashlib.sha256(cell_name(spike).encode()).hexdigest(), 16) % _FOLDS


def held_out(spikes: Sequence[Spike], names: Sequence[str], part: Callable[[Spike], Any]) -> float:
    """Return the balanced accuracy over all spikes, each judged by a fit on the other parts.

    Args:
        spikes: Spikes with a share.
        names: Names in `QUANTITIES`.
        part: Returns the part that a spike belongs to.
    """
    said, labels = list[bool](), list[bool]()
    for chosen in dict.fromkeys(map(part, spikes)):
        formula = fit_formula([spike for spike in spikes if part(spike) != chosen], names)
        for spike in spikes:
            if formula is not None and part(spike) == chosen:
                said.append(formula.blames_v(spike))
                labels.append(share(spike) >= BLAMED)
    return balanced_accuracy(said, labels)


BEFOREHAND: Mapping[str, Callable[[Spike], float]] = MappingProxyType(
    {
        **QUANTITIES,
        "share of v": lambda spike: share(spike),
        "λ_max(Ĥ)·η/2": lambda spike: spike["ratio"],
        "mini-batches": lambda spike: float(spike["batch"] == "mini"),
    }
)
"""What might tell the outcome of a spike before it comes."""


def telling(spikes: Sequence[Spike], outcomes: Sequence[str]) -> dict[str, list[float]]:
    """Return how well each quantity known beforehand tells some outcomes from the others, seed by seed.

    Args:
        spikes: All spikes.
        outcomes: The outcomes that form the class.
    """
    known = [spike for spike in spikes if "outcome" in spike]
    seeds = sorted({spike["seed"] for spike in known})
    found: dict[str, list[float]] = {}
    for name, quantity in BEFOREHAND.items():
        found[name] = []
        for seed in seeds:
            own = [spike for spike in known if spike["seed"] == seed]
            labels = [spike["outcome"] in outcomes for spike in own]
            found[name].append(discrimination([quantity(spike) for spike in own], labels))
    return found


def summarise(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the numbers of the map that other pages quote.

    Args:
        lines: Lines of the map.

    Returns:
        Numbers by name. Of groups such as ``mini decay``: ``spikes``, ``share`` (median), ``blamed`` (the
        part with a share of at least a half), ``removed`` (the part of robust spikes that freezing v
        removes), ``v speed`` and ``landscape speed`` (medians, a step). Of the formula of the border its
        balanced accuracy on held-out ``cells`` and ``networks``.
    """
    spikes = spikes_of(lines)
    found: dict[str, float] = {
        "runs": float(len(lines)),
        "cells": float(len({cell_of(line) for line in lines})),
        "spiking": fraction(lines, lambda line: line["spikes"] > 0),
        "spikes": float(len(spikes)),
    }
    found |= _paired(lines)
    groups: dict[str, list[Spike]] = {"all": spikes}
    for batch, decay in itertools.product(("full", "mini"), (False, True)):
        name = f"{batch} {'decay' if decay else 'plain'}"
        groups[name] = [s for s in spikes if s["batch"] == batch and (s["decay"] > 0) == decay]
    for spike in spikes:
        kind_of_decay = "decay" if spike["decay"] > 0 else "plain"
        memory = f"β₂ {spike['beta2']:g}"
        for name in (spike["kind"], spike["batch"], kind_of_decay, memory, f"{memory} {kind_of_decay}"):
            groups.setdefault(name, []).append(spike)
    for name, members in groups.items():
        known, sure = with_share(members), [s for s in robust(members) if "frozen" in s]
        found[f"{name}: spikes"] = float(len(members))
        found[f"{name}: share"] = median([share(spike) for spike in known])
        found[f"{name}: blamed"] = fraction(known, lambda spike: share(spike) >= BLAMED)
        found[f"{name}: robust"] = float(len(sure))
        found[f"{name}: removed"] = fraction(sure, removed)
        found[f"{name}: v speed"] = median([speed(spike, "preconditioner") for spike in known])
        found[f"{name}: landscape speed"] = median([speed(spike, "landscape") for spike in known])
    border = judge_formula(spikes, BORDER)
    if border is not None:
        found |= {"border: cells": border.cells, "border: networks": border.elsewhere}
    counted = Counter(spike["outcome"] for spike in spikes if "outcome" in spike)
    for outcome in OUTCOMES:
        found[f"outcome: {outcome}"] = counted[outcome] / counted.total() if counted else math.nan
    return found


def _paired(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Compare trainings that differ in β₂ alone, the shortest memory against the longest."""
    sides = [
        {
            (line["kind"], line["batch"], line["decay"], line["rate"], line["seed"]): line["spikes"]
            for line in lines
            if line["beta2"] == beta2
        }
        for beta2 in (min(MEMORIES), max(MEMORIES))
    ]
    both = sides[0].keys() & sides[1].keys()
    found = {"pairs": float(len(both))}
    for name, side in zip(("short", "long"), sides, strict=True):
        found[f"pairs: {name} spiking"] = float(sum(side[key] > 0 for key in both))
        found[f"pairs: {name} spikes"] = float(sum(side[key] for key in both))
    return found


def cell_of(line: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what names the cell of a line or of a spike: all settings but the seed."""
    return tuple(line[name] for name in ("kind", "batch", "beta2", "decay", "rate"))


def cell_name(line: Mapping[str, Any]) -> str:
    """Return the same as a text."""
    return "-".join(map(str, cell_of(line)))
