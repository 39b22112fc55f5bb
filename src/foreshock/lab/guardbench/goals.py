"""The goals of the automatic guard, and which of them the scores reach."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from foreshock.lab.guardbench.comparison import geometric_mean, unbounded
from foreshock.lab.guardbench.methods import PLAIN
from foreshock.lab.guardbench.starts import MORE, spiking
from foreshock.lab.spikebench.page import GROUPS
from foreshock.lab.spikebench.tables import number, share, table

GUARD = "guard-auto"
ALONE = "guard-alone"
_CLIP = "clip-1"
_SLIGHTLY = 1.005  # shown as 1


class Goal(NamedTuple):
    """One goal.

    Attributes:
        runs: Which runs it is about.
        aim: What is to be reached.
        found: What was measured.
        met: Whether it is reached.
    """

    runs: str
    aim: str
    found: str
    met: bool


def goals(scores: Mapping[str, Any], split: str) -> list[Goal]:
    """Return for each goal what the automatic guard reached; those without runs are left out.

    Args:
        scores: What `comparison.compare` returned, with ``costs`` if they were measured.
        split: "development" or "held-out".
    """
    groups = scores["scores"][split]
    found: list[Goal] = _over_starts(scores.get("perturbed", {}).get(split, {}))
    if GUARD in groups.get("full", {}):
        found += _full_batch(scores, split)
    for group in ("mini", "language"):
        if GUARD in groups.get(group, {}):
            found += _noisy(groups[group][GUARD], GROUPS[group])
    found += _high_rates([task for task in scores["tasks"] if task["split"] == split])
    if GUARD in groups.get("family control", {}):
        found += _controls(groups["family control"])
    if {GUARD, _CLIP} <= groups.get("family outliers", {}).keys():
        found.append(_outliers(groups["family outliers"]))
    if scores.get("costs") and GUARD in scores["costs"]["methods"]:
        found += [
            _time(costs["methods"][GUARD], f"{1000 * costs['step']:.0f} ms")
            for costs in (scores["costs"], scores["costs"]["larger"])
        ]
    return found


def goal_table(scores: Mapping[str, Any], split: str) -> str:
    """Return one row a goal.

    Args:
        scores: What `compare` returned.
        split: "development" or "held-out".
    """
    rows = [
        (goal.runs, goal.aim, goal.found, "yes" if goal.met else "**no**") for goal in goals(scores, split)
    ]
    header = ("runs", "goal", "found", "reached")
    return table(header, rows, words=header)


def _full_batch(scores: Mapping[str, Any], split: str) -> list[Goal]:
    group = scores["scores"][split]["full"]
    ours, runs = group[GUARD], GROUPS["full"]
    tasks = [
        task
        for task in scores["tasks"]
        if task["split"] == split and task["group"] == "full" and GUARD in task["methods"]
    ]
    worst = max(tasks, key=lambda task: unbounded(task["methods"][GUARD]["loss"]))
    worst_loss = unbounded(worst["methods"][GUARD]["loss"])
    peers = {
        name: unbounded(entry["ratios"]["mean_loss"]["mean"])
        for name, entry in group.items()
        if scores["methods"][name]["source"] != "foreshock"
    }
    mean, validation = (unbounded(ours["ratios"][name]["mean"]) for name in ("mean_loss", "mean_validation"))
    farthest = unbounded(ours["ratios"]["mean_validation"]["worst"])
    return [
        _none(ours, "10x", runs),
        _gone(ours, "3x", 0.95, runs),
        Goal(
            runs,
            "mean loss at most Adam's on every task",
            f"{number(worst_loss)} × Adam's on {worst['config']}, the worst",
            worst_loss <= _SLIGHTLY,
        ),
        *_at_most_peers(mean, peers, runs),
        Goal(
            runs,
            "validation in no run above 1.05 × Adam's",
            f"{number(farthest)}; mean {number(validation)}",
            farthest <= 1.05,
        ),
    ]


def _at_most_peers(mean: float, peers: Mapping[str, float], runs: str) -> list[Goal]:
    if not peers.keys() - {PLAIN}:
        return []  # only guards were trained
    best = min(peers, key=lambda name: peers[name])
    found = f"{number(mean)} × Adam's; {best}: {number(peers[best])}"
    return [Goal(runs, "mean loss at most any peer's", found, mean <= peers[best])]


def _over_starts(groups: Mapping[str, Any]) -> list[Goal]:
    """Return the goals that are about runs from perturbed starts."""
    found: list[Goal] = []
    full = groups.get(MORE) or groups.get("full", {})
    for name in (ALONE, GUARD):
        if name in full:
            found += _few_runs(full[name], _runs(GROUPS["full"], name, full))
    for group, (name, aim) in itertools.product(("mini", "language"), ((ALONE, 0.6), (GUARD, 0.95))):
        if name in groups.get(group, {}):
            runs, entry = _runs(GROUPS[group], name, groups[group]), groups[group][name]
            loss = unbounded(entry["ratios"]["mean_loss"]["mean"])
            low = Goal(runs, "mean training loss at most 1.02 × Adam's", number(loss), loss <= 1.02)
            found += [_gone(entry, "8x", aim, runs), low]
    for name in (ALONE, GUARD):
        if name in groups.get("all", {}):
            best = groups["all"][name]["ratios"]["best_validation"]
            found += _early_stopped(best, _runs("All", name, groups["all"]))
    return found


def _runs(title: str, name: str, found: Mapping[str, Any]) -> str:
    return f"{title}, `{name}`, {found[name]['runs']} runs"


def _few_runs(entry: Mapping[str, Any], runs: str) -> list[Goal]:
    tall, any_height = (spiking(entry, height) for height in ("8x", "3x"))
    few = "at most 3 % of the runs have a spike > 3×, by the upper end of the interval"
    return [
        Goal(runs, "no run has a spike > 8×", tall, not entry["spikes"]["8x"]),
        Goal(runs, few, any_height, entry["share"]["3x"][1] <= 0.03),
    ]


def _early_stopped(best: Mapping[str, float | None], runs: str) -> list[Goal]:
    mean, worst = unbounded(best["mean"]), unbounded(best["worst"])
    loss = "early-stopped validation loss"
    return [
        Goal(runs, f"mean {loss} at most Adam's", f"{mean:.3f}", mean <= _SLIGHTLY),
        Goal(runs, f"{loss} in no run above 1.05 × Adam's", f"{worst:.3f}", worst <= 1.05),
    ]


def _noisy(ours: Mapping[str, Any], runs: str) -> list[Goal]:
    """Return the goals where batches differ."""
    return [_gone(ours, "8x", 0.8, runs), *_losses(ours, runs)]


def _losses(ours: Mapping[str, Any], runs: str) -> list[Goal]:
    found = []
    for field, word in (("mean_loss", "training loss"), ("mean_validation", "validation loss")):
        mean, worst = (unbounded(ours["ratios"][field][kind]) for kind in ("mean", "worst"))
        measured = f"{number(mean)}; worst run {number(worst)}"
        found.append(Goal(runs, f"mean {word} at most 1.02 × Adam's", measured, mean <= 1.02))
    return found


def _high_rates(tasks: Sequence[Mapping[str, Any]]) -> list[Goal]:
    """Return whether a learning rate three times as high is kept without spikes where Adam has some."""
    base = {task["config"]: task for task in tasks}
    pairs = [
        (task, base[name])
        for task in tasks
        if task["rate"] == "high"
        and GUARD in task["methods"]
        and sum(task["plain_spikes"])
        and (name := task["config"].removesuffix("-high")) in base
    ]
    if not pairs:
        return []
    calm = sum(high["methods"][GUARD]["spikes"] == 0 for high, _ in pairs)
    ratios = [
        unbounded(high["methods"][GUARD]["loss"])
        * unbounded(high["plain_loss"])
        / unbounded(low["plain_loss"])
        for high, low in pairs
    ]
    found = (
        f"{calm} of {len(pairs)} tasks; mean loss {number(geometric_mean(ratios))} × Adam's at the base rate"
    )
    return [Goal("High rates", "no spike > 3× where Adam has some", found, calm == len(pairs))]


def _controls(group: Mapping[str, Any]) -> list[Goal]:
    ours = group[GUARD]
    farthest, acted = unbounded(ours["ratios"]["mean_loss"]["worst"]), f"{100 * ours['acted']:.2f} %"
    return [
        Goal("Controls", "acts on at most 0.1 % of the steps", acted, ours["acted"] <= 0.001),
        Goal("Controls", "loss in no run above 1.01 × Adam's", f"{farthest:.3f}", farthest <= 1.01),
    ]


def _outliers(group: Mapping[str, Any]) -> Goal:
    ours, clip = (unbounded(group[name]["worst_ratio"]) for name in (GUARD, _CLIP))
    found = f"{number(ours)} × the running median; {_CLIP}: {number(clip)}"
    return Goal("Outlier batches", "worst loss no worse than with clipping", found, ours <= clip)


def _time(entry: Mapping[str, float], step: str) -> Goal:
    found = f"{entry['median']:.3f}; mean, with pairs, {entry['mean']:.3f}"
    return Goal(f"Steps of {step}", "at most 1.03 × Adam's", found, entry["median"] <= 1.03)


def _none(ours: Mapping[str, Any], height: str, runs: str) -> Goal:
    left = ours["spikes"][height]
    return Goal(runs, f"no spike > {height[:-1]}×", f"{left} of {ours['plain_spikes'][height]}", left == 0)


def _gone(ours: Mapping[str, Any], height: str, aim: float, runs: str) -> Goal:
    left, plain = ours["spikes"][height], ours["plain_spikes"][height]
    found = f"{plain - left} of {plain}"
    return Goal(runs, f"{share(aim)} of the spikes > {height[:-1]}× gone", found, plain - left >= aim * plain)
