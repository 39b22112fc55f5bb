"""How early spikes were announced: one histogram a rule."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from foreshock.report.appearance import AMBER, BLUE, INK, QUIET, SOFT, dress
from foreshock.report.drawing import figure_class, save_figure

_EDGES = (0, 1, 5, 10, 20, 50, 100, 200, 500)
_NAMES = ("missed", "0", "1–4", "5–9", "10–19", "20–49", "50–99", "100–199", "200–499", "500+")


def write_leads(
    counted: Mapping[str, Mapping[str, Sequence[int] | int]], path: str | os.PathLike[str]
) -> Path:
    """Draw the leads of each rule as bars, with the missed spikes apart.

    Args:
        counted: By rule, a mapping with ``spikes`` and ``leads``, as the scores hold for a class of spikes.
        path: File to write, ``.svg`` or ``.png``.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If there is no rule.
    """
    if not counted:
        raise ValueError("there is no rule to draw; pass at least one")
    columns = min(3, len(counted))
    rows = -(-len(counted) // columns)
    figure = figure_class()(figsize=(3.1 * columns, 1.5 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    colours = [QUIET, *[AMBER] * 3, *[BLUE] * 6]
    for axis, (name, entry) in zip(axes, counted.items(), strict=False):
        axis.bar(range(len(_NAMES)), lead_shares(entry), color=colours, width=0.8)
        axis.set_title(name, loc="left", fontsize=10, color=INK)
        dress(axis)
        axis.set_xticks(range(len(_NAMES)), _NAMES, rotation=60, ha="right", rotation_mode="anchor")
        axis.tick_params(labelsize=8)
    for axis in axes[len(counted) :]:
        axis.set_visible(False)
    for axis in axes[max(0, len(counted) - columns) : len(counted)]:
        axis.tick_params(labelbottom=True)
    figure.supxlabel("lead in steps", color=SOFT, fontsize=10)
    figure.supylabel("share of spikes", color=SOFT, fontsize=10)
    return save_figure(figure, path)


def lead_shares(entry: Mapping[str, Sequence[int] | int]) -> list[float]:
    """Return the share of spikes that were missed, and that were announced 0, 1–4, 5–9, … steps before.

    Example:
        >>> lead_shares({"spikes": 4, "leads": [0, 7, 600]})
        [0.25, 0.25, 0.0, 0.25, 0.0, 0.0, 0.0, 0.0, 0.0, 0.25]
    """
    spikes, leads = int(entry["spikes"]), np.asarray(entry["leads"], dtype=float)  # type: ignore[arg-type]
    if not spikes:
        return [0.0] * len(_NAMES)
    counts, _ = np.histogram(leads, bins=[*_EDGES, np.inf])
    return [(spikes - leads.size) / spikes, *(float(count) / spikes for count in counts)]
