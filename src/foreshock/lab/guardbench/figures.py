"""Two figures: spikes left against loss reached, and every method on every task."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foreshock.lab.guardbench.methods import PLAIN
from foreshock.report.appearance import AMBER, BLUE, INK, QUIET, RED, SOFT, dress, label
from foreshock.report.drawing import figure_class, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation
    from matplotlib.transforms import BboxBase


_LEAST, _MOST = 1e-2, 10.0
_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_SHARES = (0, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_NEAR = 0.02
Point = tuple[str, float, float]


def write_pareto(
    found: Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    ours: Sequence[str] = (),
    title: str = "",
) -> Path:
    """Draw a point a method: its share of Adam's spikes above 3× against its mean ratio of losses.

    Ratios outside of [0.01, 10] are drawn at the border. Methods that no other beats in both respects are
    amber, those of `ours` blue; those at the same place share a label.

    Args:
        found: Scores of one split and group, by method.
        path: File to write, ``.svg`` or ``.png``.
        ours: The methods to colour.
        title: Title.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If plain Adam has no spike: there is nothing to leave.
    """
    points = shares(found)
    figure = figure_class()(figsize=(8.0, 4.6), layout="constrained")
    axis = figure.subplots()
    best = frontier(points)
    labels = []
    for x, y, names in clusters(points):
        loud = any(name in ours or name in best or name == PLAIN for name in names)
        colour = BLUE if set(names) & set(ours) else AMBER if set(names) & best else INK if loud else QUIET
        axis.plot(x, y, "o", color=colour, markersize=7 if loud else 4.5, alpha=0.9, clip_on=False)
        look: dict[str, Any] = {"fontsize": 8 if loud else 6.5, "color": colour, "annotation_clip": False}
        text = "\n".join(names)
        labels.append(axis.annotate(text, (x, y), xytext=(5, 2), textcoords="offset points", **look))
    axis.axvline(1, color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
    axis.set_xscale("log")
    axis.set_yscale("symlog", linthresh=0.1, linscale=0.5)
    axis.set_xlim(0.8 * min(x for _, x, _ in points), 1.6 * max(x for _, x, _ in points))
    axis.set_ylim(0, 1.6 * max(1.0, *(y for _, _, y in points)))
    (left, right), (_, top) = axis.get_xlim(), axis.get_ylim()
    across = [tick for tick in _TICKS if left <= tick <= right]
    up = [tick for tick in _SHARES if tick <= top]
    axis.set_xticks(across, [f"{tick:g}" for tick in across])
    axis.set_yticks(up, [f"{100 * tick:g} %" for tick in up])
    axis.set_xticks([], minor=True)
    axis.set_yticks([], minor=True)
    dress(axis, grid="both")
    label(axis, x="training loss ÷ Adam's, geometric mean", y="spikes > 3× ÷ Adam's", title=title)
    untangle(figure, labels)
    return save_figure(figure, path)


def untangle(figure: Figure, labels: Sequence[Annotation]) -> None:
    """Move labels up or down, from left to right, as little as it takes until none lies on another.

    Args:
        figure: The figure, complete but for this.
        labels: Annotations with an offset in points.
    """
    figure.draw_without_rendering()
    placed: list[BboxBase] = []
    for one in sorted(labels, key=lambda one: one.get_window_extent().x0):
        box = one.get_window_extent()
        edges = [edge for other in placed for edge in (other.y1 + 1 - box.y0, other.y0 - 1 - box.y1)]
        shifts = sorted([0.0, *edges], key=abs)
        shift = next(by for by in shifts if not box.translated(0, by).count_overlaps(placed))
        x, y = one.xyann
        one.xyann = (x, y + 72 * shift / figure.dpi)
        placed.append(box.translated(0, shift))


def shares(found: Mapping[str, Any]) -> list[Point]:
    """Return name, ratio of losses and share of Adam's spikes of each method.

    Args:
        found: Scores of one split and group, by method.

    Raises:
        ValueError: If plain Adam has no spike.
    """
    points = []
    for name, entry in found.items():
        spikes = entry["plain_spikes"]["3x"]
        if not spikes:
            raise ValueError("plain Adam has no spike in these runs; there is nothing to draw")
        loss = entry["ratios"]["mean_loss"]["mean"]
        x = _MOST if loss is None else min(max(loss, _LEAST), _MOST)
        points.append((name, x, entry["spikes"]["3x"] / spikes))
    return points


def clusters(points: Sequence[Point]) -> list[tuple[float, float, list[str]]]:
    """Return the places of the points with the names of all that can't be distinguished there.

    Example:
        >>> clusters([("a", 1.0, 0.5), ("b", 2.0, 0.5), ("c", 1.001, 0.5)])
        [(1.0, 0.5, ['a', 'c']), (2.0, 0.5, ['b'])]
    """
    found: list[tuple[float, float, list[str]]] = []
    for name, x, y in points:
        for a, b, names in found:
            if abs(math.log10(x / a)) < _NEAR and abs(y - b) < _NEAR:
                names.append(name)
                break
        else:
            found.append((x, y, [name]))
    return found


def frontier(points: Sequence[Point]) -> set[str]:
    """Return the methods that no other beats in one respect without losing in the other.

    Example:
        >>> sorted(frontier([("a", 1.0, 0.0), ("b", 0.5, 0.5), ("c", 1.0, 0.6)]))
        ['a', 'b']
    """
    return {
        name for name, x, y in points if not any(a <= x and b <= y and (a < x or b < y) for _, a, b in points)
    }


_DECADES = 1.0  # of the colour scale, to either side


def write_heat(tasks: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> Path:
    """Draw a table of methods and tasks.

    Blue is a loss below Adam's, red above, fully so at a tenth and at tenfold; the number is that of spikes
    above 3× over all seeds, and none is written for none.

    Args:
        tasks: Rows of the ``tasks`` of the scores.
        path: File to write, ``.svg`` or ``.png``.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If there is no task.
    """
    if not tasks:
        raise ValueError("there is no task to draw")
    names = list(dict.fromkeys(name for task in tasks for name in task["methods"]))
    size = (0.36 * len(tasks) + 2.4, 0.24 * len(names) + 2.0)
    figure = figure_class()(figsize=size, layout="constrained")
    axis = figure.subplots()
    colours = [[decades(task["methods"].get(name)) for task in tasks] for name in names]
    image = axis.imshow(colours, cmap=_map(), vmin=-_DECADES, vmax=_DECADES, aspect="auto")
    for row, name in enumerate(names):
        for column, task in enumerate(tasks):
            entry = task["methods"].get(name)
            if entry is not None and entry["spikes"]:
                axis.text(column, row, str(entry["spikes"]), ha="center", va="center", fontsize=7, color=INK)
    look: dict[str, Any] = {"fontsize": 8, "color": INK}
    axis.set_xticks(range(len(tasks)), [task["config"] for task in tasks], rotation=60, ha="right", **look)
    axis.set_yticks(range(len(names)), names, **look)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axis, shrink=0.5, ticks=[-1, 0, 1])
    bar.ax.set_yticklabels(["÷ 10", "Adam's", "× 10"], fontsize=8, color=SOFT)
    bar.set_label("training loss", fontsize=9, color=SOFT)
    return save_figure(figure, path)


def decades(entry: Mapping[str, Any] | None) -> float:
    """Return the common logarithm of the ratio of losses, within one decade; NaN where there is none.

    Example:
        >>> decades({"loss": 100.0}), decades({"loss": None}), decades({"loss": 1.0})
        (1.0, 1.0, 0.0)
    """
    if entry is None:
        return math.nan
    loss = entry["loss"]
    if loss is None:
        return _DECADES
    return max(-_DECADES, min(_DECADES, math.log10(loss))) if loss > 0 else -_DECADES


def _map() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("loss", [BLUE, "#ffffff", RED])
