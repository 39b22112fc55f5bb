r"""Tapes of development runs → the points of `foreshock.forecast.probability`.

For each card and horizon the points maximise the likelihood of what followed each forecast, less a penalty
for bends of a sign's line and a small one for its size:

.. math:: \sum_t w_t \ln p(y_t) - \tfrac{1}{2} \sum_i (s\,\lVert Δ^2 a_i \rVert^2 + k\,\lVert a_i \rVert^2).

Runs of many steps count less than their steps say, by the square root: their forecasts resemble one another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshock.forecast.probability import FASTEST, FULL, HORIZONS, NOISY
from foreshock.lab.spikebench.spikes import Truth, truth_of
from foreshock.lab.spikebench.tape import Tape, forecaster

Floats = NDArray[np.float64]
FIRST = 60
"""First step at which a forecast counts: before it there is no level that a spike could leave."""

_QUANTILES = (0.02, 0.15, 0.35, 0.65, 0.85, 0.98)  # of a sign, where its knots are
_BENDS, _SIZE, _UNKNOWN = 5.0, 2.0, 8.0
_SHARE = 1 / 8  # of its forecasts that a run counts for: those of one stretch say the same
_BLINDED = 0.15  # weight of the same forecasts with nothing measured: a monitor may have a budget of 0
_CURVATURE = ("ratio", "ahead", "highest", "noise")
_CLOSE, _MOST_STEPS = 1e-6, 100
_OFFSETS = np.linspace(-4, 4, 81)
_DEVIATIONS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.2, 1.5, 2.0)


@dataclass(frozen=True)
class Signed:
    """The forecasts of one tape, and what followed them.

    Attributes:
        meta: Of the tape.
        steps: Steps of the forecasts, shape (n,).
        signs: By name, shape (n,); ``growth`` among them.
        soon: By horizon, whether a spike began within so many steps, shape (n,).
        asked: By horizon, whether that is known and no spike is going on, shape (n,).
    """

    meta: Mapping[str, Any]
    steps: NDArray[np.int64]
    signs: Mapping[str, Floats]
    soon: Mapping[int, NDArray[np.bool_]]
    asked: Mapping[int, NDArray[np.bool_]]

    def sign(self, name: str, horizon: int) -> Floats:
        """Return a sign; ``ahead`` depends on the horizon."""
        if name == "ahead":
            return self.signs["ratio"] + np.clip(self.signs["growth"], -FASTEST, FASTEST) * horizon
        return self.signs[name]


def signed(tape: Tape) -> Signed:
    """Return the forecasts of a tape with what followed them."""
    run = forecaster(tape.meta)
    return labelled(truth_of(tape.trace), [(made.step, run.signs(made)) for made in tape.play(run)])


def labelled(truth: Truth, forecasts: Sequence[tuple[int, Mapping[str, float]]]) -> Signed:
    """Return signs with what followed them.

    Args:
        truth: The run and its spikes.
        forecasts: Steps at which forecasts were made, and what they rest on.
    """
    steps = np.array([step for step, _ in forecasts], dtype=np.int64)
    names = forecasts[0][1] if forecasts else {}
    signs = {name: np.array([found[name] for _, found in forecasts]) for name in names}
    length = truth.trace.column("loss").steps.size
    outside = np.ones(steps.size, dtype=bool)
    for spike in truth.spikes["3x"]:
        outside &= ~((steps >= spike.onset) & (steps <= spike.end))
    soon, asked = {}, {}
    for horizon in HORIZONS:
        soon[horizon] = np.zeros(steps.size, dtype=bool)
        for spike in truth.spikes["3x"]:
            soon[horizon] |= (steps < spike.onset) & (steps >= spike.onset - horizon)
        known = soon[horizon] | (steps + horizon < length)
        asked[horizon] = outside & (steps >= FIRST) & known
    return Signed(dict(truth.trace.meta), steps, signs, soon, asked)


def fit_cards(runs: Sequence[Signed]) -> dict[str, Any]:
    """Return both cards as plain values.

    Args:
        runs: Forecasts of development runs, of one or more budgets.
    """
    cards = {}
    for name, kind, signs in (("full", "full", FULL), ("noisy", "mini", NOISY)):
        members = [run for run in runs if run.meta["kind"] == kind]
        card = fit_card(members, signs)
        cards[name] = card | {"deviation": _deviation(members, left_out(members, signs))}
    return cards


def fit_card(
    runs: Sequence[Signed], names: Sequence[str], horizons: Sequence[int] = HORIZONS
) -> dict[str, Any]:
    """Return the constants and points of one card, without its deviation.

    Args:
        runs: Forecasts of runs of its type.
        names: Its signs.
        horizons: Those to fit, of `HORIZONS`.
    """
    constants: dict[int, float] = {}
    signs: dict[str, dict[str, Any]] = {}
    knots = {name: _knots(runs, name) for name in names if name != "ahead"}
    if "ahead" in names:
        knots["ahead"] = knots["ratio"]
    for horizon in horizons:
        found = _fit(runs, names, knots, horizon)
        constants[horizon] = round(float(found[0]), 3)
        first = 1
        for name in names:
            count = len(knots[name])
            sign = signs.setdefault(name, {"knots": knots[name].tolist(), "points": {}, "unknown": {}})
            sign["points"][horizon] = [round(float(x), 3) for x in found[first : first + count]]
            sign["unknown"][horizon] = round(float(found[first + count]), 3)
            first += count + 1
    return {"constants": constants, "signs": signs}


def log_odds(card: Mapping[str, Any], run: Signed, horizon: int) -> Floats:
    """Return what a card says of each forecast of a run, shape (n,).

    Args:
        card: As `fit_card` returns it.
        run: The run.
        horizon: One of `HORIZONS`.
    """
    total = np.full(run.steps.size, float(card["constants"][horizon]))
    for name, sign in card["signs"].items():
        values = run.sign(name, horizon)
        known = np.isfinite(values)
        total[known] += np.interp(values[known], sign["knots"], sign["points"][horizon])
        total[~known] += sign["unknown"][horizon]
    return total


def left_out(runs: Sequence[Signed], names: Sequence[str], horizon: int = 50) -> list[Floats]:
    """Return the logarithm of the odds of each run, by a card that was fitted without its configuration."""
    found: dict[str, dict[str, Any]] = {}
    for name in sorted({str(run.meta["name"]) for run in runs}):
        found[name] = fit_card([run for run in runs if run.meta["name"] != name], names, [horizon])
    return [log_odds(found[str(run.meta["name"])], run, horizon) for run in runs]


def _deviation(runs: Sequence[Signed], odds: Sequence[Floats], horizon: int = 50) -> float:
    """Return the deviation of the runs' own log odds that makes what came of them most likely."""
    likelihoods = []
    for run, one in zip(runs, odds, strict=True):
        chosen, last = [], -math.inf
        for i in np.flatnonzero(run.asked[horizon]):  # forecasts that don't overlap
            if run.steps[i] - last >= horizon:
                chosen.append(i)
                last = float(run.steps[i])
        shifted = one[chosen][:, None] + _OFFSETS
        spike = run.soon[horizon][chosen][:, None]
        likelihoods.append(-np.where(spike, np.logaddexp(0, -shifted), np.logaddexp(0, shifted)).sum(axis=0))

    def evidence(deviation: float) -> float:
        prior = np.exp(-0.5 * (_OFFSETS / deviation) ** 2)
        return float(
            sum(math.log(float(prior @ np.exp(x - x.max())) / prior.sum()) + x.max() for x in likelihoods)
        )

    return max(_DEVIATIONS, key=evidence)


def _knots(runs: Sequence[Signed], name: str) -> Floats:
    values = np.concatenate([run.signs[name][run.asked[50]] for run in runs])
    values = values[np.isfinite(values)]
    knots = np.unique(np.round(np.quantile(values, _QUANTILES), 2)) if values.size else np.array([0.0, 1.0])
    return knots if knots.size > 1 else np.array([knots[0], knots[0] + 1])


def _fit(runs: Sequence[Signed], names: Sequence[str], knots: Mapping[str, Floats], horizon: int) -> Floats:
    labels = np.concatenate([run.soon[horizon][run.asked[horizon]] for run in runs]).astype(float)
    counts = [int(run.asked[horizon].sum()) for run in runs]
    weights = np.concatenate([np.full(count, count**-0.5) for count in counts if count])
    weights *= _SHARE * weights.size / weights.sum()
    parts = {
        name: _hats(
            np.concatenate([run.sign(name, horizon)[run.asked[horizon]] for run in runs]), knots[name]
        )
        for name in names
    }
    blind = {
        name: _hats(np.full(labels.size, math.nan), knots[name]) if name in _CURVATURE else part
        for name, part in parts.items()
    }
    ones = np.ones((labels.size, 1))
    design = np.concatenate(
        [np.concatenate([ones, *parts.values()], axis=1), np.concatenate([ones, *blind.values()], axis=1)]
    )
    weights = np.concatenate([weights, _BLINDED * weights])
    return _newton(design, np.tile(labels, 2), weights, _penalty([len(knots[name]) for name in names]))


def _hats(values: Floats, knots: Floats) -> Floats:
    """Return the weight of each knot in each value, and whether it is unknown, shape (n, knots + 1)."""
    found = np.zeros((values.size, knots.size + 1))
    known = np.flatnonzero(np.isfinite(values))
    found[~np.isfinite(values), -1] = 1
    inside = np.clip(values[known], knots[0], knots[-1])
    left = np.clip(np.searchsorted(knots, inside, side="right") - 1, 0, knots.size - 2)
    part = (inside - knots[left]) / (knots[left + 1] - knots[left])
    found[known, left], found[known, left + 1] = 1 - part, part
    return found


def _penalty(counts: Sequence[int]) -> Floats:
    size = 1 + sum(count + 1 for count in counts)
    penalty = np.zeros((size, size))
    first = 1
    for count in counts:
        bends = np.diff(np.eye(count), 2, axis=0)
        block = slice(first, first + count)
        penalty[block, block] = _BENDS * bends.T @ bends + _SIZE * np.eye(count)
        penalty[first + count, first + count] = _UNKNOWN
        first += count + 1
    return penalty


def _newton(design: Floats, labels: Floats, weights: Floats, penalty: Floats) -> Floats:
    def loss(points: Floats) -> float:
        odds = design @ points
        unlikely = np.where(labels > 0, np.logaddexp(0, -odds), np.logaddexp(0, odds))
        return float(weights @ unlikely + points @ penalty @ points / 2)

    points = np.zeros(design.shape[1])
    share = float(np.average(labels, weights=weights))
    points[0] = math.log(share / (1 - share))
    reached = loss(points)
    for _ in range(_MOST_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(design @ points, -30, 30)))
        slope = design.T @ (weights * (labels - chance)) - penalty @ points
        bend = (design * (weights * chance * (1 - chance))[:, None]).T @ design + penalty
        change = np.linalg.solve(bend + 1e-9 * np.eye(bend.shape[0]), slope)
        if float(np.abs(change).max()) < _CLOSE:
            return points
        # A whole step may lead away where the chances are nearly 0 or 1.
        while loss(points + change) > reached and float(np.abs(change).max()) >= _CLOSE:
            change = change / 2
        points = points + change
        reached = loss(points)
    raise ArithmeticError(
        f"no points were found in {_MOST_STEPS} Newton steps: look for a sign without bound"
    )
