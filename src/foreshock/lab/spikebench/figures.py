"""Three figures made of scores: recall against false alarms, lead times, reliability of the interval."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foreshock.lab.spikebench.scores.tally import ALARM_SHARE
from foreshock.report.appearance import (
    AMBER,
    BLUE,
    GREEN,
    INK,
    PURPLE,
    QUIET,
    RED,
    SOFT,
    dress,
    label,
)
from foreshock.report.drawing import figure_class, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_COLOURS = (BLUE, AMBER, PURPLE, GREEN, RED)


def write_recall(
    rules: Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    title: str = "",
    shown: Sequence[str] | None = None,
    forecast: Mapping[str, Any] | None = None,
) -> Path:
    """Draw recall against false alarms on controls, a curve a rule.

    Levels at which more than 5 % of the controls is spent in alarm are left out: an alarm that never ends
    is few episodes, not a good rule.

    Args:
        rules: The scores of one split and group, by rule.
        path: File to write, ``.svg`` or ``.png``.
        title: Title.
        shown: Up to five rules to colour and name; by default those of the largest AUROC. The others are
            grey.
        forecast: The forecast scores of the same split and group: watch and alarm become markers.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If no rule has both spikes and controls, or `shown` names too many or an unknown rule.
    """
    curves = {name: points(entry) for name, entry in rules.items() if entry is not None}
    curves = {name: curve for name, curve in curves.items() if curve}
    if not curves:
        raise ValueError("no rule was scored on spikes and on controls; there is nothing to draw")
    named = _leading(rules, curves) if shown is None else list(shown)
    if len(named) > len(_COLOURS) or not set(named) <= set(rules):
        raise ValueError(f"shown is {named!r}; name up to {len(_COLOURS)} of {', '.join(rules)}")
    figure = figure_class()(figsize=(8.4, 4.4), layout="constrained")
    axis = figure.subplots()
    _curves(axis, curves, named)
    _markers(axis, forecast or {})
    axis.set_xscale("symlog", linthresh=0.5, linscale=0.6)
    ticks = [0, 0.25, 0.5, 1, 2, 5, 10, 20, 50]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set(ylim=(-0.02, 1.04), xlim=(-0.02, None))
    dress(axis, grid="both")
    label(axis, x="false alarms per 1,000 steps of controls", y="recall of spikes above 3×", title=title)
    axis.legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return save_figure(figure, path)


def points(entry: Mapping[str, Any]) -> list[tuple[float, float]]:
    """Return false alarms on controls and recall at falling thresholds, without those that are always on."""
    return [
        (level["false_control"], level["recall"])
        for level in reversed(entry["curve"])
        if level["false_control"] is not None
        and level["recall"] is not None
        and level["share_control"] <= ALARM_SHARE
    ]


def _leading(rules: Mapping[str, Any], curves: Mapping[str, Any]) -> list[str]:
    ranked = sorted(curves, key=lambda name: -(rules[name]["auroc"] or 0.0))
    return ranked[: len(_COLOURS)]


def _curves(axis: Axes, curves: Mapping[str, Sequence[tuple[float, float]]], named: Sequence[str]) -> None:
    others = [curve for name, curve in curves.items() if name not in named]
    quiet: dict[str, Any] = {"marker": ".", "color": QUIET, "alpha": 0.45, "linewidth": 0.9, "markersize": 3}
    for i, curve in enumerate(others):
        axis.plot(*_coordinates(curve), label=f"{len(others)} other rules" if i == 0 else None, **quiet)
    loud: dict[str, Any] = {"marker": "o", "linewidth": 1.6, "markersize": 3.5, "zorder": 3}
    for colour, name in zip(_COLOURS, (name for name in named if name in curves), strict=False):
        axis.plot(*_coordinates(curves[name]), color=colour, label=name, **loud)


def _coordinates(curve: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in curve], [y for _, y in curve]


def _markers(axis: Axes, forecast: Mapping[str, Any]) -> None:
    look: dict[str, Any] = {"color": INK, "markersize": 9, "markeredgecolor": "white", "linestyle": "none"}
    for state, marker in (("watch", "D"), ("alarm", "*")):
        entry = forecast.get(state, {}).get("3x")
        if entry and entry["false_control"] is not None and entry["recall"] is not None:
            at = ([entry["false_control"]], [entry["recall"]])
            axis.plot(*at, marker=marker, label=f"forecast: {state}", clip_on=False, zorder=5, **look)


# Steps of lead, roughly geometric: whether a lead is 5 or 10 steps matters, 205 or 210 does not.
_EDGES = (0, 1, 5, 10, 20, 50, 100, 200, 500)
_NAMES = ("missed", "0", "1–4", "5–9", "10–19", "20–49", "50–99", "100–199", "200–499", "500+")


def write_leads(
    counted: Mapping[str, Mapping[str, Sequence[int] | int]], path: str | os.PathLike[str]
) -> Path:
    """Draw the leads of each rule as bars, with the missed spikes apart.

    Args:
        counted: By rule, a mapping with ``spikes`` and ``leads``, as the scores hold for a class of spikes.
        path: File to write, ``.svg`` or ``.png``.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If there is no rule.
    """
    if not counted:
        raise ValueError("there is no rule to draw; pass at least one")
    columns = min(3, len(counted))
    rows = -(-len(counted) // columns)
    figure = figure_class()(figsize=(3.1 * columns, 1.5 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    colours = [QUIET, *[AMBER] * 3, *[BLUE] * 6]
    for axis, (name, entry) in zip(axes, counted.items(), strict=False):
        axis.bar(range(len(_NAMES)), lead_shares(entry), color=colours, width=0.8)
        axis.set_title(name, loc="left", fontsize=10, color=INK)
        dress(axis)
        axis.set_xticks(range(len(_NAMES)), _NAMES, rotation=60, ha="right", rotation_mode="anchor")
        axis.tick_params(labelsize=8)
    for axis in axes[len(counted) :]:
        axis.set_visible(False)
    for axis in axes[max(0, len(counted) - columns) : len(counted)]:
        axis.tick_params(labelbottom=True)
    figure.supxlabel("lead in steps", color=SOFT, fontsize=10)
    figure.supylabel("share of spikes", color=SOFT, fontsize=10)
    return save_figure(figure, path)


def lead_shares(entry: Mapping[str, Sequence[int] | int]) -> list[float]:
    """Return the share of spikes that were missed, and that were announced 0, 1–4, 5–9, … steps before.

    Example:
        >>> lead_shares({"spikes": 4, "leads": [0, 7, 600]})
        [0.25, 0.25, 0.0, 0.25, 0.0, 0.0, 0.0, 0.0, 0.0, 0.25]
    """
    spikes, leads = int(entry["spikes"]), np.asarray(entry["leads"], dtype=float)  # type: ignore[arg-type]
    if not spikes:
        return [0.0] * len(_NAMES)
    counts, _ = np.histogram(leads, bins=[*_EDGES, np.inf])
    return [(spikes - leads.size) / spikes, *(float(count) / spikes for count in counts)]


_GROUP_COLOURS = (BLUE, AMBER, PURPLE, GREEN, RED)


def write_reliability(
    levels: Mapping[str, Sequence[Mapping[str, Any]]], path: str | os.PathLike[str]
) -> Path:
    """Draw the observed share of crossings inside the interval against its nominal level.

    Args:
        levels: By name of a group, its ``reliability`` of the forecast scores; at most five.
        path: File to write, ``.svg`` or ``.png``.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If nothing was observed, or there are more than five groups.
    """
    known = {
        name: [level for level in found if level["observed"] is not None] for name, found in levels.items()
    }
    known = {name: found for name, found in known.items() if found}
    if not 1 <= len(known) <= len(_GROUP_COLOURS):
        raise ValueError(
            f"{len(known)} groups have forecasts of crossings; draw one to {len(_GROUP_COLOURS)}"
        )
    figure = figure_class()(figsize=(4.6, 4.4), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle=(0, (2, 2)))
    for colour, (name, found) in zip(_GROUP_COLOURS, known.items(), strict=False):
        x = [level["nominal"] for level in found]
        axis.plot(x, [level["observed"] for level in found], "o-", color=colour, markersize=4, linewidth=1.4,
                  label=f"{name} ({found[0]['count']} forecasts)")  # fmt: skip
    axis.axvline(0.8, color=SOFT, linewidth=0.8, alpha=0.5)
    axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    dress(axis, grid="both")
    label(axis, x="nominal level; 0.8 is forecast, others are scaled from it", y="share of crossings inside")
    axis.legend(frameon=False, fontsize=9, labelcolor=SOFT, loc="upper left")
    return save_figure(figure, path)
