"""Scores at each method's own best rate → Markdown tables and sentences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

from foreshock.lab.guardbench.methods import PLAIN
from foreshock.lab.guardbench.rates.choosing import GUARDS, NAMES, QUANTITIES, TARGET
from foreshock.lab.spikebench.page import GROUPS
from foreshock.lab.spikebench.tables import share, table


def verdict(scores: Mapping[str, Any]) -> str:
    """Return in two sentences who has the least loss, and where the guards are.

    Args:
        scores: What `foreshock.lab.guardbench.rates.choosing.compare` returned.
    """
    sentences = []
    for quantity, name in NAMES.items():
        order = _order(scores, quantity)
        value = {one: scores["methods"][one][quantity] for one in order}
        best = order[0]
        guards = [
            f"`{one}` is {_rank(order.index(one) + 1)} of {len(order)} with {_fine(value[one])} ×"
            for one in GUARDS
            if one in value
        ]
        said = (
            f"At its best rate `{best}` has the least {name}: {_fine(value[best])} × Adam's at Adam's best."
        )
        sentences.append(" ".join([said, f"{'; '.join(guards)}." if guards else ""]).strip())
    return "\n".join(sentences)


def overview_table(scores: Mapping[str, Any]) -> str:
    """Return one row a method, the least loss first.

    Args:
        scores: What `compare` returned.
    """
    header = (
        "method",
        "loss",
        "median",
        "validation",
        "median",
        "best rate",
        "at edge",
        "spikes",
        "tolerance",
        "too high",
        "diverged",
        "time",
    )
    rows = []
    for name in _order(scores, "loss"):
        one = scores["methods"][name]
        rows.append(
            (
                f"**{name}**" if name in GUARDS else name,
                *(_fine(value[quantity]) for quantity in QUANTITIES for value in (one, one["medians"])),
                f"{_fine(one['factor'])}×",
                str(one["edge"]),
                str(one["spikes"]),
                f"{_fine(one['tolerance'])}×",
                _fine(one["highest"]),
                share(one["diverged"]),
                f"{one['time']:.2g}×",
            )
        )
    return table(header, rows)


def pair_table(scores: Mapping[str, Any]) -> str:
    """Return one row a peer: on how many tasks each guard is better, in training and validation loss.

    Args:
        scores: What `compare` returned.
    """
    total = len(scores["tasks"])
    header = ["against"]
    for guard in scores["pairs"]:
        header += [f"{guard}: loss", "early-stopped validation"]
    pairs: Mapping[str, Any] = scores["pairs"]
    rows = [
        (
            peer,
            *(f"{_better(one[peer][quantity]):g}" for one in pairs.values() for quantity in QUANTITIES),
        )
        for peer in next(iter(pairs.values()), ())
    ]
    means = [share(wins(scores, guard, quantity)) for guard in scores["pairs"] for quantity in QUANTITIES]
    return table(header, [*rows, (f"all, share of {total} tasks", *means)])


def wins(scores: Mapping[str, Any], guard: str, quantity: str) -> float:
    """Return on what share of the tasks a guard is better, over all peers; equal losses count as half.

    Args:
        scores: What `compare` returned.
        guard: The guard.
        quantity: "loss" or "validation".
    """
    found = [entry[quantity] for entry in scores["pairs"][guard].values()]
    return statistics.fmean(_better(one) / len(scores["tasks"]) for one in found)


def _better(entry: Mapping[str, int]) -> float:
    """Return on how many tasks a guard is better than a peer; equal losses count as half."""
    return entry["better"] + entry["equal"] / 2


def reached(scores: Mapping[str, Any]) -> str:
    """Return against how many methods a guard is better on enough tasks, as the end of a sentence.

    Args:
        scores: What `compare` returned.
    """
    said = []
    for guard, found in scores["pairs"].items():
        good = {
            name: sum(_better(one[quantity]) / len(scores["tasks"]) >= TARGET for one in found.values())
            for quantity, name in NAMES.items()
        }
        counts = " and ".join(f"{number} in {name}" for name, number in good.items())
        said.append(f"of {len(found)} methods `{guard}` reaches it against {counts}")
    return f": {'; '.join(said)}" if said else ""


def task_table(scores: Mapping[str, Any], quantity: str) -> str:
    """Return one row a task: each method's loss ÷ Adam's, both at their best rates.

    Args:
        scores: What `compare` returned.
        quantity: "loss" or "validation".
    """
    counts = {task["seeds"] for task in scores["tasks"].values()}
    names = list(scores["methods"])
    rows = []
    for task, found in scores["tasks"].items():
        plain = found["methods"][PLAIN][quantity]
        title = task if len(counts) == 1 else f"{task}, {found['seeds']}"
        rows.append((title, *(_fine(_over(found["methods"][name][quantity], plain)) for name in names)))
    return table(("task", *names), rows)


def about_table(data: Mapping[str, Any], scores: Mapping[str, Any]) -> str:
    """Return one row a task that was scored: what it is.

    Args:
        data: What `foreshock.lab.guardbench.rates.choosing.collect` returned.
        scores: What `compare` made of it.
    """
    header = ("task", "half", "batches", "base rate", "steps")
    rows = [
        (task, about["split"], GROUPS[about["group"]].lower(), f"{about['rate']:g}", str(about["steps"]))
        for task, about in data["tasks"].items()
        if task in scores["tasks"]
    ]
    return table(header, rows, words=header[1:3])


def _order(scores: Mapping[str, Any], quantity: str) -> list[str]:
    found: Mapping[str, Any] = scores["methods"]
    return sorted(found, key=lambda name: found[name][quantity])


def _rank(place: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(place, f"{place}th")


def _over(value: float, plain: float) -> float:
    return value / plain if plain > 0 and math.isfinite(plain) else math.nan


def _fine(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.3g}"
