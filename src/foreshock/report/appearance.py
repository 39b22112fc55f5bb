"""How all pictures look: their colours and axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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


def label(axis: Axes, *, x: str = "", y: str = "", title: str = "") -> None:
    """Write the labels of an axis and its title."""
    axis.set_xlabel(x, color=SOFT, fontsize=10)
    axis.set_ylabel(y, color=SOFT, fontsize=10)
    if title:
        axis.set_title(title, loc="left", fontsize=11.5, color=INK)
