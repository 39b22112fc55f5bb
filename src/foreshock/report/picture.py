"""A run as one static picture, for a page that can't run scripts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from foreshock.report.appearance import AMBER, BLUE, INK, PURPLE, QUIET, RED, SOFT, dress
from foreshock.report.charts import ratio_range, step_range
from foreshock.report.drawing import figure_class, save_figure
from foreshock.report.forecasts import fans
from foreshock.report.summary import RunSummary, recorded_losses, summarise
from foreshock.report.text import height, verdict

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from foreshock.runlog import Run

_LABEL_WIDTH = 0.036  # of the axis
_NEAR_TICKS = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4)
_FAR_TICKS = (0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0, 1000.0)


def write_picture(run: Run, path: str | os.PathLike[str]) -> Path:
    """Draw the loss with its spikes above the stability ratio with its forecasts.

    Args:
        run: A run as read from its log. Without curvature only the loss is drawn.
        path: File to write, ``.svg`` or ``.png``; its folder is made if missing.

    Returns:
        The file written.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If the run has no losses.
    """
    summary = summarise(run)
    if not summary.steps:
        raise ValueError(f"{run.path} has no losses: there is nothing to draw yet")
    return save_figure(_draw(figure_class(), run, summary), path)


def _draw(make: type[Figure], run: Run, summary: RunSummary) -> Figure:
    limits = ratio_range(run.column("curvature", "stability_ratio"))
    panels = 1 if limits is None else 2
    figure = make(figsize=(9, 2.7 + 2.4 * (panels - 1)), layout="constrained")
    axes = figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]
    _loss(axes[0], run, summary)
    if limits is not None:
        _ratio(axes[1], run, limits)
    for axis in axes:
        _shade(axis, summary)
        dress(axis)
    axes[-1].set_xlabel("step", color=SOFT, fontsize=10)
    axes[-1].set_xlim(*step_range(run))
    axes[0].set_title(f"{summary.name}: {verdict(summary)}", loc="left", fontsize=11.5, color=INK, pad=24)
    _key(axes[0], summary)
    return figure


def _loss(axis: Axes, run: Run, summary: RunSummary) -> None:
    steps, losses = recorded_losses(run)
    drawable = np.where(np.isfinite(losses) & (losses > 0), losses, math.nan)
    axis.plot(steps, drawable, color=BLUE, linewidth=1.2)
    axis.set_yscale("log")
    axis.set_ylabel("loss", color=SOFT, fontsize=10)
    axis.margins(y=0.14)
    first, last = step_range(run)
    width = _LABEL_WIDTH * (last - first)
    labelled: list[int] = []
    for outcome in sorted(summary.outcomes, key=lambda outcome: -outcome.spike.height):
        peak = outcome.spike.peak
        value = float(drawable[np.searchsorted(steps, peak)])
        if not math.isfinite(value):
            continue
        axis.plot(peak, value, marker=7, color=RED, markersize=5, clip_on=False)
        if all(abs(peak - other) >= width for other in labelled):
            axis.annotate(
                height(outcome),
                (peak, value),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=9,
                color=RED,
                annotation_clip=False,
            )
            labelled.append(peak)


def _ratio(axis: Axes, run: Run, limits: tuple[float, float]) -> None:
    ratio = run.column("curvature", "stability_ratio")
    drawable = np.where(np.isfinite(ratio) & (ratio > 0), ratio, math.nan)
    axis.plot(run.steps("curvature"), drawable, color=PURPLE, linewidth=1.4, zorder=3)
    axis.set_yscale("log")
    axis.set_ylabel("stability ratio", color=SOFT, fontsize=10)
    axis.axhline(1, color=RED, linewidth=0.9, linestyle=(0, (2, 2)))
    axis.annotate(
        "unstable above 1",
        (1, 1),
        xycoords=("axes fraction", "data"),
        xytext=(-3, 3),
        textcoords="offset points",
        ha="right",
        fontsize=8.5,
        color=RED,
    )
    for fan in fans(run):
        x = [fan.step, fan.low, fan.high]
        axis.fill(x, [fan.ratio, 1, 1], color=AMBER, alpha=0.22, linewidth=0, zorder=2)
        axis.plot([fan.step, fan.expected], [fan.ratio, 1], "--", color=AMBER, linewidth=1, zorder=4)
        axis.plot(fan.step, fan.ratio, "o", color=AMBER, markersize=3, zorder=4)
    lowest, highest = limits[0] * 0.98, limits[1] * 1.02
    axis.set_ylim(lowest, highest)
    choice = _NEAR_TICKS if highest < 3 * lowest else _FAR_TICKS
    ticks = [tick for tick in choice if lowest <= tick <= highest]
    axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_yticks([], minor=True)


def _shade(axis: Axes, summary: RunSummary) -> None:
    for alarm in summary.false_alarms:
        axis.axvspan(alarm.start, max(alarm.end, alarm.start + 1), color=QUIET, alpha=0.18, lw=0)
    for outcome in summary.outcomes:
        spike = outcome.spike
        if outcome.announced is not None:
            axis.axvspan(outcome.announced, spike.onset, color=AMBER, alpha=0.15, lw=0)
        axis.axvspan(spike.onset, max(spike.end, spike.onset + 1), color=RED, alpha=0.16, lw=0)


def _key(axis: Axes, summary: RunSummary) -> None:
    """Say what the colours mean, in one line under the title, for those that occur."""
    from matplotlib.patches import Patch

    meanings = {
        "announced": (summary.announced, AMBER, 0.3),
        "spike": (len(summary.outcomes), RED, 0.3),
        "false alarm": (len(summary.false_alarms), QUIET, 0.4),
    }
    patches = [
        Patch(color=colour, alpha=alpha, linewidth=0, label=meaning)
        for meaning, (count, colour, alpha) in meanings.items()
        if count
    ]
    if patches:
        axis.legend(
            handles=patches,
            loc="lower left",
            bbox_to_anchor=(-0.008, 1.0),
            ncols=len(patches),
            frameon=False,
            fontsize=9,
            labelcolor=SOFT,
            handlelength=1.1,
            columnspacing=1.4,
        )
