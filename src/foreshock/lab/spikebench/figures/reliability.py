"""Whether intervals hold as often as they say."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foreshock.report.appearance import AMBER, BLUE, GREEN, PURPLE, QUIET, RED, SOFT, dress, label
from foreshock.report.drawing import figure_class, save_figure

_COLOURS = (BLUE, AMBER, PURPLE, GREEN, RED)


def write_reliability(
    levels: Mapping[str, Sequence[Mapping[str, Any]]], path: str | os.PathLike[str]
) -> Path:
    """Draw the observed share of crossings inside the interval against its nominal level.

    Args:
        levels: By name of a group, its ``reliability`` of the forecast scores; at most five are told apart.
        path: File to write, ``.svg`` or ``.png``.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If nothing was observed, or there are more than five groups.
    """
    known = {
        name: [level for level in found if level["observed"] is not None] for name, found in levels.items()
    }
    known = {name: found for name, found in known.items() if found}
    if not 1 <= len(known) <= len(_COLOURS):
        raise ValueError(f"{len(known)} groups have forecasts of crossings; draw one to {len(_COLOURS)}")
    figure = figure_class()(figsize=(4.6, 4.4), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle=(0, (2, 2)))
    for colour, (name, found) in zip(_COLOURS, known.items(), strict=False):
        x = [level["nominal"] for level in found]
        axis.plot(x, [level["observed"] for level in found], "o-", color=colour, markersize=4, linewidth=1.4,
                  label=f"{name} ({found[0]['count']} forecasts)")  # fmt: skip
    axis.axvline(0.8, color=SOFT, linewidth=0.8, alpha=0.5)
    axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    dress(axis, grid="both")
    label(axis, x="nominal level; 0.8 is forecast, others are scaled from it", y="share of crossings inside")
    axis.legend(frameon=False, fontsize=9, labelcolor=SOFT, loc="upper left")
    return save_figure(figure, path)
