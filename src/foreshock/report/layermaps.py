"""Quantities by layer over steps, few enough to draw: the highest of each stretch of readings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from foreshock.explain.layers import layer_name
from foreshock.representation import short_line
from foreshock.runlog.numbers import as_number

if TYPE_CHECKING:
    from foreshock.runlog import Run

Readings = Sequence[tuple[int, Sequence[Mapping[str, Any]]]]
"""Step and rows, each with a name, of each measurement by layer or tensor."""

_LAYERS = 40  # rows of a map: the largest
_STRETCHES = 240  # columns of it
_QUANTITIES = (
    ("share", "Share of the unstable direction"),
    ("lag", "Lag of the second moment by layer"),
    ("decay_exponent", "Decay exponent of the second moment by layer"),
    ("burst", "Gradient ahead of the second moment by layer, √(g²/v̂)"),
)


@dataclass(frozen=True)
class LayerMap:
    """One quantity.

    Attributes:
        title: What it is.
        layers: Names, the layer with the largest value first.
        values: A row a layer, a column a stretch; None where nothing was measured.
        left: Layers that are left out.
    """

    title: str
    layers: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    left: int


def layer_maps(readings: Readings, types: Mapping[str, str]) -> tuple[list[int], list[LayerMap]]:
    """Return the first step of each stretch of readings, and a map of each quantity that was measured.

    Args:
        readings: The measurements, in order.
        types: Class names of modules by their names.
    """
    stretches = [part for part in np.array_split(np.arange(len(readings)), _STRETCHES) if len(part)]
    maps = []
    for name, title in _QUANTITIES:
        largest: dict[str, float] = {}
        columns: list[dict[str, float]] = []
        for part in stretches:
            column: dict[str, float] = {}
            for place in part.tolist():
                for row in readings[place][1]:
                    value = as_number(row.get(name))
                    if math.isfinite(value):
                        layer = str(row["name"])
                        column[layer] = max(value, column.get(layer, -math.inf))
                        largest[layer] = max(value, largest.get(layer, -math.inf))
            columns.append(column)
        layers = sorted(largest, key=lambda layer: -largest[layer])[:_LAYERS]
        if layers:
            values = tuple(tuple(column.get(layer) for column in columns) for layer in layers)
            shown = tuple(layer_name(short_line(layer), types) for layer in layers)
            maps.append(LayerMap(title, shown, values, len(largest) - len(layers)))
    return [readings[part[0]][0] for part in stretches], maps


def readings_by_layer(run: Run) -> Readings:
    """Return whatever was measured by layer or tensor in a run, in order of its steps.

    Args:
        run: A run as read from its log.
    """
    found = [
        (row["step"], named(row.get(field)))
        for kind, field in (("curvature", "blocks"), ("tensors", "rows"))
        for row in run.records.get(kind, ())
    ]
    return sorted((one for one in found if one[1]), key=lambda one: one[0])


def named(rows: Any) -> list[Mapping[str, Any]]:
    """Return those of a list that are mappings with a name, whoever wrote it.

    Args:
        rows: Anything that JSON can hold.
    """
    found = rows if isinstance(rows, list) else []
    return [row for row in found if isinstance(row, dict) and "name" in row]
