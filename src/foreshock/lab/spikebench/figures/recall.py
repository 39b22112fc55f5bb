"""What each rule catches at what price in false alarms."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foreshock.lab.spikebench.scores.thresholds import ALARM_SHARE
from foreshock.report.appearance import (
    AMBER,
    BLUE,
    GREEN,
    INK,
    PURPLE,
    QUIET,
    RED,
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
