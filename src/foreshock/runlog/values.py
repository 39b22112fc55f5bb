"""Values of a log as numbers, whoever wrote it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from foreshock.runlog.numbers import as_number
from foreshock.runlog.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


_FRESH = 50  # steps after a measurement: of one so new a forecast may wait for more, and the ratio is known


class Recorded(Protocol):
    """What these functions need of a `foreshock.runlog.Run`."""

    @property
    def records(self) -> Mapping[str, Sequence[dict[str, Any]]]:
        """Records by kind."""

    def steps(self, kind: str) -> NDArray[np.int64]:
        """Return the steps of all records of a kind."""

    def column(self, kind: str, name: str) -> NDArray[np.float64]:
        """Return one field of all records of a kind."""


def numbers(run: Recorded, kind: str, name: str) -> NDArray[np.float64]:
    """Return one field of all records of a kind, shape (n,), NaN where it is missing or no number.

    Args:
        run: A run as read from its log.
        kind: Kind of the records.
        name: Name of the field; the reader need not have checked it.
    """
    rows = run.records.get(kind, [])
    if isinstance(rows, Rows):
        return rows.numbers_or_nan(name)
    return np.array([as_number(row.get(name)) for row in rows], dtype=np.float64)


def texts(run: Recorded, kind: str, name: str) -> list[str | None]:
    """Return one field of all records of a kind, None where it is missing or no text.

    Args:
        run: A run as read from its log.
        kind: Kind of the records.
        name: Name of the field.
    """
    rows = run.records.get(kind, [])
    found = rows.values(name) if isinstance(rows, Rows) else [row.get(name) for row in rows]
    return [one if isinstance(one, str) else None for one in found]


def recorded_losses(run: Recorded) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the steps whose loss was recorded and these losses, each of shape (n,).

    A loss that is null was not measured and is left out; one that is NaN was, and stays. Of two
    records of the same step the later counts.

    Args:
        run: A run as read from its log.
    """
    rows = run.records.get("step", [])
    steps, losses = run.steps("step"), run.column("step", "loss")
    kept = np.isfinite(losses)
    kept[[i for i in np.flatnonzero(~kept).tolist() if rows[i].get("loss") is not None]] = True
    steps, losses = steps[kept], losses[kept]
    order = np.argsort(steps, kind="stable")
    steps, losses = steps[order], losses[order]
    last = np.append(steps[1:] != steps[:-1], np.ones(min(len(steps), 1), dtype=np.bool_))
    return steps[last], losses[last]


def is_blank(row: Mapping[str, Any]) -> bool:
    """Return whether a forecast says that the ratio is not known: what was measured is too old, or nothing.

    Of a forecast that waits for more readings the last one is fresh, and known.

    Args:
        row: A record of kind forecast.
    """
    if row.get("state") != "unknown":
        return False
    measured = as_number(row.get("measured"))
    return not row["step"] - measured <= _FRESH


def drawn_ratios(run: Recorded) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return what `ratios_of` does, with NaN where the ratio was not known: a line must not bridge it.

    Args:
        run: A run as read from its log.
    """
    known = dict.fromkeys((row["step"] for row in run.records.get("forecast", []) if is_blank(row)), math.nan)
    known |= dict(zip(*(column.tolist() for column in ratios_of(run)), strict=True))
    steps = sorted(known)
    return np.array(steps, dtype=np.int64), np.array([known[step] for step in steps], dtype=np.float64)


def ratios_of(run: Recorded) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return steps and stability ratios, measured or followed in between, each of shape (n,).

    Args:
        run: A run as read from its log. Older logs have measurements alone.
    """
    known = {
        row["step"]: as_number(row.get("stability_ratio"))
        for row in run.records.get("forecast", [])
        if row.get("measured") is not None and row.get("state") != "unknown"
    }
    known |= {row["step"]: as_number(row.get("stability_ratio")) for row in run.records.get("curvature", [])}
    steps = sorted(known)
    return np.array(steps, dtype=np.int64), np.array([known[step] for step in steps], dtype=np.float64)
