"""Played tapes and recordings → the scores of the probability of a spike, as one plain dictionary."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from foreshock._version import __version__
from foreshock.forecast.alarms import ALARM_AT
from foreshock.lab.spikebench.fitting import Signed
from foreshock.lab.spikebench.oracle import by_oracle, oracle_cards
from foreshock.lab.spikebench.played import Played, alarms_of, cards_without, shipped_cards
from foreshock.lab.spikebench.rules import RULES, cost_per_step
from foreshock.lab.spikebench.scores.acting import alarm_numbers, intervals, main_numbers, plain
from foreshock.lab.spikebench.scores.alarms import auroc
from foreshock.lab.spikebench.scores.forecasts import crossing_errors, forecasts_ahead
from foreshock.lab.spikebench.scores.held import Held, held
from foreshock.lab.spikebench.scores.molchan import SHARES, MolchanCurve, curve_of, shifted
from foreshock.lab.spikebench.scores.probabilities import asked, auroc_within, reliability
from foreshock.lab.spikebench.spikes import truth_of
from foreshock.lab.spikebench.trace import Column, Trace
from foreshock.lab.spikebench.windows import trailing_max

DEFAULT = "0.05"
"""Budget of a monitor that was given none."""
THRESHOLDS = (0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6)
GROUPS = ("full", "mini", "language")
ORACLE = "oracle"
_EARLY_SHARE = 0.12  # of time in alarm, at which curves are compared in a table
_LASTS = 10  # steps from one forecast to the next

Runs = Sequence[Held]


def score_probability(
    tapes: Mapping[str, Sequence[Played]],
    recordings: Sequence[tuple[Trace, Signed]],
    split: str,
) -> dict[str, Any]:
    """Score the probability on one split, beside all rules and the oracle.

    On the development split each configuration is judged by a card that was fitted without it, from the tapes
    of the budgets given; on the test split by the one that ships.

    Args:
        tapes: By budget, played tapes of development runs, and of test runs if they are scored.
        recordings: Recordings of the same runs, with what the oracle makes of them.
        split: "development", which the old held-out half counts as, or "test".

    Raises:
        ValueError: If there is no tape of this split with the default budget.
    """
    belongs = functools.partial(_of_split, split=split)
    chosen = {
        budget: [one for one in found if belongs(one.trace.meta)] for budget, found in sorted(tapes.items())
    }
    if not chosen.get(DEFAULT):
        raise ValueError(
            f"there are no tapes of the split {split!r} with a budget of {DEFAULT}; record them by "
            "`foreshock bench tapes`, with `--suite test` for the test split"
        )
    fitted = [
        one.signs for budget, found in tapes.items() if float(budget) < 1 for one in found
        if _of_split(one.trace.meta, split="development") and one.signs.asked[50].any()
    ]  # fmt: skip
    card = functools.cache(lambda name: cards_without(name, fitted))
    shipped = shipped_cards()
    sources: dict[str, list[Held]] = {}
    for budget, found in chosen.items():
        if split == "test":
            sources[budget] = [one.held(shipped) for one in found]
        else:
            sources[budget] = [one.held(card(str(one.trace.meta["name"]))) for one in found]
    oracle = _oracle(recordings, split)
    traces = [trace for trace, _ in recordings if belongs(trace.meta)]
    default = sources[DEFAULT]
    return {
        "foreshock": __version__,
        "split": split,
        "left_out": split != "test",
        "alarm_at": ALARM_AT,
        "groups": {group: _about(members) for group, members in _grouped(default).items()},
        "sources": {name: _source(runs) for name, runs in {**sources, ORACLE: oracle}.items() if runs},
        "thresholds": _thresholds(default),
        "reliability": {group: _reliable(members) for group, members in _grouped(default).items()},
        "shifted": {group: _chance(members) for group, members in _grouped(default).items()},
        "rules": _rules(traces, default),
        "dates": dates(chosen[DEFAULT], traces),
    }


def dates(played: Sequence[Played], traces: Sequence[Trace]) -> dict[str, Any]:
    """Return the relative errors of the date of a crossing, by steps ahead, in full batch.

    The crossings are those of the recordings; a run counts if its recording took the same path.

    Args:
        played: Tapes.
        traces: Recordings.
    """
    recorded = {(trace.meta["name"], trace.meta["seed"]): trace for trace in traces}
    found = []
    for one in played:
        trace = recorded.get((one.trace.meta["name"], one.trace.meta["seed"]))
        if trace is None or trace.meta["kind"] != "full" or not _same_path(one.trace, trace):
            continue
        found.append(forecasts_ahead(trace, one.replayed()))
    if not found:
        return {"runs": 0}
    pooled = type(found[0])(
        *(
            np.concatenate([getattr(one, field.name) for one in found])
            for field in dataclasses.fields(found[0])
        )
    )
    return {"runs": len(found), **crossing_errors(pooled)}


def _same_path(one: Trace, other: Trace) -> bool:
    a, b = one.column("loss").values, other.column("loss").values
    return a.size == b.size and bool(np.allclose(a, b, rtol=1e-3, equal_nan=True))


def _of_split(meta: Mapping[str, Any], *, split: str) -> bool:
    return bool((meta["split"] == "test") == (split == "test"))


def _grouped(runs: Runs) -> dict[str, list[Held]]:
    found = {group: [run for run in runs if run.group == group] for group in GROUPS}
    return {group: members for group, members in found.items() if any(not run.calm for run in members)}


def _oracle(recordings: Sequence[tuple[Trace, Signed]], split: str) -> list[Held]:
    development = [
        signs
        for trace, signs in recordings
        if _of_split(trace.meta, split="development") and signs.asked[50].any()
    ]
    card = functools.cache(lambda name: oracle_cards(development, name))
    found = []
    for trace, signs in recordings:
        if _of_split(trace.meta, split=split):
            cards = card("" if split == "test" else str(trace.meta["name"]))
            if trace.meta["kind"] in cards:
                found.append(by_oracle(trace, signs, cards))
    return found


def _about(members: Runs) -> dict[str, Any]:
    spiky = [run for run in members if not run.calm]
    return {
        "runs": len(members),
        "configurations": len({run.meta["name"] for run in members}),
        "spiky": len(spiky),
        "spikes": sum(run.onsets.size for run in spiky),
        "tall": int(sum(run.tall.sum() for run in spiky)),
        "steps": int(sum(run.counted.sum() for run in spiky)),
        "within": int(auroc_within(members).size),
    }


def _source(runs: Runs) -> dict[str, Any]:
    found: dict[str, Any] = {"groups": {}, "calm": _calm(runs)}
    for group, members in _grouped(runs).items():
        spiky = [run for run in members if not run.calm]
        curve, tall = curve_of(spiky), curve_of(spiky, tall=True)
        found["groups"][group] = {
            "runs": len(members),
            "cost": float(np.mean([run.cost for run in members])),
            **plain(main_numbers(members)),
            "interval": {name: list(ends) for name, ends in intervals(members).items()},
            "curve": _kept(curve),
            "curve_early": _kept(curve_of(spiky, early=True)),
            "recall_at": None if curve is None else 1 - curve.missed_at(_EARLY_SHARE),
            "recall_tall_at": None if tall is None else 1 - tall.missed_at(_EARLY_SHARE),
        }
    return found


def _calm(runs: Runs) -> dict[str, Any]:
    calm = [run for run in runs if run.calm]
    if not calm:
        return {"runs": 0}
    numbers = plain(_calm_numbers(calm))
    found = intervals(calm, _calm_numbers)
    return {
        "runs": len(calm),
        "steps": int(sum(run.counted.sum() for run in calm)),
        **numbers,
        "interval": {name: list(ends) for name, ends in found.items()},
    }


def _calm_numbers(runs: Runs) -> dict[str, float]:
    numbers = alarm_numbers(runs)
    scores, _ = asked(runs)
    known = scores[~np.isnan(scores)]
    return {
        "share": numbers["share"],
        "episodes": numbers["episodes"],
        "probability": float(known.mean()) if known.size else math.nan,
    }


def _thresholds(runs: Runs) -> list[dict[str, Any]]:
    found = []
    for alarm_at in THRESHOLDS:
        made = [_with_threshold(run, alarm_at) for run in runs]
        found.append(
            {
                "alarm_at": alarm_at,
                "groups": {
                    group: plain(alarm_numbers([run for run in members if not run.calm]))
                    for group, members in _grouped(made).items()
                },
                "calm": plain(_calm_numbers([run for run in made if run.calm])),
            }
        )
    return found


def _with_threshold(run: Held, alarm_at: float) -> Held:
    # A probability that is held makes the same alarms at each step as at the forecast that it comes from.
    return dataclasses.replace(run, alarm=alarms_of(run.score, alarm_at) == 1)


def _reliable(members: Runs) -> list[dict[str, Any]]:
    scores, outcome = asked(members)
    known = ~np.isnan(scores)
    return reliability(scores[known], outcome[known])


def _chance(members: Runs) -> dict[str, Any]:
    spiky = [run for run in members if not run.calm]
    curves, late = shifted(spiky), shifted(spiky, early=True)
    return {
        "area_skill": float(np.mean([curve.area_skill for curve in curves])),
        "curve": np.mean([_kept(curve) for curve in curves], axis=0).tolist(),
        "curve_early": np.mean([_kept(curve) for curve in late], axis=0).tolist(),
    }


def _kept(curve: MolchanCurve | None) -> list[float]:
    return [] if curve is None else [curve.missed_at(share) for share in SHARES]


def _rules(traces: Sequence[Trace], default: Runs) -> dict[str, Any]:
    recalls = {
        group: alarm_numbers([run for run in members if not run.calm])
        for group, members in _grouped(default).items()
    }
    truths = [truth_of(trace) for trace in traces]
    found: dict[str, Any] = {}
    for rule in RULES:
        scored: list[Held] = []
        for truth in truths:
            column = rule.score(truth.trace)
            if column.steps.size:
                cost = cost_per_step(rule, truth.trace)
                scored.append(held(truth, _lasting(column, truth.trace), cost=cost))
        found[rule.name] = {
            group: _rule(members, recalls.get(group)) for group, members in _grouped(scored).items()
        }
    return found


def _lasting(column: Column, trace: Trace) -> Column:
    """Return a score that stays at its highest for ten steps, as long as a forecast is held.

    A rule that is on for single steps would else catch many spikes by chance, at hardly any time in alarm.
    """
    steps = trace.column("loss").steps
    return Column(steps, trailing_max(column.held(steps), _LASTS))


def _rule(members: Runs, reached: Mapping[str, float] | None) -> dict[str, Any]:
    spiky = [run for run in members if not run.calm]
    curve, early = curve_of(spiky), curve_of(spiky, early=True)
    numbers = _score_numbers(members, curve)
    return {
        "runs": len(members),
        "cost": float(np.mean([run.cost for run in members])),
        **plain(numbers),
        "chance": float(np.mean([one.area_skill for one in shifted(spiky)])),
        "area_skill_early": None if early is None else early.area_skill,
        "share_at_recall": curve.share_at(reached["recall"]) if curve and reached else None,
        "share_at_recall_early": early.share_at(reached["recall_early"]) if early and reached else None,
        "curve_early": _kept(early),
        "recall_at": None if curve is None else 1 - curve.missed_at(_EARLY_SHARE),
        "curve": _kept(curve),
    }


def _score_numbers(members: Runs, curve: MolchanCurve | None) -> dict[str, float]:
    """Return what can be said of a score that is no probability: how well it parts."""
    within = auroc_within(members)
    return {
        "auroc": auroc(*asked(members)),
        "auroc_within": float(np.median(within)) if within.size else math.nan,
        "area_skill": math.nan if curve is None else curve.area_skill,
    }
