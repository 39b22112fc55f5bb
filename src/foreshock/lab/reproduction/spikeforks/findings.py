"""Lines of the experiment → what became of the spikes, what preventing them costs, and which rule tells."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foreshock.lab.reproduction.spikeforks.cells import KINDS, hashed, held_out
from foreshock.lab.reproduction.spikeforks.effects import (
    Effect,
    Fork,
    capped,
    effect,
    noise_floors,
    outcome,
    prevention,
)
from foreshock.lab.reproduction.spikeforks.measures import MEASURES
from foreshock.lab.reproduction.spikeforks.rules import (
    PULL,
    Judged,
    Rule,
    Threshold,
    judge,
    late_generalisation,
)
from foreshock.lab.reproduction.spikemap.cells import Cell
from foreshock.lab.reproduction.spikemap.findings import BEFOREHAND as MAPPED
from foreshock.lab.reproduction.spikemap.findings import OUTCOMES, cell_name, cell_of, spikes_of
from foreshock.lab.reproduction.spikemap.outcomes import Outcome

BAD: tuple[Outcome, ...] = ("malignant", "catastrophic")
LATE = "benign, by late generalisation"
MAPS = "malignant or catastrophic, by the map's rule"


@dataclass(frozen=True)
class Judgement:
    """One spike that could be compared.

    Attributes:
        fork: The fork.
        against: What it is compared with: ``guard``, or ``rate`` where that failed.
        outcome: What it did.
        effects: What it did to each measure.
        held: Whether its cell is in the held-out half.
    """

    fork: Fork
    against: str
    outcome: Outcome
    effects: Mapping[str, Effect]
    held: bool


Prevented = Callable[[Judgement], bool]
"""Whether a spike is prevented."""


class Findings:
    """All that the page says, of the lines.

    Args:
        lines: Lines of the experiment; of those with other sizes than the last one nothing is taken.

    Attributes:
        lines: The lines.
        forks: All forks.
        judged: Those that could be compared.
        floors: What an effect must pass, by kind and measure.
    """

    def __init__(self, lines: Iterable[Mapping[str, Any]]) -> None:
        given = list(lines)
        self.lines = [line for line in given if line["sizes"] == given[-1]["sizes"]]
        self.forks = spikes_of(self.lines, "forks")
        self.floors = noise_floors(self.forks, MEASURES)
        self.judged = self.judge_against(None)

    def judge_against(self, way: str | None) -> list[Judgement]:
        """Return the judgement of each fork that has a branch.

        Args:
            way: The prevention; None for the guard, and half the rate where the guard fails.
        """
        found = []
        for fork in self.forks:
            against = prevention(fork) if way is None else way
            if against is None or against not in fork["copies"]:
                continue
            effects = {name: effect(fork, name, self.floors, against=against) for name in MEASURES}
            came_to = outcome(fork, self.floors, against=against)
            found.append(Judgement(fork, against, came_to, effects, held_out(Cell(*cell_of(fork)))))
        return found

    def groups(self) -> dict[str, list[Judgement]]:
        """Return the judgements by what may matter: kind of task, batch, β₂, weight decay."""
        judged = self.judged
        found = {"all": judged}
        for name, kind in KINDS.items():
            found[kind.network.title] = [one for one in judged if one.fork["kind"] == name]
        tests: dict[str, Callable[[Fork], bool]] = {
            "full batch": lambda fork: fork["batch"] == "full",
            "mini-batches": lambda fork: fork["batch"] == "mini",
            "β₂ = 0.95": lambda fork: fork["beta2"] < 0.99,
            "β₂ = 0.999": lambda fork: fork["beta2"] > 0.99,
            "no weight decay": lambda fork: fork["decay"] == 0,
            "weight decay 0.1 or 0.3": lambda fork: 0 < fork["decay"] < 1,
            "weight decay 1": lambda fork: fork["decay"] == 1,
            "height below 10": lambda fork: fork["height"] < 10,
            "height 10 to 100": lambda fork: 10 <= fork["height"] < 100,
            "height from 100 on": lambda fork: fork["height"] >= 100,
        }
        found |= {title: [one for one in judged if test(one.fork)] for title, test in tests.items()}
        return found

    def rules(self, fixed: Rule | None = None) -> dict[str, Judged]:
        """Return the rules: the best on one half for each question, and those that were fixed before.

        Args:
            fixed: A rule for malignant and catastrophic spikes that was chosen elsewhere; None without.
        """
        found = {
            "benign": self.rule(("benign",)),
            "malignant or catastrophic": self.rule(BAD),
            LATE: self.rule(("benign",), late_generalisation),
        }
        return found if fixed is None else found | {MAPS: self.rule(BAD, fixed)}

    def rule(self, outcomes: Sequence[Outcome], rule: Rule | None = None) -> Judged:
        """Judge a rule for some outcomes.

        Args:
            outcomes: The class.
            rule: The rule; None for the best on the half that rules are chosen on.
        """
        labels = [one.outcome in outcomes for one in self.judged]
        forks, held = [one.fork for one in self.judged], [one.held for one in self.judged]
        return judge(forks, labels, held, rule)


def map_spikes(surveyed: Sequence[Mapping[str, Any]]) -> tuple[list[Fork], list[bool]]:
    """Return the spikes of the map that were compared, and whether each is in the half that is held out.

    Args:
        surveyed: Lines of the map.
    """
    spikes = [spike for spike in spikes_of(surveyed) if "outcome" in spike]
    cells = sorted({cell_name(spike) for spike in spikes}, key=hashed)
    halves = {name: bool(index % 2) for index, name in enumerate(cells)}
    return spikes, [halves[cell_name(spike)] for spike in spikes]


def map_rules(surveyed: Sequence[Mapping[str, Any]]) -> dict[str, Judged]:
    """Choose rules on the spikes of one half of the map's cells, and score them on the other half.

    The map compared each spike once, over a hundred steps, with v ≥ g² or clipping; its words are those of
    `spikemap.outcomes`.

    Args:
        surveyed: Lines of the map.
    """
    spikes, held = map_spikes(surveyed)
    classes: dict[str, tuple[Outcome, ...]] = {"benign": ("benign",), "malignant or catastrophic": BAD}
    return {
        name: judge(spikes, [one["outcome"] in outcomes for one in spikes], held, quantities=MAPPED)
        for name, outcomes in classes.items()
    }


def price(judged: Sequence[Judgement], measure: str, prevented: Prevented | None = None) -> float:
    """Return the geometric mean of a measure ÷ what it is if every spike passes; NaN of none.

    Args:
        judged: The spikes.
        measure: A name in `MEASURES`.
        prevented: Whether a spike is prevented; None if all are.
    """
    known = [one for one in judged if not math.isnan(one.effects[measure].size)]
    return _geometric_mean(
        [-one.effects[measure].size if prevented is None or prevented(one) else 0.0 for one in known]
    )


def _geometric_mean(logarithms: Sequence[float]) -> float:
    return math.exp(float(np.mean(logarithms))) if logarithms else math.nan


def worst(judged: Sequence[Judgement], measure: str) -> float:
    """Return the largest quotient of a measure, spike prevented ÷ let pass; NaN of none."""
    sizes = [-one.effects[measure].size for one in judged if not math.isnan(one.effects[measure].size)]
    return math.exp(max(sizes)) if sizes else math.nan


def signs(judged: Sequence[Judgement], measure: str) -> tuple[int, int]:
    """Return in how many spikes a measure is lower, and higher, with the spike, by more than chance."""
    found = [one.effects[measure].sign for one in judged]
    return found.count(-1), found.count(1)


def sides_of(surveyed: Sequence[Mapping[str, Any]], rule: Rule) -> dict[bool, dict[str, float]]:
    """Return what became of the map's held-out spikes, where a rule says yes and where it says no.

    Args:
        surveyed: Lines of the map.
        rule: The rule.

    Returns:
        By what the rule says: ``compared``, the number of each outcome, ``bad`` of the two bad ones, and
        ``validation`` (at equal training loss) and ``loss``, spike prevented ÷ let pass, geometric means.
    """
    spikes, held = map_spikes(surveyed)
    found: dict[bool, dict[str, float]] = {}
    for says in (True, False):
        members = [one for one, out in zip(spikes, held, strict=True) if out and rule(one) == says]
        counts = Counter(one["outcome"] for one in members)
        numbers: dict[str, float] = {name: float(counts[name]) for name in OUTCOMES}
        found[says] = {"compared": float(len(members)), **numbers}
        found[says]["bad"] = float(sum(counts[name] for name in BAD))
        for name, measure in (("validation", "validation_effect"), ("loss", "loss_effect")):
            found[says][name] = _geometric_mean(
                [-capped(one[measure]) for one in members if not math.isnan(one[measure])]
            )
    return found


def summarise(
    lines: Sequence[Mapping[str, Any]], surveyed: Sequence[Mapping[str, Any]] = ()
) -> dict[str, float]:
    """Return the numbers that other pages quote.

    Args:
        lines: Lines of the experiment.
        surveyed: Lines of the map.

    Returns:
        Numbers by name: ``spikes``, all that were forked, and ``compared``; of groups such as
        ``all`` and ``modular addition, Transformer`` the number of each outcome and the prices of preventing,
        ``validation`` and ``loss``; ``map: yes: …`` and ``map: no: …`` what `sides_of` has of the map's rule
        for malignant and catastrophic spikes, ``map: pull`` its threshold. Without lines there is nothing of
        the forks.
    """
    found: dict[str, float] = {}
    rule = map_rules(surveyed)["malignant or catastrophic"].rule if surveyed else None
    for says, numbers in (sides_of(surveyed, rule) if rule is not None else {}).items():
        found |= {f"map: {'yes' if says else 'no'}: {name}": value for name, value in numbers.items()}
    if isinstance(rule, Threshold) and rule.name == PULL:
        found["map: pull"] = rule.pull
    if not lines:
        return found
    findings = Findings(lines)
    found |= {
        "trainings": float(len(findings.lines)),
        "spikes": float(len(findings.forks)),
        "compared": float(len(findings.judged)),
    }
    for title, members in findings.groups().items():
        counts = Counter(one.outcome for one in members)
        found[f"{title}: compared"] = float(len(members))
        for name in OUTCOMES:
            found[f"{title}: {name}"] = float(counts[name])
            found[f"{title}: share {name}"] = counts[name] / len(members) if members else math.nan
        found[f"{title}: bad"] = float(sum(counts[name] for name in BAD))
        for quoted, measure in (("validation", "best"), ("loss", "loss")):
            found[f"{title}: {quoted}"] = price(members, measure)
    return found
