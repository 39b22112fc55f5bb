"""The table of all tensors at one step: where v and g² differ, what moves most, what has grown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from foreshock.representation import short_line, short_repr
from foreshock.runlog.numbers import as_number

Measure = Literal["share", "update_rms", "relative_update", "burst", "lag", "norm_growth", "gradient_norm"]

_KEPT = 25  # rows of a log's table by each measure: a record of some kilobytes, however deep the model is


@dataclass(frozen=True)
class TensorRow:
    """One parameter tensor at the update about to be taken; NaN for what is unknown.

    Attributes:
        name: Its name in the model.
        size: Number of coordinates.
        gradient_norm: ‖g‖.
        update_rms: Root of the mean of Δθ².
        relative_update: ‖Δθ‖/‖θ‖.
        lag: Σv̂/Σg², with ε in √v̂. Far above one: g² ≪ v, v is blind to the gradient and decays.
        burst: Root of the mean of g²/v̂. Above about two: g² ≫ v, v has not noticed the gradient yet.
        share: Share of the top eigenvector that was measured last; the shares of all tensors add up to one.
        norm: ‖θ‖.
        norm_growth: ‖θ‖ over what it was at the step that the table names.
        lost: Share of the coordinates that rounding leaves where they are although their update is not zero;
            known of half-precision parameters.
        non_finite: What of it is NaN or infinite: ``"weight"``, ``"second moment"`` or ``"gradient"``; empty
            if nothing is.
    """

    name: str
    size: int
    gradient_norm: float = math.nan
    update_rms: float = math.nan
    relative_update: float = math.nan
    lag: float = math.nan
    burst: float = math.nan
    share: float = math.nan
    norm: float = math.nan
    norm_growth: float = math.nan
    lost: float = math.nan
    non_finite: str = ""

    __repr__ = short_repr


@dataclass(frozen=True)
class TensorTable:
    """All tensors of a model at one step.

    Attributes:
        step: The step.
        reason: Why it was made: ``"alarm"``, ``"spike"``, ``"non-finite"`` or ``"asked"``.
        rows: The tensors, those with the largest shares of the top eigenvector first, then by update.
        since: Step whose norms `norm_growth` compares with; None if there is none.
        left_out: Number of tensors that a log leaves out: those that come first by no measure.

    Example:
        >>> rows = [TensorRow("a", 10, burst=0.8), TensorRow("b", 10, burst=7.0)]
        >>> TensorTable(40, "asked", tuple(rows)).by("burst")[0].name
        'b'
    """

    step: int
    reason: str
    rows: tuple[TensorRow, ...]
    since: int | None = None
    left_out: int = 0

    __repr__ = short_repr

    def by(self, measure: Measure) -> tuple[TensorRow, ...]:
        """Return the rows in the order of a measure, the largest first; what is unknown comes last.

        Args:
            measure: Name of a field of `TensorRow` that holds numbers.

        Raises:
            ValueError: If there is no such measure.
        """
        if measure not in get_args(Measure):
            raise ValueError(f"measure is {measure!r}; it must be one of {', '.join(get_args(Measure))}")
        return ordered(self.rows, measure)

    def shortened(self) -> TensorTable:
        """Return the table without the rows that come first by no measure, as a log keeps it."""
        kept = {row.name for measure in get_args(Measure) for row in self.by(measure)[:_KEPT]}
        kept |= {row.name for row in [row for row in self.rows if row.non_finite][:_KEPT]}
        rows = tuple(row for row in self.rows if row.name in kept)
        return TensorTable(self.step, self.reason, rows, self.since, len(self.rows) - len(rows))

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> TensorTable:
        """Return a table as it was logged.

        Args:
            record: A record of kind tensors, written by anybody.
        """
        listed: Any = record.get("rows")
        rows = [row for row in listed if isinstance(row, Mapping)] if isinstance(listed, list) else []
        since, left_out = as_number(record.get("since")), as_number(record.get("left_out"))
        return cls(
            step=int(record["step"]),
            reason=short_line(str(record.get("reason") or "")),
            rows=tuple(map(_row, rows)),
            since=int(since) if 0 <= since < 2**53 else None,
            left_out=int(left_out) if 0 <= left_out < 2**53 else 0,
        )


def ordered(rows: Iterable[TensorRow], measure: Measure) -> tuple[TensorRow, ...]:
    """Return rows in the order of a measure, the largest first, those where it is unknown last.

    Args:
        rows: The rows.
        measure: Name of the measure.
    """

    def key(row: TensorRow) -> tuple[bool, float]:
        value = getattr(row, measure)
        return math.isnan(value), -value if not math.isnan(value) else 0.0

    return tuple(sorted(rows, key=key))


def make_table(step: int, reason: str, rows: Sequence[TensorRow], *, since: int | None) -> TensorTable:
    """Return a table in its order: by the share of the top eigenvector where known, else by update.

    Args:
        step: The step.
        reason: Why it is made.
        rows: The tensors, in any order.
        since: Step whose norms growth is compared with.
    """
    known = any(row.share > 0 for row in rows)
    return TensorTable(step, reason, ordered(rows, "share" if known else "relative_update"), since)


def _row(row: Mapping[str, Any]) -> TensorRow:
    names = ("gradient_norm", "update_rms", "relative_update", "lag", "burst", "share", "norm", "norm_growth")
    numbers = {name: as_number(row.get(name)) for name in (*names, "lost")}
    size = as_number(row.get("size"))
    return TensorRow(
        name=short_line(str(row.get("name") or "")),
        size=int(size) if 0 <= size < 2**53 else 0,
        non_finite=short_line(str(row.get("non_finite") or "")),
        **numbers,
    )
