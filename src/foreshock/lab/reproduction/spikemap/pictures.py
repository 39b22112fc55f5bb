"""The heat maps, one panel for each kind of network and batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foreshock.lab.reproduction.patterns import median
from foreshock.lab.reproduction.spikemap.cells import BATCHES, DECAYS, KINDS, MEMORIES
from foreshock.lab.reproduction.spikemap.findings import (
    BLAMED,
    SIGNALS,
    cell_of,
    crossed_first,
    removed,
    robust,
    share,
    spikes_of,
    with_share,
)
from foreshock.report.appearance import AMBER, BLUE, GREEN, GRID, INK, QUIET, RED, SOFT, label
from foreshock.report.drawing import figure_class, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Lines = Sequence[Mapping[str, Any]]
_CALM, _COLUMNS = "#f3f5f8", 4
_ROWS = [(beta2, decay) for decay in DECAYS for beta2 in MEMORIES]

CAPTIONS = {
    "map-spikes.svg": "Spikes per thousand steps (colour; mean over seeds) and the median height of the "
    "tallest of each run (number); pale: none; blank: not run",
    "map-blame.svg": "Part of v in the last rise of ln λ_max(Ĥ) before spikes (colour and per cent; median). "
    "The red line separates cells where v has at least half of the rise from the others. ○: freezing v "
    "removes the robust spikes of the cell, ×: it does not; pale: no spike; grey: no rise to divide",
    "map-crossings.svg": "What passes its edge first before spikes: λ_max(Ĥ) (blue), λ_grad (green), the "
    "mean-square ratio (amber), none of them (grey); with the median lead in steps, 100 meaning that it was "
    "above one at the first reading",
}
"""Captions of the figures, by file name."""


def draw_map(lines: Lines, target: Path) -> list[Path]:
    """Draw all heat maps.

    Args:
        lines: Lines of the map.
        target: Folder of the figures.
    """
    names = list(CAPTIONS)
    painters: list[tuple[Callable[[Lines], _Cell], bool]] = [
        (_paint_spikes, False),
        (_paint_blame, True),
        (_paint_crossing, False),
    ]
    return [
        _draw(lines, painter, target / name, border=border)
        for name, (painter, border) in zip(names, painters, strict=True)
    ]


class _Cell:
    """How one cell looks: its colour, a short text, and on which side of the border it lies, if on any."""

    def __init__(self, colour: Any, text: str = "", *, side: bool | None = None) -> None:
        self.colour, self.text, self.side = colour, text, side


def _draw(lines: Lines, paint: Callable[[Lines], _Cell], path: Path, *, border: bool) -> Path:
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for line in lines:
        groups.setdefault(cell_of(line), []).append(line)
    figure = figure_class()(figsize=(11, 6.2), layout="constrained")
    axes = figure.subplots(len(BATCHES), len(KINDS), squeeze=False)
    for row, batch in enumerate(BATCHES):
        for column, (kind, about) in enumerate(KINDS.items()):
            axis = axes[row, column]
            cells = {
                (x, y): paint(groups[kind, batch, beta2, decay, rate])
                for y, (beta2, decay) in enumerate(_ROWS)
                for x, rate in enumerate(about.rates)
                if (kind, batch, beta2, decay, rate) in groups
            }
            _panel(axis, cells, about.rates, border=border)
            label(axis, title=f"{about.title}\n{batch} batch")
            if column == 0:
                axis.set_yticks(range(len(_ROWS)), [f"β₂ {b:g}, decay {d:g}" for b, d in _ROWS])
    figure.supxlabel("learning rate η", color=SOFT, fontsize=9)
    return save_figure(figure, path)


def _panel(
    axis: Axes, cells: Mapping[tuple[int, int], _Cell], rates: Sequence[float], *, border: bool
) -> None:
    from matplotlib.patches import Rectangle

    for (x, y), cell in cells.items():
        axis.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=cell.colour, edgecolor="white"))
        axis.text(x, y, cell.text, ha="center", va="center", fontsize=7.5, color=INK)
    axis.set_xlim(-0.5, len(rates) - 0.5)
    axis.set_ylim(len(_ROWS) - 0.5, -0.5)
    axis.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
    axis.set_yticks([])
    axis.tick_params(colors=SOFT, labelsize=8, length=0)
    axis.spines[:].set_color(GRID)
    if border:
        _border(axis, cells)


def _border(axis: Axes, cells: Mapping[tuple[int, int], _Cell]) -> None:
    """Draw a line between neighbours on different sides."""
    for (x, y), cell in cells.items():
        right, below = cells.get((x + 1, y)), cells.get((x, y + 1))
        if right is not None and None not in (cell.side, right.side) and cell.side != right.side:
            axis.plot([x + 0.5] * 2, [y - 0.5, y + 0.5], color=RED, linewidth=2)
        if below is not None and None not in (cell.side, below.side) and cell.side != below.side:
            axis.plot([x - 0.5, x + 0.5], [y + 0.5] * 2, color=RED, linewidth=2)


def _paint_spikes(lines: Lines) -> _Cell:
    rate = float(np.mean([1000 * line["spikes"] / line["steps"] for line in lines]))
    if not rate:
        return _Cell(_CALM)
    heights = [max(line["heights"]) for line in lines if line["heights"]]
    height = median(heights)
    text = f"{height:.0f}×" if height < 1000 else f"10{_raised(round(math.log10(min(height, 1e99))))}×"
    return _Cell(_mixed("#fdf1d8", AMBER, min(rate / 10, 1.0)), text)


def _paint_blame(lines: Lines) -> _Cell:
    spikes = spikes_of(lines)
    if not spikes:
        return _Cell(_CALM)
    sure = [spike for spike in robust(spikes) if "frozen" in spike]
    mark = "" if not sure else " ○" if sum(map(removed, sure)) * 2 > len(sure) else " ×"
    known = with_share(spikes)
    if not known:
        return _Cell("#c9d0d9", mark)
    middle = median([share(spike) for spike in known])
    colour = (
        _mixed("#eef1f6", AMBER, 2 * middle - 1)
        if middle >= BLAMED
        else _mixed("#eef1f6", BLUE, 1 - 2 * middle)
    )
    return _Cell(colour, f"{100 * middle:.0f}{mark}", side=middle >= BLAMED)


def _paint_crossing(lines: Lines) -> _Cell:
    spikes = spikes_of(lines)
    if not spikes:
        return _Cell(_CALM)
    firsts = [crossed_first(spike) for spike in spikes]
    first = max(sorted(set(firsts)), key=firsts.count)
    if first not in SIGNALS:
        return _Cell(_mixed("#ffffff", QUIET, 0.6))
    leads = [spike[f"{first}_lead"] for spike, name in zip(spikes, firsts, strict=True) if name == first]
    colour = {"ratio": BLUE, "gradient_ratio": GREEN, "mean_square": AMBER}[first]
    return _Cell(_mixed("#ffffff", colour, 0.55), f"{min(median(leads), 100):.0f}")


def _mixed(one: str, other: str, share_of_other: float) -> tuple[float, ...]:
    """Return a colour between two."""
    from matplotlib.colors import to_rgb

    pairs = zip(to_rgb(one), to_rgb(other), strict=True)
    return tuple((1 - share_of_other) * a + share_of_other * b for a, b in pairs)


def _raised(exponent: int) -> str:
    return str(exponent).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
