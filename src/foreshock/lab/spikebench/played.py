"""A tape, played: its probabilities, its alarms and its dates, by the card that ships or by another."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshock.forecast.alarms import ALARM_AT, AlarmBook
from foreshock.forecast.probability import FULL, NOISY
from foreshock.lab.spikebench.fitting import Signed, fit_card, labelled, log_odds
from foreshock.lab.spikebench.scores.forecasts import Replay
from foreshock.lab.spikebench.scores.held import Held, held
from foreshock.lab.spikebench.spikes import HORIZON, truth_of
from foreshock.lab.spikebench.tape import Tape, forecaster
from foreshock.lab.spikebench.trace import Column, Trace

Floats = NDArray[np.float64]
_NAMES = {"full": FULL, "mini": NOISY}


@dataclass(frozen=True)
class Played:
    """The forecasts of one tape.

    Attributes:
        trace: Its losses, from which the truth is taken.
        signs: What each forecast rests on, and what followed.
        known: Whether the product gave a probability, shape (n,).
        dates: Steps to the crossing of the edge, and the ends of its interval, shape (3, n).
        cost: Passes a step.
    """

    trace: Trace
    signs: Signed
    known: NDArray[np.bool_]
    dates: Floats
    cost: float

    def held(self, cards: Mapping[str, Any]) -> Held:
        """Return the probabilities with the alarms that the default threshold makes of them, held.

        Args:
            cards: By what a step sees, as `shipped_cards` returns them.
        """
        steps, chance = self.signs.steps, self.probability(cards)
        alarm = Column(steps, alarms_of(chance))
        return held(truth_of(self.trace), Column(steps, chance), alarm, cost=self.cost)

    def probability(self, cards: Mapping[str, Any]) -> Floats:
        """Return the probabilities within 50 steps, NaN where the product gives none, shape (n,).

        Args:
            cards: By what a step sees, as `shipped_cards` or `cards_without` returns them.
        """
        card = cards[str(self.trace.meta["kind"])]
        # The product's probabilities do not fall with the horizon; a card left out has the one horizon.
        odds = [log_odds(card, self.signs, one) for one in card["constants"] if one <= HORIZON]
        chance = 1 / (1 + np.exp(-np.clip(np.max(odds, axis=0), -30, 30)))
        return np.where(self.known, chance, math.nan)

    def replayed(self) -> Replay:
        """Return the dates in the form of `foreshock.lab.spikebench.scores.forecasts`."""
        nothing = np.full(self.signs.steps.size, math.nan)
        off = np.zeros(self.signs.steps.size, dtype=bool)
        expected, low, high = self.dates
        return Replay(self.signs.steps, off, off, nothing, expected, low, high, nothing, nothing, nothing)


def played(tape: Tape) -> Played:
    """Play a tape to the product's forecaster.

    Args:
        tape: The tape.
    """
    run = forecaster(tape.meta)
    signs, known, dates = [], [], []
    for made in tape.play(run):
        signs.append((made.step, run.signs(made)))
        known.append(not math.isnan(made.probability))
        dates.append((made.steps_to_instability, made.interval_low, made.interval_high))
    trace = tape.trace
    return Played(
        trace,
        labelled(truth_of(trace), signs),
        np.array(known, dtype=bool),
        np.array(dates, dtype=np.float64).reshape(-1, 3).T,
        float(tape.meta["passes"]),
    )


def shipped_cards() -> dict[str, Any]:
    """Return the cards that ship, by what a step sees, in the form of `cards_without`."""
    text = resources.files("foreshock.forecast").joinpath("scorecard.json").read_text(encoding="utf-8")
    cards = json.loads(text)["cards"]
    return {kind: _by_horizon(cards[name]) for kind, name in (("full", "full"), ("mini", "noisy"))}


def _by_horizon(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return a card of JSON with horizons that are numbers."""

    def numbered(values: Mapping[str, Any]) -> dict[int, Any]:
        return {int(horizon): value for horizon, value in values.items()}

    signs = {
        name: {
            "knots": sign["knots"],
            "points": numbered(sign["points"]),
            "unknown": numbered(sign["unknown"]),
        }
        for name, sign in card["signs"].items()
    }
    return {"constants": numbered(card["constants"]), "signs": signs}


def cards_without(name: str, runs: Sequence[Signed]) -> dict[str, Any]:
    """Return the cards fitted without a configuration, by what a step sees: "full" and "mini".

    Args:
        name: The configuration; only the card of its own type is fitted.
        runs: Forecasts of development runs.
    """
    kinds = {str(run.meta["kind"]) for run in runs if run.meta["name"] == name}
    return {
        kind: fit_card(
            [run for run in runs if run.meta["kind"] == kind and run.meta["name"] != name],
            _NAMES[kind],
            (HORIZON,),
        )
        for kind in kinds
    }


def alarms_of(probability: Floats, alarm_at: float = ALARM_AT) -> Floats:
    """Return one where the product is in alarm and zero elsewhere, forecast by forecast.

    Args:
        probability: Of one forecast after the other, shape (n,).
        alarm_at: Probability from which on it is an alarm.

    Example:
        >>> alarms_of(np.array([0.1, 0.4, 0.2, 0.1]), 0.3)
        array([0., 1., 1., 0.])
    """
    book = AlarmBook(alarm_at)
    return np.array([float(book.follow(float(one)) == "alarm") for one in probability])
