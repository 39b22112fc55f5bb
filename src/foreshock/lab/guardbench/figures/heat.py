"""Every method on every task: the loss as a colour, the spikes that are left as a number."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foreshock.report.appearance import BLUE, INK, RED, SOFT
from foreshock.report.drawing import figure_class, save_figure

_DECADES = 1.0


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
