"""The last fork of a run under every measure: loss relative to its level at the alarm."""

from __future__ import annotations

import json
from pathlib import Path

from foreshock.lab.reproduction.figures.training import DOTS_PER_INCH
from foreshock.report.appearance import BLUE, GRID, INK, QUIET, SOFT, dress
from foreshock.report.drawing import figure_class, save_figure

CAPTIONS = {
    "interventions-forks.png": "Loss after one alarm, relative to its level there; grey: nothing was done "
    "(first seed)"
}
_COLUMNS = 3


def draw_forks(folder: Path, target: Path) -> list[Path]:
    """Draw one small panel for each measure; nothing if no alarm was followed by a spike.

    Args:
        folder: Folder of one seed.
        target: Folder of the picture.
    """
    losses = json.loads((folder / "forks.json").read_text(encoding="utf-8"))["losses"]
    if not losses:
        return []
    (_, plain), *others = losses.items()
    rows = -(-len(others) // _COLUMNS)
    figure = figure_class()(figsize=(8, 1.45 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, _COLUMNS, sharex=True, sharey=True, squeeze=False).ravel()
    for axis, (name, values) in zip(axes, others, strict=False):
        axis.axhline(1, color=GRID, linewidth=0.8)
        axis.plot([float("nan") if v is None else v for v in plain], color=QUIET, linewidth=0.8)
        axis.plot([float("nan") if v is None else v for v in values], color=BLUE, linewidth=1.0)
        axis.set_yscale("log")
        axis.set_title(name, loc="left", fontsize=9, color=INK)
        dress(axis)
    for axis in axes[len(others) :]:
        axis.set_visible(False)
    figure.supxlabel("steps after the alarm", color=SOFT, fontsize=9)
    figure.supylabel("loss ÷ level at the alarm", color=SOFT, fontsize=9)
    return [save_figure(figure, target / next(iter(CAPTIONS)), dots_per_inch=DOTS_PER_INCH)]
