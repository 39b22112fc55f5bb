"""Runs of more methods beside those that are there, each part with plain Adam on the same machine.

Two machines round otherwise, and the losses of a training that spikes then differ by more than those of two
methods. So a part that was run later brings Adam's runs along, and its methods are compared with these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foreshock.lab.guardbench.methods import METHODS, PLAIN


def parts(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the runs that came first, and those that were added, each as `collect` returned them.

    Args:
        data: What `foreshock.lab.guardbench.rates.choosing.collect` or `add` returned.
    """
    return [{name: value for name, value in data.items() if name != "added"}, *data.get("added", ())]


def add(data: Mapping[str, Any], more: Mapping[str, Any], *, note: str) -> dict[str, Any]:
    """Return the runs with those of more methods beside them.

    What was added before of the same methods is replaced.

    Args:
        data: What `collect` or `add` returned.
        more: What `collect` returned of other methods and plain Adam, on the same tasks.
        note: When and where these were run.

    Raises:
        ValueError: If a method is there already, or plain Adam had other tasks, seeds or rates.
    """
    new = more["methods"].keys() - {PLAIN}
    kept = [part for part in data.get("added", ()) if not part["methods"].keys() - {PLAIN} <= new]
    there = {name for part in (data, *kept) for name in part["methods"]}
    if again := sorted(new & there):
        raise ValueError(
            f"{', '.join(again)} is among the runs already: publish all methods anew, or train only others"
        )
    if data["tasks"] != more["tasks"] or _of_plain(data) != _of_plain(more):
        raise ValueError(
            "plain Adam was not trained on the same tasks, seeds and rates as in the runs that are there: "
            "train the other methods with `foreshock bench rates --release --method NAME`"
        )
    return {**data, "added": [*kept, {**more, "note": note}]}


def known(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of each method of all parts, in the order of tables.

    Args:
        data: What `collect` or `add` returned.
    """
    found = {name: about for part in parts(data) for name, about in part["methods"].items()}
    order = {one.name: index for index, one in enumerate(METHODS)}
    return {name: found[name] for name in sorted(found, key=lambda name: order.get(name, len(order)))}


def _of_plain(data: Mapping[str, Any]) -> set[tuple[str, int, float]]:
    return {(run["task"], run["seed"], run["factor"]) for run in data["runs"] if run["method"] == PLAIN}
