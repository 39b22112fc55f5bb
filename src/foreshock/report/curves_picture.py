"""Losses of one window of a training, done in several ways, as one static picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from foreshock.report.appearance import AMBER, BLUE, GREEN, INK, PURPLE, QUIET, RED, draw_line, dress, label
from foreshock.report.drawing import figure_class, save_figure

if TYPE_CHECKING:
    import os

_COLOURS = (RED, BLUE, GREEN, PURPLE, AMBER, "#0f7c8a", "#a3456f", "#6b6b6b", "#7a5a00")
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))
_NAME = 60  # characters of a name in the legend


@dataclass(frozen=True)
class LossCurve:
    """One way, as plain arrays.

    Attributes:
        name: What was done, for the legend.
        steps: Steps, increasing, shape (n,).
        losses: Losses, shape (n,); those that are not finite are left out.
    """

    name: str
    steps: Sequence[int]
    losses: Sequence[float]


def write_curves_picture(
    curves: Sequence[LossCurve],
    path: str | os.PathLike[str],
    *,
    before: LossCurve | None = None,
    title: str = "",
) -> Path:
    """Draw losses over each other, on a logarithmic scale where all are positive.

    Args:
        curves: The ways, the first one as it was.
        path: File to write, ``.svg``, ``.pdf`` or ``.png``; its folder is made if missing.
        before: What they have in common, drawn in grey.
        title: Title of the picture.

    Returns:
        The file written.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If there is no finite loss.
    """
    drawn = [*([] if before is None else [before]), *curves]
    values = np.array([loss for curve in drawn for loss in curve.losses if math.isfinite(loss)])
    if not len(values):
        raise ValueError("there is no finite loss: there is nothing to draw")
    figure = figure_class()(figsize=(9, 4.2), layout="constrained")
    axis = figure.subplots()
    if before is not None:
        draw_line(axis, *_finite(before), color=QUIET, linewidth=1.0)
        axis.axvline(before.steps[-1], color=QUIET, linewidth=0.8, linestyle=(0, (2, 2)))
    for index, curve in enumerate(curves):
        colour = _COLOURS[index % len(_COLOURS)]
        dashes = _DASHES[index // len(_COLOURS) % len(_DASHES)]
        name = curve.name if len(curve.name) <= _NAME else curve.name[: _NAME - 1] + "…"
        # A name that begins with an underscore, or holds a dollar sign, means something to matplotlib.
        text = " " + name.replace("$", r"\$")
        draw_line(axis, *_finite(curve), color=colour, linewidth=1.3, linestyle=dashes, label=text)
    if (values > 0).all():
        axis.set_yscale("log")
    label(axis, x="step", y="loss")
    dress(axis)
    axis.legend(frameon=False, fontsize=9, labelcolor=INK)
    axis.set_title(title.replace("$", r"\$"), loc="left", fontsize=11.5, color=INK)
    return save_figure(figure, path)


def _finite(curve: LossCurve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    losses = np.asarray(curve.losses, dtype=np.float64)
    return np.asarray(curve.steps, dtype=np.float64), np.where(np.isfinite(losses), losses, np.nan)
