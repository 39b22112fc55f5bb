"""The losses of one language model with several β₂, below each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from foreshock.lab.reproduction.figures.training import DOTS_PER_INCH
from foreshock.lab.reproduction.recording import TRACE
from foreshock.lab.spikebench.trace import Trace
from foreshock.report.appearance import BLUE, INK, PURPLE, dress, label
from foreshock.report.drawing import figure_class, save_figure

CAPTIONS = {"llm-memories.png": "Loss (blue) and Σv̂ (violet) of the language model for each β₂ (first seed)"}


def draw_memories(folder: Path, target: Path) -> list[Path]:
    """Draw one panel for each β₂.

    Args:
        folder: Folder of one seed, with a folder for each β₂.
        target: Folder of the picture.
    """
    runs = sorted(folder.glob(f"*/{TRACE}"), key=lambda path: path.parent.name, reverse=True)
    figure = figure_class()(figsize=(8, 1.8 * len(runs) + 0.4), layout="constrained")
    axes = figure.subplots(len(runs), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axis, path in zip(axes, runs, strict=True):
        trace = Trace.load(path)
        loss, moment = trace.column("loss"), trace.column("second_moment")
        axis.plot(loss.steps, loss.values, color=BLUE, linewidth=0.8)
        axis.set_yscale("log")
        axis.set_title(f"β₂ = {trace.meta['beta2']:g}", loc="left", fontsize=10, color=INK)
        twin = axis.twinx()
        twin.plot(
            moment.steps, np.where(moment.values > 0, moment.values, np.nan), color=PURPLE, linewidth=0.7
        )
        twin.set_yscale("log")
        dress(axis)
        dress(twin, grid="x")
        label(axis, y="loss")
    label(axes[-1], x="step", y="loss")
    return [save_figure(figure, target / next(iter(CAPTIONS)), dots_per_inch=DOTS_PER_INCH)]
