"""One figure of one run or of several, for a paper or a talk: ``foreshock figure``."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from foreshock.explain.layers import layer_types
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
from foreshock.report.charts import is_logarithmic
from foreshock.report.drawing import check_format, figure_class, save_figure
from foreshock.report.layermaps import layer_maps, readings_by_layer
from foreshock.report.picture import (
    decisive_ratio,
    draw_actions,
    draw_gradient,
    draw_key,
    draw_loss,
    draw_probability,
    draw_ratio,
    draw_shade,
    write_picture,
)
from foreshock.report.readings import PROBE_FAILED, times
from foreshock.report.summary import RunSummary, summarise
from foreshock.report.words import count, height
from foreshock.representation import short_line
from foreshock.runlog.labels import labels_of
from foreshock.runlog.values import drawn_ratios, numbers, recorded_losses

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from foreshock.runlog import Run

Series = tuple["NDArray[np.int64]", "NDArray[np.float64]"]

_COLOURS = (BLUE, AMBER, PURPLE, GREEN, RED, QUIET, INK)
_TITLE_WIDTH = 90  # characters
_LARGEST = 1e300
_FAR = 100.0  # largest over smallest value from which colours are logarithmic


def write_figure(
    runs: Sequence[Run], path: str | os.PathLike[str], *, kind: str = "overview", spike: int | None = None
) -> Path:
    """Draw one figure.

    Args:
        runs: Runs as read from their logs. Several are drawn into one chart, for ``"loss"``,
            ``"probability"``, ``"edge"``, ``"lag"`` and ``"gradient"``.
        path: File to write, ``.pdf``, ``.svg`` or ``.png``; its folder is made if missing.
        kind: One of `KINDS`.
        spike: For ``"spike"`` which event of the loss, counted from 1; None for the highest.

    Returns:
        The file written.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If there is no such kind, or nothing to draw.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(KINDS)}")
    check_format(path)
    if not runs:
        raise ValueError("no runs were passed; a figure needs at least one, from read_run(folder)")
    if len(runs) > 1 and kind not in _SERIES:
        raise ValueError(
            f"{kind!r} is a figure of one run, {len(runs)} were passed; {', '.join(_SERIES)} "
            "can overlay several"
        )
    if kind == "overview":
        return write_picture(runs[0], path)
    if len(runs) > 1:
        return save_figure(_overlay(runs, kind), path)
    return save_figure(_layers(runs[0]) if kind == "layers" else _single(runs[0], kind, spike), path)


def _single(run: Run, kind: str, spike: int | None) -> Figure:
    """Draw one chart of one run, with what happened shaded; for a spike, three charts around it."""
    summary = summarise(run, with_ranks=False)
    if kind == "spike":
        return _close_up(run, summary, spike)
    make, values = figure_class(), _SERIES[kind](run)[1]
    if not _drawable(kind, values).any():
        raise ValueError(f"{run.path} has no values for {kind!r}: {_missing([run], kind)}")
    figure = make(figsize=(9, 3.4), layout="constrained")
    axis = figure.subplots()
    _draw(axis, run, summary, kind)
    draw_shade(axis, summary)
    dress(axis)
    label_steps(axis)
    _title(axis, summary.name, pad=24)
    draw_key(axis, summary)
    return figure


def _draw(axis: Axes, run: Run, summary: RunSummary, kind: str) -> None:
    if kind == "loss":
        draw_loss(axis, run, summary)
        draw_actions(axis, run)
    elif kind == "probability":
        draw_probability(axis, run, numbers(run, "forecast", "probability"))
    elif kind == "gradient":
        draw_gradient(axis, run, numbers(run, "step", "gradient_norm"))
    elif kind == "edge":
        ratio = decisive_ratio(run)
        if ratio is not None:
            draw_ratio(axis, ratio)
    else:
        steps, values = _SERIES[kind](run)
        _line(axis, steps, values, BLUE)
        axis.axhline(1.0, color=RED, linewidth=0.9, linestyle=(0, (2, 2)))
        axis.set_ylabel(_LABELS[kind], color=SOFT, fontsize=10)


def _close_up(run: Run, summary: RunSummary, which: int | None) -> Figure:
    outcomes = summary.outcomes
    if not outcomes:
        raise ValueError(f"{run.path} has no spike, and no other event of the loss")
    if which is not None and not 1 <= which <= len(outcomes):
        raise ValueError(f"spike is {which}; {run.path} has events 1 to {len(outcomes)}")
    spikes = [one.spike for one in outcomes]
    measurable = all(math.isfinite(one.height) for one in spikes)
    highest = max(spikes, key=lambda one: one.height if measurable else one.rise)
    event = spikes[which - 1] if which else highest
    margin = max(2 * (event.end - event.onset), 60)
    within = (max(event.onset - margin, 0), event.end + margin)
    drawn = [kind for kind in ("loss", "probability", "edge", "gradient") if _has(run, kind, within)]
    if not drawn:
        raise ValueError(f"{run.path} has no finite value near step {event.onset:,} that could be drawn")
    figure = figure_class()(figsize=(9, 1.9 * len(drawn) + 0.6), layout="constrained")
    axes = figure.subplots(len(drawn), 1, sharex=True, squeeze=False)[:, 0]
    part = _within(run, within)
    shown = tuple(one for one in outcomes if within[0] <= one.spike.onset and one.spike.peak <= within[1])
    summary = replace(summary, outcomes=shown)
    for axis, kind in zip(axes, drawn, strict=True):
        _draw(axis, part, summary, kind)
        draw_shade(axis, summary)
        dress(axis)
    axes[-1].set_xlim(*within)
    label_steps(axes[-1])
    _title(axes[0], f"{summary.name}: {event.kind} at step {event.onset:,}, {height(event)}", pad=10)
    return figure


def _within(run: Run, within: tuple[int, int]) -> Run:
    """Return the part of a run between two steps: axes then fit what is shown."""
    kept = {
        kind: [row for row in rows if within[0] <= row["step"] <= within[1]]
        for kind, rows in run.records.items()
    }
    return replace(run, records=kept)


def _has(run: Run, kind: str, within: tuple[int, int]) -> bool:
    steps, values = _SERIES[kind](run)
    return bool(_drawable(kind, values[(steps >= within[0]) & (steps <= within[1])]).any())


def _drawable(kind: str, values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which values have a place on the axis of a kind of figure, shape (n,)."""
    positive = kind in ("edge", "lag", "gradient") or (kind == "loss" and is_logarithmic(values))
    shown = np.isfinite(values) & (np.abs(values) < _LARGEST)
    return np.asarray(shown & (values > (0 if positive else -math.inf)))


def _overlay(runs: Sequence[Run], kind: str) -> Figure:
    figure = figure_class()(figsize=(9, 3.8), layout="constrained")
    axis = figure.subplots()
    drawn = [(run, *_SERIES[kind](run)) for run in runs]
    if not any(_drawable(kind, values).any() for _, _, values in drawn):
        raise ValueError(f"none of the {len(runs)} runs has values for {kind!r}: {_missing(runs, kind)}")
    logarithmic = kind != "probability" and is_logarithmic(np.concatenate([one[2] for one in drawn]))
    for place, ((_, steps, values), name) in enumerate(zip(drawn, labels_of(runs), strict=True)):
        colour, dashes = _COLOURS[place % len(_COLOURS)], ("-", "--", ":")[place // len(_COLOURS) % 3]
        _line(
            axis,
            steps,
            values,
            colour,
            logarithmic=logarithmic,
            style=dashes,
            label=f" {name}" if name.startswith("_") else name,
        )
    if kind in ("edge", "lag"):
        axis.axhline(1.0, color=RED, linewidth=0.9, linestyle=(0, (2, 2)))
    dress(axis)
    label_steps(axis)
    axis.set_ylabel(_LABELS[kind], color=SOFT, fontsize=10)
    columns = min(len(runs), 4)
    legend = axis.legend(
        loc="lower left", bbox_to_anchor=(-0.008, 1.0), ncols=columns, frameon=False, fontsize=9
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _layers(run: Run) -> Figure:
    steps, maps = layer_maps(readings_by_layer(run), layer_types(run))
    if not maps:
        raise ValueError(f"{run.path} has nothing by layer: {_missing([run], 'layers')}")
    rows = [max(0.22 * len(one.layers), 1.2) for one in maps]
    figure = figure_class()(figsize=(9, sum(rows) + 0.8 * len(maps)), layout="constrained")
    axes = figure.subplots(len(maps), 1, squeeze=False, height_ratios=rows)[:, 0]
    edges = [*steps, steps[-1] + max(steps[-1] - steps[-2], 1) if len(steps) > 1 else steps[-1] + 1]
    for axis, one in zip(axes, maps, strict=True):
        values = np.array([[math.nan if v is None else v for v in row] for row in one.values])
        far = float(np.nanmin(values)) > 0 and float(np.nanmax(values)) > _FAR * float(np.nanmin(values))
        norm = "log" if far else "linear"
        rows_at = np.arange(len(one.layers) + 1)
        mesh = axis.pcolormesh(edges, rows_at, values, cmap="cividis", norm=norm, rasterized=True)
        names = [textwrap.shorten(name, 40, placeholder="…") for name in one.layers]
        axis.set_yticks(np.arange(len(names)) + 0.5, names, fontsize=8, parse_math=False)
        axis.invert_yaxis()
        left = f" ({one.left:,} more layers)" if one.left else ""
        _title(axis, f"{one.title}{left}", pad=6)
        figure.colorbar(mesh, ax=axis, pad=0.01)
    label_steps(axes[-1])
    return figure


def _line(
    axis: Axes,
    steps: NDArray[np.int64],
    values: NDArray[np.float64],
    colour: str,
    *,
    logarithmic: bool = True,
    style: str = "-",
    label: str | None = None,
) -> None:
    shown = np.isfinite(values) & (np.abs(values) < _LARGEST) & (values > (0 if logarithmic else -math.inf))
    values = np.where(shown, values, math.nan)
    draw_line(axis, steps, values, color=colour, linestyle=style, linewidth=1.2, label=label)
    if logarithmic and shown.any():
        axis.set_yscale("log")


def _title(axis: Axes, words: str, *, pad: float) -> None:
    wrapped = "\n".join(textwrap.wrap(words, _TITLE_WIDTH))
    axis.set_title(wrapped, loc="left", fontsize=10.5, color=INK, pad=pad, parse_math=False)


def _missing(runs: Sequence[Run], kind: str) -> str:
    """Return why there is nothing to draw, and what would help."""
    if kind != "loss" and all(run.meta.get("imported_from") for run in runs):
        return f"the log was imported from {_FOREIGN[kind]}: {_INSTEAD}"
    if kind == "layers" and any(run.records.get("noise") for run in runs):
        return _NO_DIRECTION
    logged = [words for run in runs if (words := _logged(run, kind))]
    return logged[0] if logged else _MISSING[kind]


def _logged(run: Run, kind: str) -> str:
    """Return what a log has of a kind of figure, though nothing that could be drawn; empty if nothing."""
    if kind not in ("probability", "edge", "layers"):
        values = _SERIES[kind](run)[1]
        known = len(values) if kind == "loss" else int((~np.isnan(values)).sum())
        limit = "above zero" if np.isfinite(values).any() else "finite"
        recorded = f"none of the {known:,} values that were recorded is {limit}"
        return "" if not known else recorded if known > 1 else f"its only value is not {limit}"
    failed = [row for row in run.records.get("event", []) if row.get("name") == PROBE_FAILED]
    readings = sum(len(run.records.get(one, [])) for one in ("curvature", "noise"))
    if failed and not readings:
        why = short_line(str(failed[-1].get("message") or ""))
        return f"{count(sum(map(times, failed)), 'probe')} failed, none succeeded; the last said: {why}"
    if not readings:
        return ""
    found = f"it has {count(readings, 'measurement')} of the curvature"
    if kind == "edge":
        return f"{found}, but no ratio that is finite and above zero"
    if kind == "layers":
        return f"{found}, but none by layer"
    forecasts = len(run.records.get("forecast", []))
    if not forecasts:
        return f"{found}, but no forecasts; draw the curvature itself with --kind edge"
    return (
        f"{found}, but its {count(forecasts, 'forecast has', 'forecasts have')} no probability, as in logs "
        "of earlier versions; draw what they rest on with --kind edge"
    )


def _edge(run: Run) -> Series:
    ratio = decisive_ratio(run)
    return drawn_ratios(run) if ratio is None else (ratio.steps, ratio.values)


_SERIES: Mapping[str, Callable[[Run], Series]] = MappingProxyType(
    {
        "loss": recorded_losses,
        "probability": lambda run: (run.steps("forecast"), numbers(run, "forecast", "probability")),
        "edge": _edge,
        "lag": lambda run: (run.steps("step"), numbers(run, "step", "instant_lag")),
        "gradient": lambda run: (run.steps("step"), numbers(run, "step", "gradient_norm")),
    }
)
_LABELS = MappingProxyType(
    {
        "loss": "loss",
        "probability": "probability of a spike",
        "edge": "ratio to the edge",
        "lag": "lag of v: Σv̂ ÷ Σg²",
        "gradient": "‖g‖",
    }
)
_LOSS_FN = "give the monitor a loss_fn, without which no curvature is measured"
_MISSING = MappingProxyType(
    {
        "loss": "no loss was recorded",
        "probability": _LOSS_FN,
        "edge": _LOSS_FN,
        "lag": "the optimizer has no second moment that was read",
        "gradient": "no gradient norm was recorded",
        "layers": _LOSS_FN,
    }
)
_NO_CURVATURE = "another tool, which measures no curvature"
_FOREIGN = MappingProxyType(
    {
        "probability": _NO_CURVATURE,
        "edge": _NO_CURVATURE,
        "lag": "another tool, which does not read the optimizer's second moment",
        "gradient": "another tool, and no column with the norm of the gradient was found or named",
        "layers": _NO_CURVATURE,
    }
)
_INSTEAD = "draw its loss with --kind loss, or watch the next run with foreshock.Monitor"
_NO_DIRECTION = (
    "where batches differ the noise of the curvature is measured, which has no direction and so no shares by "
    "layer; tables of tensors come with alarms and with spikes, and there was none"
)
KINDS = ("overview", *_SERIES, "layers", "spike")
"""The figures there are."""
