r"""What is known of a run at a step → the probability that a spike begins within the next steps.

A spike is a loss above three times its level, and the probability is that one *begins* within so many steps.
It is a sum of points: each of the few numbers of `foreshock.forecast.signs` has a line of points over its
values, and the probability is

.. math:: p = \frac{1}{1 + e^{-(c + \sum_i \text{points}_i(x_i))}}.

There are two such cards, one for runs whose steps all see the same data and one for mini-batches, and in
each one line of points for each of 10, 25, 50 and 100 steps. They were fitted to the spikes of SpikeBench's
development runs, as a monitor with a budget sees them; the numbers are in ``scorecard.json`` beside this
file, and ``python -m benchmarks.spikebench.fit`` writes them.

How often a run spikes differs from run to run for reasons that no sign shows. What it has done so far is
among the signs. What remains is given as an interval: on eight of ten runs the frequency of spikes lies in
it.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from statistics import NormalDist
from typing import Any

HORIZONS = (10, 25, 50, 100)
"""Steps ahead for which points were fitted."""

FULL = (
    *("ratio", "ahead", "highest", "lag", "held lag", "rise 10", "rise 20", "rise 40", "rise"),
    *("rate", "phase", "since", "bump", "level", "volatility"),
)
"""Signs of a run whose steps all see the same data."""

NOISY = (
    *("noise", "held lag", "lag", "burst", "rise 10", "rise 20", "rise"),
    *("level", "volatility", "rate", "since"),
)
"""Signs of a run whose batches differ."""

FASTEST = 0.02
"""Largest growth of ln(ratio) a step that is taken to go on."""

_OUTER = NormalDist().inv_cdf(0.9)  # the 80 % interval ends there


@dataclass(frozen=True)
class Sign:
    """The points of one sign.

    Attributes:
        knots: Values of the sign, increasing.
        points: By horizon, the points at the knots; straight lines between them, and the same beyond them.
        unknown: By horizon, the points where the sign is not known.
    """

    knots: Sequence[float]
    points: Mapping[int, Sequence[float]]
    unknown: Mapping[int, float]

    def at(self, value: float, horizon: int) -> float:
        """Return the points of a value.

        Args:
            value: The sign; NaN if it is not known.
            horizon: One of `HORIZONS`.

        Example:
            >>> sign = Sign([0.0, 1.0], {50: [-1.0, 3.0]}, {50: 0.5})
            >>> sign.at(0.25, 50), sign.at(7.0, 50), sign.at(float("nan"), 50)
            (0.0, 3.0, 0.5)
        """
        return self._read(self._place(value), horizon)

    def across(self, value: float) -> Sequence[float]:
        """Return the points of a value for each of `HORIZONS`.

        Args:
            value: The sign; NaN if it is not known.

        Example:
            >>> sign = Sign([0.0, 1.0], dict.fromkeys(HORIZONS, [-1.0, 3.0]), dict.fromkeys(HORIZONS, 0.5))
            >>> sign.across(0.25)
            [0.0, 0.0, 0.0, 0.0]
        """
        place = self._place(value)
        return [self._read(place, horizon) for horizon in HORIZONS]

    def _place(self, value: float) -> tuple[int, float] | None:
        """Return how many knots lie below a value, and how far on it is to the next; None of NaN."""
        if math.isnan(value):
            return None
        i, knots = bisect_right(self.knots, value), self.knots
        inside = 0 < i < len(knots)
        return i, (value - knots[i - 1]) / (knots[i] - knots[i - 1]) if inside else 0.0

    def _read(self, place: tuple[int, float] | None, horizon: int) -> float:
        if place is None:
            return self.unknown[horizon]
        (i, part), points = place, self.points[horizon]
        if i in (0, len(points)):
            return points[max(i - 1, 0)]
        return points[i - 1] + part * (points[i] - points[i - 1])


@dataclass(frozen=True)
class Card:
    """The points of all signs of one type of run.

    Attributes:
        constants: By horizon, what is added to all points.
        signs: The signs by name.
        deviation: How far the logarithm of the odds of a run typically lies from what its signs say.
    """

    constants: Mapping[int, float]
    signs: Mapping[str, Sign]
    deviation: float

    def points(self, signs: Mapping[str, float], horizon: int) -> dict[str, float]:
        """Return the points of each sign.

        Args:
            signs: What `foreshock.forecast.signs.Signs.at` returns.
            horizon: One of `HORIZONS`.
        """
        known = {**signs, "ahead": _ahead(signs, horizon)}
        return {name: sign.at(known[name], horizon) for name, sign in self.signs.items()}

    def log_odds(self, signs: Mapping[str, float], horizon: int) -> float:
        """Return ln(p/(1 − p)) at one of `HORIZONS`."""
        return self.constants[horizon] + math.fsum(self.points(signs, horizon).values())

    def odds(self, signs: Mapping[str, float]) -> dict[int, float]:
        """Return ln(p/(1 − p)) at each of `HORIZONS`: as `log_odds`, with one look at each sign.

        Args:
            signs: What `foreshock.forecast.signs.Signs.at` returns.
        """
        rows = [
            [sign.at(_ahead(signs, horizon), horizon) for horizon in HORIZONS]
            if name == "ahead"
            else sign.across(signs[name])
            for name, sign in self.signs.items()
        ]
        sums = map(math.fsum, zip(*rows, strict=True))
        return {horizon: self.constants[horizon] + one for horizon, one in zip(HORIZONS, sums, strict=True)}


@dataclass(frozen=True)
class Probability:
    """Probabilities that a spike begins within so many steps.

    Attributes:
        within: By number of steps, for each of `HORIZONS`.
        value: For the horizon that was asked for.
        low: Lower end of its 80 % interval.
        high: Upper end.
    """

    within: Mapping[int, float]
    value: float
    low: float
    high: float


def spike_probability(signs: Mapping[str, float], *, steady: bool, horizon: float) -> Probability:
    """Return how probable a spike is.

    Args:
        signs: What `foreshock.forecast.signs.Signs.at` returns.
        steady: Whether every step sees the same data.
        horizon: Steps ahead. Between those that were fitted ln(1 − p) is interpolated, and beyond the last
            one the run is taken to go on as it is.

    Example:
        >>> from foreshock.forecast.signs import Signs
        >>> nan = float("nan")
        >>> calm = Signs().at(500, ratio=0.2, growth=0.0, noise=nan)
        >>> edge = Signs().at(500, ratio=1.02, growth=5e-4, noise=nan)
        >>> found = [spike_probability(signs, steady=True, horizon=50).value for signs in (calm, edge)]
        >>> found[0] < found[1]
        True
    """
    card = load_cards()["full" if steady else "noisy"]
    odds = card.odds(signs)
    value, low, high = (
        _within({steps: _probability(one + shift) for steps, one in odds.items()}, horizon)
        for shift in (0.0, -_OUTER * card.deviation, _OUTER * card.deviation)
    )
    return Probability(_rising({steps: _probability(one) for steps, one in odds.items()}), value, low, high)


@cache
def load_cards() -> dict[str, Card]:
    """Return the cards that were fitted: "full" and "noisy"."""
    text = resources.files("foreshock.forecast").joinpath("scorecard.json").read_text(encoding="utf-8")
    return {name: read_card(card) for name, card in json.loads(text)["cards"].items()}


def read_card(plain: Mapping[str, Any]) -> Card:
    """Return a card from plain values.

    Args:
        plain: As in ``scorecard.json``.
    """
    signs = {
        name: Sign(
            tuple(sign["knots"]),
            {int(steps): tuple(points) for steps, points in sign["points"].items()},
            {int(steps): points for steps, points in sign["unknown"].items()},
        )
        for name, sign in plain["signs"].items()
    }
    constants = {int(steps): constant for steps, constant in plain["constants"].items()}
    return Card(constants, signs, plain["deviation"])


def _ahead(signs: Mapping[str, float], horizon: int) -> float:
    """Return ln of the stability ratio at the end of a horizon if it goes on growing as it does."""
    return signs["ratio"] + min(max(signs["growth"], -FASTEST), FASTEST) * horizon


def _probability(log_odds: float) -> float:
    return 1 / (1 + math.exp(-min(max(log_odds, -30.0), 30.0)))


def _rising(within: Mapping[int, float]) -> dict[int, float]:
    """Return probabilities that do not fall with the number of steps."""
    found, highest = {}, 0.0
    for steps in sorted(within):
        highest = max(highest, within[steps])
        found[steps] = highest
    return found


def _within(within: Mapping[int, float], horizon: float) -> float:
    # In −ln(1 − p), which adds up over steps.
    steps = [0, *HORIZONS]
    sums = [0.0, *(-math.log1p(-min(p, 1 - 1e-12)) for p in _rising(within).values())]
    if horizon >= steps[-1]:
        total = sums[-1] * horizon / steps[-1]
    else:
        i = bisect_right(steps, horizon)
        part = (horizon - steps[i - 1]) / (steps[i] - steps[i - 1])
        total = sums[i - 1] + part * (sums[i] - sums[i - 1])
    return -math.expm1(-total)
