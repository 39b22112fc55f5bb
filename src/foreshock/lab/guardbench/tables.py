"""Scores → the Markdown tables and the verdict of the pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foreshock.lab.guardbench.comparison import HARM, unbounded
from foreshock.lab.guardbench.goals import GUARD
from foreshock.lab.guardbench.judging import HEIGHTS
from foreshock.lab.guardbench.methods import PLAIN
from foreshock.lab.spikebench.page import GROUPS
from foreshock.lab.spikebench.tables import UNKNOWN, number, share, table

_METHODS = (
    "method",
    *(f"> {height}×" for height in HEIGHTS),
    "diverged",
    "loss",
    "median",
    "worst",
    "validation",
    "worst",
    "harmed",
    "acted",
    "F/step",
)
_WORDS = {
    "torch": "torch",
    "pytorch_optimizer": "pytorch_optimizer",
    "own": "own, from paper or code",
    "foreshock": "Foreshock",
}


def method_table(scores: Mapping[str, Any], split: str, group: str) -> str:
    """Return one row a method: what it leaves of Adam's spikes, and what that costs in loss.

    Args:
        scores: What `foreshock.lab.guardbench.comparison.compare` returned.
        split: "development" or "held-out".
        group: all, full, mini, language or ``family NAME``.

    Raises:
        ValueError: If there is no such split or group.
    """
    found = pick(scores, split, group)
    runs = max((entry["runs"] for entry in found.values()), default=0)
    return table(_METHODS, [_method_row(name, entry, runs=runs) for name, entry in found.items()])


def family_table(scores: Mapping[str, Any], split: str) -> str:
    """Return one row a method and one column a family: spikes above 3× left, and the mean ratio of losses.

    Args:
        scores: What `compare` returned.
        split: "development" or "held-out".

    Raises:
        ValueError: If there is no such split.
    """
    groups = _groups(scores, split)
    families = [group for group in groups if group.startswith("family ")]
    rows = [(name, *(_left(groups[family].get(name)) for family in families)) for name in groups["all"]]
    return table(("method", *(family.removeprefix("family ") for family in families)), rows)


def task_table(scores: Mapping[str, Any], split: str) -> str:
    """Return one row a configuration: its group, and how often plain Adam's loss spikes, by seed.

    Args:
        scores: What `compare` returned.
        split: "development" or "held-out".
    """
    header = ("run", "family", "group", "steps", "Adam's spikes > 3×, by seed")
    rows = [
        (*(str(one[field]) for field in ("config", "family", "group", "steps")), _joined(one["plain_spikes"]))
        for one in scores["tasks"]
        if one["split"] == split
    ]
    return table(header, rows, words=header[1:3])


def harm_table(scores: Mapping[str, Any], split: str, *, above: float, sources: Sequence[str]) -> str:
    """Return one row a method and configuration whose mean training or validation loss is above Adam's.

    Args:
        scores: What `compare` returned.
        split: "development" or "held-out".
        above: How far above, as a ratio.
        sources: Which methods, by whose code they are.

    Returns:
        The table; a sentence if it has no row.
    """
    rows = []
    for one in scores["tasks"]:
        for name, entry in one["methods"].items():
            worst = max(unbounded(entry["loss"]), unbounded(entry["validation"]))
            chosen = one["split"] == split and scores["methods"][name]["source"] in sources and name != PLAIN
            if chosen and worst > above:
                spikes = f"{sum(one['plain_spikes'])} → {entry['spikes']}"
                rows.append((name, one["config"], ratio(entry["loss"]), ratio(entry["validation"]), spikes))
    if not rows:
        return f"Nowhere: no mean loss of a run is above {above:g} × Adam's."
    header = ("method", "run", "loss ÷ Adam", "validation ÷ Adam", "spikes > 3×, Adam → method")
    return table(header, sorted(rows), words=header[1:2])


def cost_table(costs: Mapping[str, Any]) -> str:
    """Return one row a method: time of a step against Adam's, and memory.

    Args:
        costs: What `foreshock.lab.guardbench.cost.measure_all_costs` returned.
    """
    header = ("method", "step time, median", "mean", "larger model, median", "mean", "bytes per parameter")
    larger = costs["larger"]["methods"]
    rows = [
        (name, *_times(entry), *_times(larger.get(name)), f"{entry['bytes']:.1f}")
        for name, entry in costs["methods"].items()
    ]
    return table(header, rows)


def _times(entry: Mapping[str, float] | None) -> tuple[str, str]:
    return ("–", "–") if entry is None else (f"{entry['median']:.2f}×", f"{entry['mean']:.2f}×")


def source_table(scores: Mapping[str, Any]) -> str:
    """Return one row a method that was run: whose code it is, where it was proposed, and how it was run.

    Args:
        scores: What `compare` returned.
    """
    run = methods_run(scores)
    return about_methods({name: about for name, about in scores["methods"].items() if name in run})


def about_methods(methods: Mapping[str, Mapping[str, str]]) -> str:
    """Return the same of methods by name.

    Args:
        methods: Of each its ``source``, ``citation`` and ``note``.
    """
    rows = [
        (name, _WORDS[about["source"]], about["citation"], about["note"]) for name, about in methods.items()
    ]
    header = ("method", "code", "proposed in", "how it was run")
    return table(header, rows, words=header)


def methods_run(scores: Mapping[str, Any]) -> set[str]:
    """Return the names of the methods that have scores.

    Args:
        scores: What `compare` returned.
    """
    return {name for groups in scores["scores"].values() for name in groups["all"]}


def pick(scores: Mapping[str, Any], split: str, group: str) -> Mapping[str, Any]:
    """Return the scores of one split and group, by method.

    Raises:
        ValueError: If there is no such split or group.
    """
    groups = _groups(scores, split)
    if group not in groups:
        raise ValueError(f"there is no group {group!r} of split {split!r}; scored were {', '.join(groups)}")
    found: Mapping[str, Any] = groups[group]
    return found


def ratio(value: float | None) -> str:
    """Return a ratio of losses; None stands for an infinite one."""
    return "∞" if value is None else number(value)


def _groups(scores: Mapping[str, Any], split: str) -> Mapping[str, Any]:
    if split not in scores["scores"]:
        raise ValueError(f"split is {split!r}; scored were {', '.join(scores['scores'])}")
    groups: Mapping[str, Any] = scores["scores"][split]
    return groups


def _method_row(name: str, entry: Mapping[str, Any], *, runs: int) -> tuple[str, ...]:
    loss, validation = entry["ratios"]["mean_loss"], entry["ratios"]["mean_validation"]
    whole = entry["runs"] == runs
    return (
        name if whole else f"{name}, {entry['runs']} runs",
        *(_left_over(entry, f"{height}x", whole=whole) for height in HEIGHTS),
        str(entry["diverged"]),
        *(ratio(loss[kind]) for kind in ("mean", "median", "worst")),
        *(ratio(validation[kind]) for kind in ("mean", "worst")),
        str(entry["harmed"]),
        share(entry["acted"]),
        number(entry["passes"]),
    )


def _left_over(entry: Mapping[str, Any], height: str, *, whole: bool) -> str:
    """Return how many spikes are left; where some runs are missing, also of how many of Adam's in these."""
    left = str(entry["spikes"][height])
    return left if whole else f"{left} of {entry['plain_spikes'][height]}"


def _left(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return UNKNOWN
    return f"{entry['spikes']['3x']}, {ratio(entry['ratios']['mean_loss']['mean'])}"


def _joined(counts: Sequence[int]) -> str:
    return ", ".join(map(str, counts))


_SPIKES = "3x"
_HIGH = "8x"


def verdict(scores: Mapping[str, Any], split: str) -> str:
    """Return in a few sentences what the automatic guard does over all runs, and the best method by others.

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
    text = (
        f"In {ours['runs']} runs the loss spikes {_count_of_times(ours['plain_spikes'])} with Adam, and "
        f"{_count_of_times(ours['spikes'])} with `{GUARD}`. {_loss_sentence(ours)}."
    )
    others = [name for name in found if scores["methods"][name]["source"] != "foreshock" and name != PLAIN]
    if not others:
        return text
    best = min(others, key=lambda name: _order(name, found[name]))
    return (
        f"{text}\n\nOf the {len(others)} methods by others `{best}` leaves the fewest spikes: the loss "
        f"spikes {_count_of_times(found[best]['spikes'])}. {_loss_sentence(found[best])}."
    )


def overview_table(scores: Mapping[str, Any], split: str) -> str:
    """Return one row a method: by group of runs the spikes left and the loss; harm; the time of a step.

    Plain Adam comes first, then by how few spikes are left.

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
            row += _overview_cells(scores["scores"][split][group].get(name))
        entry = found[name]
        harmed = str(entry["harmed"]) if entry["runs"] == runs else f"{entry['harmed']} of {entry['runs']}"
        row += [_finely(entry["ratios"]["mean_validation"]["mean"]), harmed]
        rows.append([*row, f"{costs[name]['mean']:.2f}×" if name in costs else UNKNOWN])
    return table((*header, "validation", f"harmed, of {runs}", "step time"), rows)


def _count_of_times(spikes: Mapping[str, int]) -> str:
    return f"{_often(spikes[_SPIKES])} ({_often(spikes[_HIGH])} above 8 × its running median)"


def _often(count: int) -> str:
    return {0: "never", 1: "once"}.get(count, f"{count} times")


def _loss_sentence(entry: Mapping[str, Any]) -> str:
    loss, validation = (_finely(entry["ratios"][name]["mean"]) for name in ("mean_loss", "mean_validation"))
    return (
        f"The training loss is {loss} × Adam's, the validation loss {validation} ×; in {entry['harmed']} "
        f"of {entry['runs']} runs one of the two is above {HARM:g} × Adam's"
    )


def _finely(value: float | None) -> str:
    """Return a ratio that may be close to one."""
    return ratio(value) if value is None else f"{value:.3g}"


def _overview_cells(entry: Mapping[str, Any] | None) -> tuple[str, str]:
    if entry is None:
        return UNKNOWN, UNKNOWN
    return str(entry["spikes"][_SPIKES]), ratio(entry["ratios"]["mean_loss"]["mean"])


def _order(name: str, entry: Mapping[str, Any]) -> tuple[bool, float, float]:
    """Return what to sort by: Adam first, then the share of Adam's spikes that is left, then the loss."""
    share = entry["spikes"][_SPIKES] / max(entry["plain_spikes"][_SPIKES], 1)
    return (name != PLAIN, share, unbounded(entry["ratios"]["mean_loss"]["mean"]))
