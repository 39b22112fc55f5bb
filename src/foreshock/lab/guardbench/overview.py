"""Scores → what a reader wants to know first: one sentence, and one table of all methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foreshock.lab.guardbench.comparison import HARM, unbounded
from foreshock.lab.guardbench.goals import GUARD
from foreshock.lab.guardbench.methods import PLAIN
from foreshock.lab.guardbench.tables import pick, ratio
from foreshock.lab.spikebench.page import GROUPS
from foreshock.lab.spikebench.tables import UNKNOWN, table

_SPIKES = "3x"
_HIGH = "8x"


def verdict(scores: Mapping[str, Any], split: str) -> str:
    """Return in a few sentences what the automatic guard does over all runs, and the next best measure.

    Args:
        scores: What `foreshock.lab.guardbench.comparison.compare` returned.
        split: "development" or "held-out".

    Returns:
        The sentences; empty if the automatic guard was not trained.

    Raises:
        ValueError: If there is no such split.
    """
    found = pick(scores, split, "all")
    if GUARD not in found or PLAIN not in found:
        return ""
    ours = found[GUARD]
    told = (
        f"In {ours['runs']} runs the loss spikes {_times(ours['plain_spikes'])} with Adam, and "
        f"{_times(ours['spikes'])} with `{GUARD}`. {_losses(ours)}."
    )
    others = [name for name in found if scores["methods"][name]["source"] != "foreshock" and name != PLAIN]
    if not others:
        return told
    best = min(others, key=lambda name: _order(name, found[name]))
    return (
        f"{told}\n\nOf the {len(others)} measures of others `{best}` leaves the fewest spikes: the loss "
        f"spikes {_times(found[best]['spikes'])}. {_losses(found[best])}."
    )


def overview_table(scores: Mapping[str, Any], split: str) -> str:
    """Return one row a method: by group of runs the spikes left and the loss; harm; the time of a step.

    Plain Adam comes first, then whoever leaves the fewest spikes.

    Args:
        scores: What `compare` returned, with ``costs`` if they were measured.
        split: "development" or "held-out".

    Raises:
        ValueError: If there is no such split.
    """
    groups = [group for group in GROUPS if group in scores["scores"].get(split, {})]
    found = pick(scores, split, "all")
    costs = (scores.get("costs") or {}).get("methods", {})
    runs = max(entry["runs"] for entry in found.values())
    header = ["method"]
    for group in groups:
        header += [f"{GROUPS[group]}: spikes", "loss"]
    rows = []
    for name in sorted(found, key=lambda name: _order(name, found[name])):
        row = [f"**{name}**" if name == GUARD else name]
        for group in groups:
            row += _left(scores["scores"][split][group].get(name))
        entry = found[name]
        harmed = str(entry["harmed"]) if entry["runs"] == runs else f"{entry['harmed']} of {entry['runs']}"
        row += [_finely(entry["ratios"]["mean_validation"]["mean"]), harmed]
        rows.append([*row, f"{costs[name]['mean']:.2f}×" if name in costs else UNKNOWN])
    return table((*header, "validation", f"harmed, of {runs}", "step time"), rows)


def _times(spikes: Mapping[str, int]) -> str:
    return f"{_often(spikes[_SPIKES])} ({_often(spikes[_HIGH])} above 8 × its usual value)"


def _often(count: int) -> str:
    return {0: "never", 1: "once"}.get(count, f"{count} times")


def _losses(entry: Mapping[str, Any]) -> str:
    loss, validation = (_finely(entry["ratios"][name]["mean"]) for name in ("mean_loss", "mean_validation"))
    return (
        f"The training loss is {loss} × Adam's, the validation loss {validation} ×; in {entry['harmed']} "
        f"of {entry['runs']} runs one of the two is above {HARM:g} × Adam's"
    )


def _finely(value: float | None) -> str:
    """Return a ratio that may be close to one."""
    return ratio(value) if value is None else f"{value:.3g}"


def _left(entry: Mapping[str, Any] | None) -> tuple[str, str]:
    if entry is None:
        return UNKNOWN, UNKNOWN
    return str(entry["spikes"][_SPIKES]), ratio(entry["ratios"]["mean_loss"]["mean"])


def _order(name: str, entry: Mapping[str, Any]) -> tuple[bool, float, float]:
    """Return what to sort by: Adam first, then the share of Adam's spikes that is left, then the loss."""
    share = entry["spikes"][_SPIKES] / max(entry["plain_spikes"][_SPIKES], 1)
    return (name != PLAIN, share, unbounded(entry["ratios"]["mean_loss"]["mean"]))
