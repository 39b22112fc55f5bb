"""The picture of the page: what each spike does to training and validation."""

from __future__ import annotations

import math
from pathlib import Path

from foreshock.lab.reproduction.spikeforks.cells import KINDS
from foreshock.lab.reproduction.spikeforks.findings import Findings
from foreshock.report.appearance import AMBER, BLUE, GREEN, PURPLE, QUIET, RED, SOFT, dress, label
from foreshock.report.drawing import figure_class, save_figure

PICTURE = "forks.svg"
CAPTION = (
    "What each spike does: quotients with the spike ÷ without, of the training loss (across) and of the "
    "validation loss (up), early-stopped and at equal training loss; below one the spike does good. Filled: "
    "the validation loss differs by more than chance; circled: only the training loss does; faint: neither"
)
_COLOURS = (BLUE, GREEN, AMBER, PURPLE, RED, QUIET)
_SIDES = {"best": "early-stopped validation", "equal": "validation at equal training loss"}


def draw_effects(findings: Findings, path: Path) -> Path:
    """Draw one point a spike.

    Args:
        findings: What was found.
        path: The picture.
    """
    figure = figure_class()(figsize=(9.5, 4.2), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, (measure, title) in zip(axes, _SIDES.items(), strict=True):
        for (name, kind), colour in zip(KINDS.items(), _COLOURS, strict=True):
            # A sample of its own: a point may be faint, or not filled.
            axis.plot([], [], marker="o", linestyle="none", color=colour, label=kind.network.title)
            for one in findings.judged:
                across, up = one.effects["loss"], one.effects[measure]
                if one.fork["kind"] != name or math.isnan(across.size) or math.isnan(up.size):
                    continue
                axis.plot(
                    math.exp(across.size),
                    math.exp(up.size),
                    marker="o",
                    markersize=6,
                    linestyle="none",
                    color=colour,
                    markerfacecolor=colour if up.counts else "none",
                    alpha=1.0 if up.counts or across.counts else 0.3,
                )
        axis.axhline(1, color=SOFT, linewidth=0.8)
        axis.axvline(1, color=SOFT, linewidth=0.8)
        axis.set_xscale("log")
        axis.set_yscale("log")
        for which in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
            which(lambda value, place: f"{value:.3g}")  # noqa: ARG005
        dress(axis, grid="both")
        label(axis, x="training loss, with ÷ without the spike", y="with ÷ without the spike", title=title)
    handles, labels = axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return save_figure(figure, path)
