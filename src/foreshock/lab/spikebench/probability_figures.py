"""Two figures made of the scores of the probability: Molchan curves, and its reliability."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foreshock.lab.spikebench.probability import DEFAULT, ORACLE
from foreshock.lab.spikebench.probability_page import GROUPS
from foreshock.lab.spikebench.scores.molchan import SHARES
from foreshock.report.appearance import AMBER, BLUE, GREEN, INK, PURPLE, QUIET, RED, SOFT, dress, label
from foreshock.report.drawing import figure_class, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BUDGETS = {"0.02": "#9dbbe0", "0.05": BLUE, "0.2": "#123766", "1": "#0b1a30"}
_RULES = (AMBER, PURPLE, RED, "#0f8b8d", "#8d6e00")


def draw_probability(scores: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw all figures of one split.

    Args:
        scores: What `foreshock.lab.spikebench.probability.score_probability` returned.
        folder: Where to; made if missing.

    Returns:
        The files, SVG.

    Raises:
        ImportError: If matplotlib is missing.
    """
    split = scores["split"]
    made = [
        write_molchan(scores, group, folder / f"molchan-{split}-{group}.svg") for group in scores["groups"]
    ]
    return [*made, write_reliability(scores, folder / f"probability-{split}.svg")]


def write_molchan(scores: Mapping[str, Any], group: str, path: Path) -> Path:
    """Draw spikes missed against time in alarm: the forecast at each budget, five rules, the oracle.

    Args:
        scores: Scores.
        group: One of their groups.
        path: File to write, ``.svg`` or ``.png``.

    Raises:
        ImportError: If matplotlib is missing.
    """
    figure = figure_class()(figsize=(11.5, 4.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    panels = (
        ("curve", "recall", f"{GROUPS[group]}: within 50 steps"),
        ("curve_early", "recall_early", "10 to 50 steps before"),
    )
    for axis, (key, recall, title) in zip(axes, panels, strict=True):
        _draw_curves(axis, scores, group, key)
        default = scores["sources"][DEFAULT]["groups"][group]
        at = ([100 * default["share"]], [100 * (1 - default[recall])])
        axis.plot(*at, "*", color=BLUE, markersize=13, markeredgecolor="white", zorder=5, label="by default")
        axis.set(xlim=(0, 100), ylim=(0, 102))
        dress(axis, grid="both")
        label(axis, x="% of steps in alarm", title=title)
    label(axes[0], x="% of steps in alarm", y="% of spikes missed", title=panels[0][2])
    axes[1].legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return save_figure(figure, path)


def _draw_curves(axis: Axes, scores: Mapping[str, Any], group: str, key: str) -> None:
    axis.plot([0, 100], [100, 0], color=QUIET, linewidth=0.8, label="chance, alarms that do not flicker")
    chance = scores["shifted"][group][key]
    axis.plot(*_points(chance), color=QUIET, linestyle="--", linewidth=1, label="forecast, at wrong times")
    for colour, name in zip(_RULES, _best(scores, group), strict=False):
        curve = scores["rules"][name][group][key]
        axis.plot(*_points(curve), color=colour, linewidth=1, alpha=0.75, label=name)
    for name, source in scores["sources"].items():
        found = source["groups"].get(group)
        if found is None:
            continue
        look: dict[str, Any] = {
            "color": _BUDGETS.get(name, INK),
            "linewidth": 2.4 if name == DEFAULT else 1.2,
        }
        look["label"] = f"forecast, {found['cost']:.2g} F a step"
        if name == ORACLE:
            look = {"color": GREEN, "linewidth": 1.6, "label": f"oracle, {found['cost']:.2g} F"}
        axis.plot(*_points(found[key]), **look)


def write_reliability(scores: Mapping[str, Any], path: Path) -> Path:
    """Draw how often a spike followed against the probability that was forecast, by group.

    Args:
        scores: Scores.
        path: File to write, ``.svg`` or ``.png``.

    Raises:
        ImportError: If matplotlib is missing.
    """
    figure = figure_class()(figsize=(5.6, 4.6), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 100], [0, 100], color=QUIET, linewidth=1, linestyle=(0, (2, 2)))
    for colour, (group, bins) in zip((BLUE, AMBER, PURPLE), scores["reliability"].items(), strict=False):
        total = sum(one["count"] for one in bins)
        x = [100 * one["forecast"] for one in bins]
        y = [100 * one["observed"] for one in bins]
        axis.plot(x, y, color=colour, linewidth=1.4, label=GROUPS[group])
        axis.scatter(
            x, y, s=[20 + 300 * one["count"] / total for one in bins], color=colour, alpha=0.7, linewidths=0
        )
    axis.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
    dress(axis, grid="both")
    label(axis, x="probability forecast, %", y="a spike began within 50 steps, %")
    axis.legend(frameon=False, fontsize=9, labelcolor=SOFT, loc="upper left")
    return save_figure(figure, path)


def _best(scores: Mapping[str, Any], group: str) -> list[str]:
    """Return the rules of the largest area skill in a group, alarms of the last ten steps left out."""
    known = {
        name: found[group]["area_skill_early"] for name, found in scores["rules"].items() if group in found
    }
    ranked = sorted(known, key=lambda name: -(known[name] if known[name] is not None else -1.0))
    return ranked[: len(_RULES)]


def _points(curve: list[float]) -> tuple[list[float], list[float]]:
    return [100 * share for share in SHARES], [100 * missed for missed in curve]
