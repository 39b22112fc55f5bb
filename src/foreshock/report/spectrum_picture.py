"""The density of a spectrum as one static picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from foreshock.report.appearance import INK, PURPLE, RED, dress, label
from foreshock.report.drawing import figure_class, save_figure

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes

_DECADES = 6  # of density below its peak; what is lower is the tail of the smoothing


@dataclass(frozen=True)
class DensityCurve:
    """A density of eigenvalues, as plain arrays.

    Attributes:
        grid: Eigenvalues, increasing, shape (points,).
        density: Density there, ≥ 0, shape (points,).
        error: Its standard error, shape (points,); None or NaN where it is unknown.
    """

    grid: NDArray[np.float64]
    density: NDArray[np.float64]
    error: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        """Refuse what can't be drawn.

        Raises:
            ValueError: If the shapes differ, or nowhere is a positive density.
        """
        shapes = {np.shape(part) for part in (self.grid, self.density, self.error) if part is not None}
        if len(shapes) != 1 or np.ndim(self.grid) != 1:
            raise ValueError(
                f"grid, density and error have the shapes {shapes}; they must be one shape (points,)"
            )
        if not (np.asarray(self.density) > 0).any():
            raise ValueError("the density is nowhere positive: there is nothing to draw")


def write_spectrum_picture(
    curve: DensityCurve,
    path: str | os.PathLike[str],
    *,
    threshold: float | None = None,
    title: str = "Spectrum",
) -> Path:
    """Draw a density of eigenvalues on a logarithmic scale, with a band of two standard errors.

    Args:
        curve: The density.
        path: File to write, ``.svg``, ``.pdf`` or ``.png``; its folder is made if missing.
        threshold: Eigenvalue at which to draw the edge of stability; the axis reaches it.
        title: Title of the picture.

    Returns:
        The file written.

    Raises:
        ImportError: If matplotlib is missing.
    """
    figure = figure_class()(figsize=(9, 3.6), layout="constrained")
    axis = figure.subplots()
    _draw(axis, curve)
    if threshold is not None:
        _mark(axis, threshold)
    axis.set_title(title, loc="left", fontsize=11.5, color=INK)
    return save_figure(figure, path)


def _draw(axis: Axes, curve: DensityCurve) -> None:
    peak = float(np.nanmax(curve.density))
    floor = peak * 10.0**-_DECADES
    axis.plot(curve.grid, np.maximum(curve.density, floor), color=PURPLE, linewidth=1.4, zorder=3)
    if curve.error is not None and np.isfinite(curve.error).any():
        low, high = curve.density - 2 * curve.error, curve.density + 2 * curve.error
        band = np.maximum(low, floor), np.maximum(high, floor)
        axis.fill_between(curve.grid, *band, color=PURPLE, alpha=0.18, linewidth=0)
    axis.set_yscale("log")
    axis.set_ylim(floor, peak * 2)
    label(axis, x="eigenvalue", y="density")
    dress(axis)


def _mark(axis: Axes, threshold: float) -> None:
    axis.axvline(threshold, color=RED, linewidth=0.9, linestyle=(0, (2, 2)))
    axis.annotate(
        "unstable beyond",
        (threshold, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-3, -3),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=8.5,
        color=RED,
    )
