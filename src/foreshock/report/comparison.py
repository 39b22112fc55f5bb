"""Several runs on the same charts, with the step of their first spike at zero."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from foreshock.forecast import NOISY_EDGE
from foreshock.report.charts import is_logarithmic, ratio_range
from foreshock.report.series import Chart, Line, Style, chart
from foreshock.report.tables import Table
from foreshock.report.words import number
from foreshock.runlog.values import drawn_ratios, numbers, recorded_losses

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from foreshock.explain import Comparison, RunAt
    from foreshock.runlog import Run

    Curve = tuple[NDArray[np.int64], NDArray[np.float64]]

COLOURS = 10
"""Runs that are drawn in colours of their own: beyond them colours come again."""

_BEFORE, _AFTER = 300, 150  # steps around the spike that are in view at first


@dataclass(frozen=True)
class AlignedChart:
    """A quantity of several runs over the steps from their spikes.

    Attributes:
        name: Key of `foreshock.report.captions.CAPTIONS`, for the title.
        caption: What it shows.
        read: Steps and values of one run.
        threshold: Value of a horizontal line; None for no line.
    """

    name: str
    caption: str
    read: Callable[[Run], Curve]
    threshold: float | None = None


def _column(name: str) -> Callable[[Run], Curve]:
    return lambda run: (run.steps("step"), numbers(run, "step", name))


_CHARTS = (
    AlignedChart(
        "loss",
        "The training losses. Zero is the first spike of each run that has one; of the others, the step of "
        "the first spike among all.",
        recorded_losses,
    ),
    AlignedChart(
        "ratio", "The stability ratio of the runs that see the same data at each step.", drawn_ratios, 1.0
    ),
    AlignedChart(
        "noise",
        "The typical mean-square ratio of the runs whose batches differ, and its edge.",
        lambda run: (run.steps("forecast"), numbers(run, "forecast", "typical_mean_square_ratio")),
        NOISY_EDGE,
    ),
    AlignedChart(
        "lag", "How far v is above g²: far above one, v is blind to it.", _column("instant_lag"), 1.0
    ),
    AlignedChart("gradient-norm", "The gradient norm before clipping.", _column("gradient_norm")),
    AlignedChart(
        "learning-rate", "The learning rate of the first parameter group.", _column("learning_rate")
    ),
)


def aligned_charts(runs: Sequence[Run], found: Comparison) -> list[Chart]:
    """Return charts with all runs on each, over the steps from their spikes, without those that are empty.

    Args:
        runs: Runs as read from their logs.
        found: What was found about them, in the same order.
    """
    built = (_aligned(one, runs, found.runs, found.step) for one in _CHARTS)
    return [drawn for drawn in built if drawn is not None]


def to_mapping(runs: Sequence[Run], found: Comparison) -> dict[str, Any]:
    """Return all that a page needs to draw several runs: `range`, what is in view at first, and `charts`.

    Args:
        runs: Runs as read from their logs.
        found: What was found about them, in the same order.
    """
    drawn = aligned_charts(runs, found)
    ends = [(one["x"][0], one["x"][-1]) for one in drawn]
    low, high = (min(end[0] for end in ends), max(end[1] for end in ends)) if ends else (0, 1)
    high = max(high, low + 1)
    view = [max(low, -_BEFORE), min(high, _AFTER)]
    return {
        "range": [low, high],
        "view": view if view[0] < view[1] else [low, high],
        "marks": {"spikes": [], "falseAlarms": [], "answered": [], "actions": [], "zero": True},
        "charts": drawn,
    }


def comparison_tables(found: Comparison) -> tuple[Table, Table]:
    """Return what the runs were like before the first spike, and the settings in which they differ.

    Args:
        found: What was found about the runs.
    """
    headers = ("Run", "Spikes", "Highest", "Loss", "Rate", "‖g‖", "v/g²", "Ratio", "Alarms")
    rows = tuple(_row(one) for one in found.runs)
    names = tuple(one.name for one in found.runs)
    settings = tuple((name, *values) for name, values in found.settings.items())
    return (
        Table(f"Before step {found.step:,}", headers, rows),
        Table("Settings that differ", ("Setting", *names), settings),
    )


def _row(one: RunAt) -> tuple[str, ...]:
    values = (one.highest, one.loss, one.learning_rate, one.gradient_norm, one.lag, one.ratio)
    shown = ["–" if np.isnan(value) else number(value) for value in values]
    return (one.name, str(one.spikes), *shown, str(one.alarms))


def _aligned(wanted: AlignedChart, runs: Sequence[Run], at: Sequence[RunAt], step: int) -> Chart | None:
    curves = [wanted.read(run) for run in runs]
    shifted = [
        steps - (step if one.onset is None else one.onset) for (steps, _), one in zip(curves, at, strict=True)
    ]
    x = np.unique(np.concatenate(shifted)) if shifted else np.empty(0, dtype=np.int64)
    lines = []
    for i, (steps, (_, values), one) in enumerate(zip(shifted, curves, at, strict=True)):
        column = np.full(len(x), np.nan)
        column[np.searchsorted(x, steps)] = values
        if np.isfinite(column).any():
            lines.append(Line(one.name, f"run-{i % COLOURS}", column))
    if not lines:
        return None
    everything = np.concatenate([line.values for line in lines])
    style = Style(
        log=is_logarithmic(everything) and wanted.name != "learning-rate",
        threshold=wanted.threshold,
        clip=ratio_range(everything) if wanted.name == "ratio" else None,
        marks="spikes",
    )
    drawn = chart(wanted.name, x, lines, style, windows=[(-_BEFORE, _AFTER)])
    if drawn is None:
        return None
    # Runs are measured at steps of their own: between them a line goes on.
    title = {"title": "Stability ratio"} if wanted.name == "ratio" else {}
    return {**drawn, **title, "caption": wanted.caption, "spans": True, "along": "steps from the spike"}
