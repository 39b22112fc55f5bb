"""What could be known at any price: the recorded measurements of a run, put on a card of their own.

The recordings have the stability ratio of a full batch every four steps and a pair of half-batches every
ten, which no training would pay for. The same additive points are fitted to what a forecaster makes of them:
the difference to the product's own forecast is what it does not measure, and the rest is what these numbers
do not say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from foreshock.forecast.probability import FULL, NOISY
from foreshock.forecast.signs import logarithm
from foreshock.lab.spikebench.fitting import Signed, fit_card, labelled, log_odds
from foreshock.lab.spikebench.played import alarms_of
from foreshock.lab.spikebench.replay import Feed
from foreshock.lab.spikebench.rules import trust_region
from foreshock.lab.spikebench.scores.held import Held, held
from foreshock.lab.spikebench.spikes import HORIZON, truth_of
from foreshock.lab.spikebench.tape import forecaster
from foreshock.lab.spikebench.trace import Column, Trace
from foreshock.lab.spikebench.windows import trailing_mean

SIGNS: Mapping[str, Sequence[str]] = {"full": FULL, "mini": (*NOISY, "batch ratio", "trust")}
"""Signs by what a step sees. ``batch ratio`` is that of the batch, a mean of five; ``trust`` the rule's."""
_EVERY = 5  # steps from one forecast to the next
_MEAN = 5  # measurements of the ratio of a batch


def oracle_signs(trace: Trace) -> Signed:
    """Return the signs that all measurements of a trace give, every five steps.

    Args:
        trace: A recording.
    """
    run, feed = forecaster(trace.meta), Feed(trace, every_pair=True)
    constant = trace.meta["kind"] == "full"
    ratio = trace.column("stability_ratio")
    steps = trace.column("loss").steps
    batch = Column(ratio.steps, trailing_mean(ratio.values, _MEAN)).held(steps)
    trust = trust_region(trace).held(steps)
    found = []
    for index, step in enumerate(steps.tolist()):
        feed.give(run, index, step)
        forecast = run.forecast(step, constant=constant)
        if step % _EVERY == 0:
            extra = {"batch ratio": logarithm(float(batch[index])), "trust": float(trust[index])}
            found.append((step, {**run.signs(forecast), **extra}))
    return labelled(truth_of(trace), found)


def oracle_cost(trace: Trace) -> float:
    """Return what its measurements cost, in forward and backward passes a step.

    Args:
        trace: A recording.
    """
    costs = trace.meta["costs"]
    made = {"probe": "stability_ratio", "pair": "pair_mean", "trial": "trial_change"}
    if trace.meta["kind"] == "full":
        made.pop("trial")
    spent = sum(
        float(costs[kind]) * trace.column(name).steps.size
        for kind, name in made.items()
        if trace.column(name).steps.size
    )
    return spent / trace.column("loss").steps.size


def oracle_cards(runs: Sequence[Signed], without: str = "") -> dict[str, Any]:
    """Return the cards by what a step sees, ``full`` and ``mini``, as far as there are runs of it.

    Args:
        runs: Signs of development runs.
        without: Name of a configuration to leave out.
    """
    cards = {}
    for kind, names in SIGNS.items():
        members = [run for run in runs if run.meta["kind"] == kind and run.meta["name"] != without]
        if any(run.soon[HORIZON][run.asked[HORIZON]].any() for run in members):
            cards[kind] = fit_card(members, names, (HORIZON,))
    return cards


def by_oracle(trace: Trace, signs: Signed, cards: Mapping[str, Any]) -> Held:
    """Return the probabilities that the oracle gives, held.

    Args:
        trace: The recording.
        signs: Of it.
        cards: As `oracle_cards` returns them.
    """
    odds = log_odds(cards[str(trace.meta["kind"])], signs, HORIZON)
    chance = 1 / (1 + np.exp(-np.clip(odds, -30, 30)))
    truth = truth_of(trace)
    score = Column(signs.steps, chance)
    return held(truth, score, Column(signs.steps, alarms_of(chance)), cost=oracle_cost(trace))
