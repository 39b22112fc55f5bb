"""The forecasts of one trace, drawn against the crossings and spikes that followed."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foreshock.lab.spikebench.scores.forecasts import Replay
from foreshock.lab.spikebench.spikes import ground_truth
from foreshock.lab.spikebench.trace import Column, Trace
from foreshock.report.appearance import AMBER, BLUE, PURPLE, RED, SOFT, dress, label
from foreshock.report.drawing import figure_class, save_figure
from foreshock.report.forecasts import SHOWN_AHEAD, Fan

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray


_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 2.0, 5.0, 10.0)


def write_fan(
    trace: Trace, replay: Replay, path: str | os.PathLike[str], *, window: tuple[int, int] | None = None
) -> Path:
    """Draw the loss with its spikes and alarms above the stability ratio with its forecasts.

    Args:
        trace: The run.
        replay: Its forecasts.
        path: File to write, ``.svg`` or ``.png``.
        window: First and last step to draw; all of the run by default.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If no step of the run lies in the window.
    """
    steps = trace.column("loss").steps
    first, last = window or (int(steps[0]), int(steps[-1]))
    if not ((steps >= first) & (steps <= last)).any():
        raise ValueError(f"window is {window!r}; the run has steps {steps[0]} to {steps[-1]}")
    figure = figure_class()(figsize=(9, 5.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    _loss(upper, trace, replay)
    _ratio(lower, trace, replay, (first, last))
    for axis in (upper, lower):
        dress(axis)
        axis.set_xlim(first, last)
    _fit(upper, trace.column("loss"), (first, last), room=2.0)
    label(upper, y="loss", title=trace.meta["name"])
    label(lower, x="step", y="stability ratio")
    return save_figure(figure, path)


def chosen(replay: Replay, ratio: Column) -> list[Fan]:
    """Return the forecasts to draw: of each rise the first that expected the threshold within 200, 100, 50.

    The choice looks at the forecasts alone, so that good ones aren't picked with hindsight.
    """
    held = ratio.held(replay.steps)
    fans, waiting = [], list(SHOWN_AHEAD)
    for i, step in enumerate(replay.steps):
        ahead, low, high = float(replay.expected[i]), float(replay.low[i]), float(replay.high[i])
        if ahead == 0 or held[i] >= 1:
            waiting = list(SHOWN_AHEAD)
        elif all(map(math.isfinite, (ahead, low, high, held[i]))):
            reached = [limit for limit in waiting if ahead <= limit]
            if reached:
                fans.append(Fan(int(step), float(held[i]), step + ahead, step + low, step + high))
                waiting = waiting[len(reached) :]
    return fans


def _loss(axis: Axes, trace: Trace, replay: Replay) -> None:
    loss = trace.column("loss")
    axis.plot(loss.steps, np.where(loss.values > 0, loss.values, math.nan), color=BLUE, linewidth=1.1)
    axis.set_yscale("log")
    for i, spike in enumerate(ground_truth(trace)["3x"]):
        name = "spike" if i == 0 else None
        axis.axvspan(spike.onset, max(spike.end, spike.onset + 1), color=RED, alpha=0.16, lw=0, label=name)
    _marks(axis, replay.steps[replay.watch], "watch", AMBER, 0.97)
    _marks(axis, replay.steps[replay.alarm], "alarm", RED, 0.93)
    handles = axis.get_legend_handles_labels()[0]
    if handles:
        place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "ncols": len(handles)}
        axis.legend(frameon=False, fontsize=9, labelcolor=SOFT, handlelength=1.1, **place)


def _marks(axis: Axes, steps: NDArray[np.int64], name: str, colour: str, height: float) -> None:
    """Mark steps at a height of the panel, whatever the loss there."""
    if steps.size:
        look: dict[str, Any] = {"color": colour, "markersize": 5, "linestyle": "none", "label": name}
        at = np.full(steps.size, height)
        axis.plot(steps, at, marker="|", transform=axis.get_xaxis_transform(), **look)


def _ratio(axis: Axes, trace: Trace, replay: Replay, window: tuple[int, int]) -> None:
    ratio = trace.column("stability_ratio")
    axis.plot(
        ratio.steps, np.where(ratio.values > 0, ratio.values, math.nan), color=PURPLE, linewidth=1.4, zorder=3
    )
    axis.set_yscale("log")
    axis.axhline(1, color=RED, linewidth=0.9, linestyle=(0, (2, 2)))
    for fan in chosen(replay, ratio):
        axis.fill([fan.step, fan.low, fan.high], [fan.ratio, 1, 1], color=AMBER, alpha=0.22, lw=0, zorder=2)
        axis.plot([fan.step, fan.expected], [fan.ratio, 1], "--", color=AMBER, linewidth=1, zorder=4)
        axis.plot(fan.step, fan.ratio, "o", color=AMBER, markersize=3, zorder=4)
    _fit(axis, ratio, window, room=1.15)
    lowest, highest = axis.get_ylim()
    ticks = [tick for tick in _TICKS if lowest <= tick <= highest]
    axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_yticks([], minor=True)


def _fit(axis: Axes, column: Column, window: tuple[int, int], *, room: float) -> None:
    """Limit a logarithmic axis to what lies in the window, and to what is no outlier below it."""
    seen = (column.steps >= window[0]) & (column.steps <= window[1]) & np.isfinite(column.values)
    values = column.values[seen & (column.values > 0)]
    if values.size:
        axis.set_ylim(float(np.quantile(values, 0.02)) / 1.1, float(values.max()) * room)
