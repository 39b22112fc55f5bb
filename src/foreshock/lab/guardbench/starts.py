"""Scores over perturbed starts → what the pages say of them.

A spike that a guard left or removed in one run may be luck: near the edge of stability, weights that differ
in the seventh digit lead to another run. So plain Adam and the guards are trained from several starts of each
seed, and the share of runs with a spike counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foreshock.lab.guardbench.comparison import FIXED, RENEWED
from foreshock.lab.guardbench.methods import PLAIN
from foreshock.lab.spikebench.page import GROUPS
from foreshock.lab.spikebench.tables import number, table

HEIGHTS = ("3x", "8x")
MORE = "full, more starts"
"""Group of full-batch runs from many more starts than the other groups have; none of them is in "all"."""
_HEADER = (
    "method",
    "runs",
    "spikes > 3×",
    "> 8×",
    "runs with one > 3×",
    "with one > 8×",
    "tasks with one > 3×",
    "loss",
    "worst",
    "early-stopped validation",
    "worst",
    "acted",
    "F/step",
    "time",
)
_SECTION = """## From perturbed starts

Near the edge of stability, weights that differ in the seventh digit lead to another run: a spike that is gone
may be luck. So these methods train each task and seed from several starts, weights × (1 + 1e-6 ε), ε
normal, the first start without. Each run is compared with plain Adam's from the same start. {counts}
"""
_COLUMNS = """\
**runs with one**: how many, their share, and its 95 % interval by Clopper and Pearson, which takes runs for
independent; those of one task are alike, so in how many **tasks** there is one is said, too.
**loss** and **early-stopped validation**: of the training loss over the second half, and of the lowest
validation loss of 40 evaluations over the whole run, the geometric mean over the runs, ÷ Adam's; and the
worst run. **time**: processor time of the trainings ÷ Adam's, on steps of a few milliseconds;
[what a larger step costs](guard.md#what-they-cost)."""


def starts_section(scores: Mapping[str, Any], split: str, *, about: str = "") -> str:
    """Return the section of one half of the configurations; nothing if no start was perturbed.

    Args:
        scores: What `foreshock.lab.guardbench.comparison.compare` returned.
        split: "development" or "held-out".
        about: Further sentences: which command made it, where.
    """
    groups = scores.get("perturbed", {}).get(split)
    if not groups:
        return ""
    parts = [_SECTION.format(counts=_counted(groups["all"])).strip()]
    if about:
        parts.append(about)
    parts += [f"**{title}**\n\n{starts_table(groups[name])}" for name, title in titles_of(groups).items()]
    return "\n\n".join([*parts, _COLUMNS])


_SHORT = (
    "runs from perturbed starts",
    "guard",
    "spikes > 3×, Adam → guard",
    "> 8×",
    "runs with a spike > 3×",
    "loss ÷ Adam's",
    "worst",
    "early-stopped validation ÷ Adam's",
    "worst",
    "extra passes a step",
)


def short_table(scores: Mapping[str, Any], split: str) -> str:
    """Return one row a group of runs and guard: what becomes of Adam's spikes, and what that costs.

    Args:
        scores: What `foreshock.lab.guardbench.comparison.compare` returned.
        split: "development" or "held-out".

    Raises:
        ValueError: If no start of that half was perturbed.
    """
    groups = scores.get("perturbed", {}).get(split)
    if not groups:
        raise ValueError(f"no run of the {split} half was trained from perturbed starts")
    rows = [
        (f"{title}: {entry['runs']}, of {entry['tasks']} tasks", words, *_short_row(entry))
        for group, title in titles_of(groups).items()
        for name, words in _GUARDS.items()
        if (entry := groups[group].get(name)) is not None
        and not (group.startswith("full") and name == "guard-auto")
    ]
    return table(_SHORT, rows, words=_SHORT[:2])


# Of full batches the first two make the same run: where every step sees the same data, no noise is measured.
_GUARDS = {
    "guard-alone": "`guard(optimizer)`",
    "guard-auto": "with `guard.measure`",
    "guard-monitor": '`Monitor(…, guard="auto")`',
}


def _short_row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    loss, best = entry["ratios"]["mean_loss"], entry["ratios"]["best_validation"]
    return (
        *(f"{entry['plain_spikes'][height]} → {entry['spikes'][height]}" for height in HEIGHTS),
        spiking(entry, "3x"),
        *(_fine(one[kind]) for one in (loss, best) for kind in ("mean", "worst")),
        number(entry["passes"]),
    )


def starts_table(found: Mapping[str, Any]) -> str:
    """Return one row a method.

    Args:
        found: Scores over perturbed starts of one split and group, by method.
    """
    most = max((entry["runs"] for entry in found.values()), default=0)
    return table(_HEADER, [_row(name, entry, whole=entry["runs"] == most) for name, entry in found.items()])


def titles_of(groups: Mapping[str, Any]) -> dict[str, str]:
    """Return the titles of groups, in the order in which they are shown.

    Args:
        groups: By name, as `foreshock.lab.guardbench.comparison.compare` makes them.
    """
    named: dict[str, str] = {}
    for name, title in GROUPS.items():
        named[name] = title
        if name == "full":
            if RENEWED in groups:
                named |= {FIXED: "Full batch, fixed data", RENEWED: "Full batch, targets renewed"}
            named[MORE] = "Full batch, more starts"
    named |= {"all": "All", "family control": "Controls, on which Adam never spikes"}
    return {name: title for name, title in named.items() if name in groups}


def _counted(found: Mapping[str, Any]) -> str:
    """Return how many runs there are; of a part that was trained, the methods may have different numbers."""
    runs = {entry["runs"] for entry in found.values()}
    tasks = max(entry["tasks"] for entry in found.values())
    count = str(runs.pop()) if len(runs) == 1 else f"{min(runs)} to {max(runs)}"
    return f"There are {count} runs of each method, of {tasks} tasks."


def _row(name: str, entry: Mapping[str, Any], *, whole: bool) -> tuple[str, ...]:
    loss, best = entry["ratios"]["mean_loss"], entry["ratios"]["best_validation"]
    cells = [name, str(entry["runs"])]
    for height in HEIGHTS:
        left = str(entry["spikes"][height])
        # Where some runs are missing, Adam's row counts spikes of more runs than there are here.
        cells.append(left if whole else f"{left} of {entry['plain_spikes'][height]}")
    cells += [spiking(entry, height) for height in HEIGHTS]
    cells.append(f"{entry['spiking']['3x']['tasks']} of {entry['tasks']}")
    cells += [_fine(one[kind]) for one in (loss, best) for kind in ("mean", "worst")]
    idle = name == PLAIN
    return (
        *cells,
        "–" if idle else f"{100 * entry['acted']:.2g} %",
        number(entry["passes"]),
        f"{entry['time']:.2f}×",
    )


def spiking(entry: Mapping[str, Any], height: str) -> str:
    """Return how many runs have a spike above a height, their share, and its interval.

    Args:
        entry: What `foreshock.lab.guardbench.comparison.over_starts` returned.
        height: "3x", "8x" or "10x".
    """
    count, (low, high) = entry["spiking"][height]["runs"], entry["share"][height]
    return f"{count}, {100 * count / entry['runs']:.2g} % [{100 * low:.2g}, {100 * high:.2g}]"


def _fine(value: float | None) -> str:
    return "∞" if value is None else f"{value:.3g}"
