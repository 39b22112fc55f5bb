"""What tells beforehand: a one-threshold rule, chosen on half of the cells and scored once on the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from foreshock.lab.reproduction.skill import balanced_accuracy
from foreshock.lab.reproduction.spikeforks.effects import Fork
from foreshock.lab.reproduction.spikemap.findings import LEAST_PULL, QUANTITIES, cell_of

Quantity = Callable[[Fork], float]
Quantities = Mapping[str, Quantity]
PULL = "ln(ηw + 10⁻⁴)"
"""The name that the map has for the speed at which decoupled weight decay shrinks the weights."""
LEAST = 4
"""Fewer members of a class, or fewer others, in either half: no rule is chosen."""
HOLDS = 0.65
"""Balanced accuracy on the held-out half from which on a rule may hold."""
_RESAMPLES, _ENDS = 500, (0.05, 0.95)


def _known(name: str) -> Quantity:
    return lambda fork: float(fork["known"][name])


BEFOREHAND: Quantities = MappingProxyType(
    {
        "weight decay": lambda fork: float(fork["decay"]),
        PULL: QUANTITIES[PULL],
        "β₂": lambda fork: float(fork["beta2"]),
        "mini-batches": lambda fork: float(fork["batch"] == "mini"),
        "spikes before": lambda fork: float(fork["earlier"]),
        "ln lag": lambda fork: math.log(max(fork["known"]["lag"], 1e-6)),
        "ln(1 + noise)": lambda fork: math.log1p(fork["known"]["noise"]),
        "λ_max(Ĥ)·η/2": _known("ratio"),
        "share of v": _known("share"),
        "ln training loss ÷ first": _known("level"),
        "training accuracy": _known("training accuracy"),
        "validation accuracy": _known("validation accuracy"),
        "ln validation ÷ training loss": _known("gap"),
        "that with weight decay, else 0": lambda fork: fork["known"]["gap"] if fork["decay"] > 0 else 0.0,
        "ln validation loss ÷ its lowest": _known("past best"),
        "ln validation loss ÷ 100 steps before": _known("trend"),
    }
)
"""What is known when a spike announces itself."""
AFTERWARDS: Quantities = MappingProxyType({"ln height": lambda fork: math.log(fork["height"])})
"""What is known only once it has come."""


class Rule(Protocol):
    """Says of a fork whether its spike belongs to a class."""

    def __call__(self, fork: Fork) -> bool:
        """Return whether it does."""


@dataclass(frozen=True)
class Threshold:
    """A rule with one threshold.

    Attributes:
        name: Name of the quantity.
        at: The threshold.
        above: Whether it says yes above the threshold, or below.
        quantity: What has the threshold.
    """

    name: str
    at: float
    above: bool
    quantity: Quantity = field(repr=False, compare=False)

    def __call__(self, fork: Fork) -> bool:
        """Return whether the quantity lies on the side of yes; never where it is unknown."""
        value = self.quantity(fork)
        return value > self.at if self.above else value < self.at

    @property
    def pull(self) -> float:
        """The threshold of η × weight decay, of a rule on its logarithm `PULL`, as it is quoted."""
        return float(f"{math.exp(self.at) - LEAST_PULL:.2g}")

    def __str__(self) -> str:
        """Return the rule as a text; that of the pull of weight decay without its logarithm."""
        if self.name == PULL:
            return f"η × weight decay {'>' if self.above else '<'} {self.pull:.2g}"
        return f"{self.name} {'>' if self.above else '<'} {self.at:.3g}".replace("-", "−")


def late_generalisation(fork: Fork) -> bool:
    """Return whether a network that has learnt its training set by heart goes on to generalise.

    That is, under weight decay, with a training accuracy of at least 99 %, and a validation loss that falls.

    Args:
        fork: A fork.
    """
    known = fork["known"]
    return bool(fork["decay"] > 0 and known["training accuracy"] >= 0.99 and known["trend"] < 0)


@dataclass(frozen=True)
class Judged:
    """A rule and how well it tells a class of spikes from the others.

    Attributes:
        rule: The rule; None where a half has too few of either.
        members: Spikes of the class: in the half that it was chosen on, and where it is scored.
        others: The others.
        own: Balanced accuracy on the half it was chosen on.
        held: Balanced accuracy where it is scored: on the held-out half; a rule that was fixed before on all.
        interval: Where that lies in 90 % of the resamples of cells.
    """

    rule: Rule | None
    members: tuple[int, int]
    others: tuple[int, int]
    own: float = math.nan
    held: float = math.nan
    interval: tuple[float, float] = (math.nan, math.nan)

    @property
    def holds(self) -> bool:
        """Whether it is right where it was not chosen, by more than chance, with enough spikes to say so."""
        enough = min(self.members[1], self.others[1]) >= LEAST
        return enough and self.held >= HOLDS and self.interval[0] > 0.5


def choose_rule(
    forks: Sequence[Fork], labels: Sequence[bool], quantities: Quantities = BEFOREHAND
) -> Threshold | None:
    """Return the one-threshold rule with the highest balanced accuracy; the first of several.

    Args:
        forks: Forks to choose on.
        labels: Whether each belongs to the class.
        quantities: What a rule may use.
    """
    best, chosen = 0.5, None
    for name, quantity in quantities.items():
        numbers = np.array([quantity(fork) for fork in forks])
        known = np.unique(numbers[np.isfinite(numbers)])
        for at in (known[1:] + known[:-1]) / 2:
            for above in (True, False):
                rule = Threshold(name, float(at), above, quantity)
                right = balanced_accuracy([rule(fork) for fork in forks], labels)
                if right > best + 1e-9:
                    best, chosen = right, rule
    return chosen


def judge(
    forks: Sequence[Fork],
    labels: Sequence[bool],
    held: Sequence[bool],
    rule: Rule | None = None,
    *,
    quantities: Quantities = BEFOREHAND,
) -> Judged:
    """Choose a rule on one half and score it on the other; one that was fixed before is scored on all.

    Args:
        forks: All forks that are compared.
        labels: Whether each spike belongs to the class.
        held: Whether each is in the held-out half.
        rule: A rule that was fixed before; None to choose one.
        quantities: What a rule that is chosen may use.
    """
    halves = [[i for i, out in enumerate(held) if out == side] for side in (False, True)]
    if rule is not None:
        halves = [[], list(range(len(forks)))]
    members, others = (
        tuple(sum(labels[i] == side for i in half) for half in halves) for side in (True, False)
    )
    if rule is None and min(*members, *others) >= LEAST:
        own_half = [forks[i] for i in halves[0]], [labels[i] for i in halves[0]]
        rule = choose_rule(*own_half, quantities)
    counts = (members[0], members[1]), (others[0], others[1])
    if rule is None:
        return Judged(None, *counts)
    own, found = (
        balanced_accuracy([rule(forks[i]) for i in half], [labels[i] for i in half]) for half in halves
    )
    interval = _interval([forks[i] for i in halves[1]], [labels[i] for i in halves[1]], rule)
    return Judged(rule, *counts, own, found, interval)


def _interval(forks: Sequence[Fork], labels: Sequence[bool], rule: Rule) -> tuple[float, float]:
    """Return the ends of the balanced accuracy over resamples of cells: spikes of one training are alike."""
    cells: dict[tuple[Any, ...], list[int]] = {}
    for place, fork in enumerate(forks):
        cells.setdefault(cell_of(fork), []).append(place)
    groups, said = list(cells.values()), [rule(fork) for fork in forks]
    generator = np.random.default_rng(0)
    found = []
    for _ in range(_RESAMPLES if groups else 0):
        drawn = [
            place for index in generator.integers(len(groups), size=len(groups)) for place in groups[index]
        ]
        found.append(balanced_accuracy([said[i] for i in drawn], [labels[i] for i in drawn]))
    known = [value for value in found if not math.isnan(value)]
    if not known:
        return math.nan, math.nan
    low, high = np.quantile(known, _ENDS)
    return float(low), float(high)
