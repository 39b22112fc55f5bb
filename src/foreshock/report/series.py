"""One chart as plain values, with few enough points to draw."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from foreshock.report.captions import CAPTIONS
from foreshock.report.decimation import keep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from foreshock.report.forecasts import Fan

Chart = dict[str, Any]
_IN_FULL = 20_000  # points of a chart around spikes: some four megabytes of a page
_BEYOND = 1e9  # stands for infinity, which JSON has not


@dataclass(frozen=True)
class Line:
    """One series of a chart.

    Attributes:
        label: Its name in the legend.
        role: What it is, which decides its colour: ``loss``, ``ratio``, ``forecast`` and so on.
        values: Its values, NaN where there is none, shape (n,).
    """

    label: str
    role: str
    values: NDArray[np.float64]


@dataclass(frozen=True)
class Style:
    """How a chart is drawn.

    Attributes:
        log: Whether the y axis is logarithmic.
        range: Limits of y; None to follow the values in view.
        clip: How far y may follow the values in view, down and up; None for any distance.
        follows: Index of the series that alone sets the limits of y when zoomed; None for all.
        threshold: Value of a horizontal line; None for no line.
        band: Indices of the upper and the lower series of a band; None for no band.
        fans: Forecasts to draw.
        marks: What is overlaid: spikes with their height, spikes and warnings, or spikes alone.
    """

    log: bool = False
    range: tuple[float, float] | None = None
    clip: tuple[float, float] | None = None
    follows: int | None = None
    threshold: float | None = None
    band: tuple[int, int] | None = None
    fans: tuple[Fan, ...] = ()
    marks: Literal["labelled", "plain", "spikes"] = "plain"


def chart(
    name: str,
    steps: NDArray[np.int64],
    lines: Sequence[Line],
    style: Style,
    *,
    windows: Sequence[tuple[int, int]] = (),
) -> Chart | None:
    """Return one chart, or None if no line has a value to draw.

    Args:
        name: Key of its title and caption.
        steps: Common x of all lines, shape (n,).
        lines: Its series.
        style: How it is drawn.
        windows: First and last steps of what is kept in full, the most important first, as far as that is
            not too much for a page.

    Returns:
        JSON-able values: `id`, `title`, `caption`, `x`, `series` (each `label`, `role`, `values`)
        and the fields of `Style`.
    """
    # uPlot needs x to increase, and a record may be logged late.
    order = np.argsort(steps, kind="stable")
    columns = [_drawable(line.values[order], log=style.log) for line in lines]
    if not any(np.isfinite(column).any() for column in columns):
        return None
    kept = keep(columns, whole=_in_full(steps[order], windows))
    return {
        "id": name,
        **CAPTIONS[name],
        "x": steps[order][kept].tolist(),
        "series": [
            {"label": line.label, "role": line.role, "values": _plain(column[kept])}
            for line, column in zip(lines, columns, strict=True)
        ],
        **asdict(style),
    }


def _in_full(steps: NDArray[np.int64], windows: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return windows of steps as places, as many as there is room for."""
    found: list[tuple[int, int]] = []
    room = _IN_FULL
    for first, last in windows:
        low, high = (
            int(np.searchsorted(steps, first)),
            int(np.searchsorted(steps, last, side="right")),
        )
        room -= high - low
        if room < 0:
            break
        found.append((low, high))
    return found


def digits(value: float) -> float:
    """Return a finite number of six significant digits; infinity becomes 1e9.

    Args:
        value: Any float but NaN.
    """
    return float(f"{value if math.isfinite(value) else math.copysign(_BEYOND, value):.6g}")


def _drawable(values: NDArray[np.float64], *, log: bool) -> NDArray[np.float64]:
    """Return the values with NaN where a logarithmic axis has no place for them."""
    return np.where(np.isfinite(values) & (values > 0), values, math.nan) if log else values


def _plain(values: NDArray[np.float64]) -> list[float | None]:
    return [None if math.isnan(value) else digits(value) for value in values.tolist()]
