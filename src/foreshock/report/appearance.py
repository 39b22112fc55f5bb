"""How all pictures look: their colours and axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

INK, SOFT, GRID, QUIET = "#1b2230", "#5a6474", "#eceff3", "#8a94a3"
BLUE, PURPLE, AMBER, RED, GREEN = "#2458a6", "#5b3fa8", "#c87800", "#c62828", "#2e7d4f"


def dress(axis: Axes, *, grid: str = "y") -> None:
    """Give an axis the common look.

    Args:
        axis: The axis.
        grid: Which lines to draw: ``x``, ``y`` or ``both``.
    """
    axis.grid(axis=grid, which="major", color=GRID, linewidth=0.8)  # type: ignore[arg-type]
    axis.set_axisbelow(True)
    axis.tick_params(colors=SOFT, labelsize=9, length=0, which="both")
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#c9d0d9")


def draw_line(axis: Axes, x: NDArray[Any], y: NDArray[np.float64], *, color: str, **style: Any) -> None:
    """Draw a line, and a dot for each value that has none beside it: a line of one point is not seen.

    Args:
        axis: The axis.
        x: Where, shape (n,).
        y: Values, NaN where there is none, shape (n,).
        color: Of the line and the dots.
        style: More of matplotlib's ``plot``, for the line.
    """
    axis.plot(x, y, color=color, **style)
    there = np.concatenate(([False], np.isfinite(y), [False]))
    alone = there[1:-1] & ~there[:-2] & ~there[2:]
    if alone.any():
        axis.plot(x[alone], y[alone], "o", color=color, markersize=3.5, zorder=style.get("zorder", 2))


def label_steps(axis: Axes) -> None:
    """Label an axis of steps, of which there are no halves."""
    axis.set_xlabel("step", color=SOFT, fontsize=10)
    axis.locator_params(axis="x", integer=True, min_n_ticks=1)


def label(axis: Axes, *, x: str = "", y: str = "", title: str = "") -> None:
    """Write the labels of an axis and its title."""
    axis.set_xlabel(x, color=SOFT, fontsize=10)
    axis.set_ylabel(y, color=SOFT, fontsize=10)
    if title:
        axis.set_title(title, loc="left", fontsize=11.5, color=INK)
