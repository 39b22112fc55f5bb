"""What is taken from the records of a log as they come: numbers for the charts, and all else as it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from foreshock.live.charts import COLUMNS
from foreshock.report.layermaps import named
from foreshock.report.readings import CHANGES_NOTHING
from foreshock.runlog.values import is_blank
from foreshock.spikes.scoring import signs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from foreshock.runlog.rows import Rows

KEPT = ("alarm", "guard", "event", "curvature", "forecast", "tensors")
"""Kinds of records of which more is kept than numbers."""


@dataclass
class Log:
    """What a run recorded besides numbers, in the order of the log.

    Attributes:
        alarms: Records of alarms.
        actions: Records of what a guard changed.
        events: What else happened.
        readings: Step and blocks of each reading of the curvature that has some.
        tables: Step and rows of each table of tensors.
        forecast: The last forecast; None before the first.
    """

    alarms: list[Mapping[str, Any]] = field(default_factory=list)
    actions: list[Mapping[str, Any]] = field(default_factory=list)
    events: list[Mapping[str, Any]] = field(default_factory=list)
    readings: list[tuple[int, list[Mapping[str, Any]]]] = field(default_factory=list)
    tables: list[tuple[int, list[Mapping[str, Any]]]] = field(default_factory=list)
    forecast: Mapping[str, Any] | None = None

    def take(self, kind: str, every: Rows, start: int) -> None:
        """Take the records of a kind from some place on into account."""
        if kind == "forecast":  # there are many, and only the last counts
            self.forecast = every[-1]
            return
        rows = every[start:]
        if kind == "alarm":
            self.alarms += rows
        elif kind == "guard":
            self.actions += (row for row in rows if row.get("remedy") not in CHANGES_NOTHING)
        elif kind == "event":
            self.events += rows
        elif kind == "curvature":
            self.readings += ((row["step"], row["blocks"]) for row in rows if row.get("blocks"))
        elif kind == "tensors":
            self.tables += ((row["step"], named(row.get("rows"))) for row in rows if named(row.get("rows")))

    @property
    def by_layer(self) -> list[tuple[int, list[Mapping[str, Any]]]]:
        """Whatever was measured by layer or tensor, in order of its steps."""
        return sorted([*self.readings, *self.tables], key=lambda one: one[0])


def columns_of(kind: str, rows: Rows, start: int) -> list[NDArray[np.float64]]:
    """Return the columns of a curve that new records have.

    Args:
        kind: Kind of the records, a key of `COLUMNS`.
        rows: All records of the kind.
        start: Records before this place are left out.
    """
    columns = [rows.numbers_or_nan(name, start=start) for name in COLUMNS[kind]]
    if kind == "forecast":
        columns.append(_said(rows, start))
    if kind == "step":
        columns.append(_measured(rows, columns[0], start))
    return columns


def _measured(rows: Rows, losses: NDArray[np.float64], start: int) -> NDArray[np.float64]:
    """Return 1 where a loss was measured, 0 where it is null in the log. One that is NaN was measured."""
    found = np.ones(len(losses))
    for place in np.flatnonzero(np.isnan(losses)).tolist():
        found[place] = rows[start + place].get("loss") is not None
    return found


def _said(rows: Rows, start: int) -> NDArray[np.float64]:
    """Return what each forecast says by itself of an instability, see `signs`."""
    levels = [level if isinstance(level, str) else None for level in rows.values("level", start=start)]
    return signs([str(state) for state in rows.values("state", start=start)], levels).astype(np.float64)


def ratios(kind: str, rows: Rows, start: int) -> list[NDArray[np.float64]]:
    """Return steps and stability ratios: measured, or followed in between by the forecasts.

    Args:
        kind: Kind of the records; of others there are none.
        rows: All records of the kind.
        start: Records before this place are left out.

    Returns:
        Nothing, or an array of shape (2, n): steps, and ratios, NaN where a forecast says that none is known.
    """
    if kind not in ("forecast", "curvature"):
        return []
    found = np.stack([rows.numbers_or_nan(name, start=start) for name in ("step", "stability_ratio")])
    if kind == "forecast":
        values = (rows.values(name, start=start) for name in ("measured", "state"))
        rows_of = zip(found[0].tolist(), *values, strict=True)
        said = [(is_blank({"step": s, "measured": at, "state": now}), at, now) for s, at, now in rows_of]
        blank = np.array([one[0] for one in said], dtype=np.bool_)
        known = np.array([at is not None and now != "unknown" for _, at, now in said], dtype=np.bool_)
        found[1, blank] = np.nan  # a line must not bridge what was not known
        found = found[:, known | blank]
    return [found] if found.size else []
