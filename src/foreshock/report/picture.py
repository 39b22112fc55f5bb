"""A run as one static picture, for a page that can't run scripts."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from foreshock.forecast import NOISY_EDGE
from foreshock.report.appearance import (
    AMBER,
    BLUE,
    GREEN,
    INK,
    PURPLE,
    QUIET,
    RED,
    SOFT,
    draw_line,
    dress,
    label_steps,
)
from foreshock.report.charts import action_spans, alarm_threshold, is_logarithmic, ratio_range, step_range
from foreshock.report.drawing import check_format, figure_class, save_figure
from foreshock.report.forecasts import Fan, fans
from foreshock.report.summary import RunSummary, summarise
from foreshock.report.verdict import verdict
from foreshock.report.words import height, number
from foreshock.runlog.values import drawn_ratios, numbers, recorded_losses

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from foreshock.runlog import Run

_LARGEST = 1e300
_LABEL_WIDTH = 0.045  # of the axis
_TITLE_WIDTH = 100  # characters
_PLAIN = 10.0  # span of a logarithmic axis below which its ticks are plain numbers
_NEAR_TICKS = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4)
_FAR_TICKS = (0.001, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0, 1000.0)


@dataclass(frozen=True)
class Ratio:
    """The ratio that decides: the stability ratio, or where batches differ the typical mean-square ratio."""

    name: str
    steps: NDArray[np.int64]
    values: NDArray[np.float64]
    edge: float
    limits: tuple[float, float]
    fans: tuple[Fan, ...] = ()


def write_picture(run: Run, path: str | os.PathLike[str]) -> Path:
    """Draw the loss with its spikes, the ratio with its forecasts, and the gradient with the learning rate.

    Args:
        run: A run as read from its log. What it does not have is left out: without curvature, the ratio.
        path: File to write, ``.svg``, ``.pdf`` or ``.png``; its folder is made if missing.

    Returns:
        The file written.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If the run has no losses, or the file is of another format.
    """
    check_format(path)
    summary = summarise(run, with_ranks=False)
    if not summary.steps:
        raise ValueError(f"{run.path} has no losses: there is nothing to draw yet")
    return save_figure(_draw(figure_class(), run, summary), path)


def _draw(make: type[Figure], run: Run, summary: RunSummary) -> Figure:
    ratio = decisive_ratio(run)
    norms = numbers(run, "step", "gradient_norm")
    has_norms = bool((np.isfinite(norms) & (norms > 0)).any())
    chances = numbers(run, "forecast", "probability")
    has_chances = bool(np.isfinite(chances).any())
    heights = [2.4, *([1.7] if has_chances else []), *([2.0] if ratio else []), *([1.3] if has_norms else [])]
    title = textwrap.wrap(f"{summary.name}: {verdict(summary)}", _TITLE_WIDTH)
    figure = make(figsize=(9, sum(heights) + 0.3 * len(title)), layout="constrained")
    axes = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    draw_loss(axes[0], run, summary)
    draw_actions(axes[0], run)
    if has_chances:
        draw_probability(axes[1], run, chances)
    if ratio is not None:
        draw_ratio(axes[2 if has_chances else 1], ratio)
    if has_norms:
        draw_gradient(axes[-1], run, norms)
    for axis in axes:
        draw_shade(axis, summary)
        dress(axis)
    label_steps(axes[-1])
    axes[-1].set_xlim(*step_range(run))
    axes[0].set_title("\n".join(title), loc="left", fontsize=10.5, color=INK, pad=24, parse_math=False)
    draw_key(axes[0], summary)
    return figure


def decisive_ratio(run: Run) -> Ratio | None:
    """Return the ratio that decides about a run; None if none was measured.

    Args:
        run: A run as read from its log.
    """
    typical = numbers(run, "forecast", "typical_mean_square_ratio")
    limits = ratio_range(typical)
    if limits is not None:
        limits = (min(limits[0], 0.9 * NOISY_EDGE), limits[1])
        return Ratio("mean-square ratio", run.steps("forecast"), typical, NOISY_EDGE, limits)
    steps, values = drawn_ratios(run)
    limits = ratio_range(values)
    if limits is None:
        return None
    return Ratio("stability ratio", steps, values, 1.0, limits, tuple(fans(run)))


def draw_loss(axis: Axes, run: Run, summary: RunSummary) -> None:
    """Draw the loss, with the height of each event that has room for it."""
    steps, losses = recorded_losses(run)
    logarithmic = is_logarithmic(losses)
    # An axis has no room beyond the largest number.
    shown = (np.abs(losses) < _LARGEST) & (losses > (0 if logarithmic else -math.inf))
    drawable = np.where(shown, losses, math.nan)
    draw_line(axis, steps, drawable, color=BLUE, linewidth=1.2)
    axis.set_ylabel("loss", color=SOFT, fontsize=10)
    axis.margins(y=0.14)
    if not shown.any():
        axis.set_yticks([])
        axis.annotate(
            "no finite loss", (0.5, 0.5), xycoords="axes fraction", ha="center", color=SOFT, fontsize=10
        )
    elif logarithmic:
        axis.set_yscale("log")
        lowest, highest = float(np.nanmin(drawable)), float(np.nanmax(drawable))
        if lowest == highest:  # else the axis would span decades around it
            axis.set_ylim(lowest / 1.5, highest * 1.5)
        if highest < _PLAIN * lowest:
            for formatter in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
                formatter(lambda value, _: number(value))
    first, last = step_range(run)
    width = _LABEL_WIDTH * (last - first)
    labelled: list[int] = []
    for outcome in sorted(summary.outcomes, key=lambda outcome: -outcome.spike.rise):
        peak = outcome.spike.peak
        value = float(drawable[np.searchsorted(steps, peak)])
        if not math.isfinite(value):
            continue
        axis.plot(peak, value, marker=7, color=RED, markersize=5, clip_on=False)
        if all(abs(peak - other) >= width for other in labelled):
            axis.annotate(
                height(outcome.spike),
                (peak, value),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=9,
                color=RED,
                annotation_clip=False,
            )
            labelled.append(peak)


def draw_actions(axis: Axes, run: Run) -> None:
    """Draw a stroke at the foot for each stretch of steps on which a guard acted."""
    for first, last in action_spans(run):
        axis.axvspan(first, max(last, first + 1), ymax=0.05, color=GREEN, lw=0.6)


def draw_gradient(axis: Axes, run: Run, norms: NDArray[np.float64]) -> None:
    """Draw the norm of the gradient, and the learning rate beside it."""
    steps = run.steps("step")
    drawable = np.where(np.isfinite(norms) & (norms > 0), norms, math.nan)
    draw_line(axis, steps, drawable, color=QUIET, linewidth=0.9)
    axis.set_yscale("log")
    axis.set_ylabel("gradient", color=SOFT, fontsize=10)
    rates = numbers(run, "step", "learning_rate")
    known = rates[np.isfinite(rates)]
    if not len(known):
        return
    if known.min() == known.max():
        axis.annotate(
            f"η = {number(float(known[0]))}",
            (0.995, 0.86),
            xycoords="axes fraction",
            ha="right",
            fontsize=8.5,
            color=SOFT,
        )
        return
    other = axis.twinx()
    other.plot(steps, rates, color=GREEN, linewidth=1.1, linestyle=(0, (4, 2)))
    other.set_ylabel("η", color=GREEN, fontsize=10)
    dress(other, grid="both")
    other.grid(visible=False)
    other.set_ylim(bottom=0)


def draw_probability(axis: Axes, run: Run, chances: NDArray[np.float64]) -> None:
    """Draw the probability of a spike, which holds until the next forecast, and where an alarm begins."""
    steps, style = run.steps("forecast"), {"drawstyle": "steps-post", "zorder": 3}
    draw_line(axis, steps, chances, color=AMBER, linewidth=1.4, **style)
    axis.set_ylim(0, 1)
    axis.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    axis.set_ylabel("spike ahead", color=SOFT, fontsize=10)
    threshold = alarm_threshold(run)
    if threshold is not None:
        axis.axhline(threshold, color=RED, linewidth=0.9, linestyle=(0, (2, 2)))


def draw_ratio(axis: Axes, ratio: Ratio) -> None:
    """Draw a ratio with its edge, and the forecasts as they were made."""
    drawable = np.where(np.isfinite(ratio.values) & (ratio.values > 0), ratio.values, math.nan)
    draw_line(axis, ratio.steps, drawable, color=PURPLE, linewidth=1.4, zorder=3)
    axis.set_yscale("log")
    axis.set_ylabel(ratio.name, color=SOFT, fontsize=10)
    axis.axhline(ratio.edge, color=RED, linewidth=0.9, linestyle=(0, (2, 2)))
    axis.annotate(
        f"unstable above {ratio.edge:g}",
        (1, ratio.edge),
        xycoords=("axes fraction", "data"),
        xytext=(-3, 3),
        textcoords="offset points",
        ha="right",
        fontsize=8.5,
        color=RED,
    )
    for fan in ratio.fans:
        x = [fan.step, fan.low, fan.high]
        axis.fill(x, [fan.ratio, 1, 1], color=AMBER, alpha=0.22, linewidth=0, zorder=2)
        axis.plot([fan.step, fan.expected], [fan.ratio, 1], "--", color=AMBER, linewidth=1, zorder=4)
        axis.plot(fan.step, fan.ratio, "o", color=AMBER, markersize=3, zorder=4)
    lowest, highest = ratio.limits[0] * 0.98, ratio.limits[1] * 1.02
    axis.set_ylim(lowest, highest)
    choice = _NEAR_TICKS if highest < 3 * lowest else _FAR_TICKS
    ticks = [tick for tick in choice if lowest <= tick <= highest]
    axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_yticks([], minor=True)


def draw_shade(axis: Axes, summary: RunSummary) -> None:
    """Shade what happened to the loss, and what was announced."""
    for colour, alarms in ((QUIET, summary.false_alarms), (GREEN, summary.answered)):
        for alarm in alarms:
            axis.axvspan(alarm.start, max(alarm.end, alarm.start + 1), color=colour, alpha=0.18, lw=0)
    for outcome in summary.outcomes:
        spike = outcome.spike
        if outcome.announced is not None:
            axis.axvspan(outcome.announced, spike.onset, color=AMBER, alpha=0.15, lw=0)
        axis.axvspan(spike.onset, max(spike.end, spike.onset + 1), color=RED, alpha=0.16, lw=0)


def draw_key(axis: Axes, summary: RunSummary) -> None:
    """Say what the colours mean, in one line under the title, for those that occur."""
    from matplotlib.patches import Patch

    meanings = {
        "announced": (summary.announced, AMBER, 0.3),
        "spike": (len(summary.spikes), RED, 0.3),
        "diverged or not finite": (len(summary.outcomes) - len(summary.spikes), RED, 0.3),
        "false alarm": (len(summary.false_alarms), QUIET, 0.4),
        "answered by the guard": (len(summary.answered), GREEN, 0.35),
        "guard acted": (summary.guard[1] if summary.guard else 0, GREEN, 1.0),
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
