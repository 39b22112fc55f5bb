"""Loss against learning rate: a panel a task, a curve a method."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foreshock.lab.guardbench.methods import PLAIN
from foreshock.lab.guardbench.rates.choosing import NAMES, Curve, curves, mean
from foreshock.report.appearance import BLUE, INK, SOFT, dress, label
from foreshock.report.drawing import figure_class, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 4
_COLOURS = (
    "#c62828",
    "#c87800",
    "#2e7d4f",
    "#5b3fa8",
    "#00838f",
    "#ad1457",
    "#6d4c41",
    "#7cb342",
    "#8a94a3",
    "#f9a825",
    "#26a69a",
    "#ab47bc",
)
_OURS: dict[str, dict[str, Any]] = {
    PLAIN: {"color": INK, "linewidth": 2.0},
    "guard-auto": {"color": BLUE, "linewidth": 2.2},
    "guard-alone": {"color": BLUE, "linewidth": 2.0, "linestyle": (0, (3, 1.5))},
}


def write_curves(data: Mapping[str, Any], quantity: str, path: str | os.PathLike[str]) -> Path:
    """Draw the geometric mean of a loss over the seeds against the multiple of the base rate.

    A loss above that of the worst plain Adam's by more than tenfold is drawn at the border.

    Args:
        data: What `foreshock.lab.guardbench.rates.choosing.collect` returned.
        quantity: "loss" or "validation".
        path: File to write, ``.svg`` or ``.png``.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If there is no task that was trained at every rate.
    """
    found = {task: methods for task, methods in curves(data).items() if any(map(len, methods.values()))}
    if not found:
        raise ValueError("no task was trained with every method at every rate yet; there is nothing to draw")
    columns = min(_COLUMNS, len(found))
    rows = math.ceil(len(found) / columns)
    figure = figure_class()(figsize=(2.9 * columns, 2.5 * rows + 0.9), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(found) :]:
        axis.set_visible(False)
    for axis, (task, methods) in zip(axes, found.items(), strict=False):
        _draw(axis, methods, quantity)
        label(axis, title=task)
    for axis in axes[::columns]:
        axis.set_ylabel(NAMES[quantity], color=SOFT, fontsize=9)
    figure.supxlabel("learning rate ÷ the task's base rate", color=SOFT, fontsize=10)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside upper center", ncols=7, fontsize=8, frameon=False, labelcolor=INK
    )
    return save_figure(figure, path)


def _look(place: int) -> dict[str, Any]:
    """Return the look of a method that is not ours: where the colours are used up, with dashes."""
    again, colour = divmod(place, len(_COLOURS))
    return {"color": _COLOURS[colour], "linewidth": 1.1, "linestyle": "--" if again else "-"}


def _draw(axis: Axes, methods: Mapping[str, Curve], quantity: str) -> None:
    others = [name for name in methods if name not in _OURS]
    top = 0.0
    for name in [*others, *(name for name in _OURS if name in methods)]:
        curve = methods[name]
        factors = sorted(next(iter(curve.values())))
        losses = [mean([one[factor][quantity] for one in curve.values()]) for factor in factors]
        if name == PLAIN:
            top = 10 * max((loss for loss in losses if math.isfinite(loss)), default=1.0)
        look = _OURS.get(name) or _look(others.index(name))
        axis.plot(factors, losses, label=name, marker="o", markersize=2.2, **look)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_ylim(top=min(axis.get_ylim()[1], top))
    axis.set_xticks(factors, [f"{factor:g}" for factor in factors])
    dress(axis, grid="both")
    axis.tick_params(labelsize=8)
