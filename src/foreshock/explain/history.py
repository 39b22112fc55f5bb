"""A run as arrays, with questions that the tests of causes ask of it."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from foreshock.runlog.numbers import as_number
from foreshock.runlog.values import numbers, ratios_of, texts
from foreshock.spikes.calm import SIGMA

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from foreshock.runlog import Run

USUAL = 50
"""Steps that set what is usual before an event."""
_FEWEST = 10


@dataclass(frozen=True)
class Usual:
    """What a quantity was over the calm steps before one.

    Attributes:
        median: Its median.
        highest: Its largest value.
        spread: 1.48 × the median of absolute deviations from the median: σ for a normal distribution.
    """

    median: float
    highest: float
    spread: float


class History:
    """The records of one run, by step.

    Args:
        run: A run as read from its log.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.steps = run.steps("step")
        names = ("loss", "gradient_norm", "learning_rate", "batch_size", "batch_elements")
        self.loss, self.norm, self.rate, self.size, self.elements = (
            numbers(run, "step", name) for name in names
        )
        self.lag, self.exponent, self.moment = (
            numbers(run, "step", name) for name in ("instant_lag", "decay_exponent", "second_moment")
        )
        # Where it was not logged: v_t = β₂v_{t−1} + (1−β₂)g² makes it 1 − g²/v, to first order.
        with np.errstate(all="ignore"):
            followed = 1 - 1 / self.lag
        unknown = np.isnan(self.exponent) & np.isfinite(followed)
        self.exponent = np.where(unknown, followed, self.exponent)
        # The reader maps words to floats, so that an infinite loss is one; a null is unknown.
        self.ratio_steps, self.ratios = ratios_of(run)
        self._steps_of: dict[str, NDArray[np.int64]] = {}
        self.growth = [row for row in run.records.get("growth", []) if "since" in row]
        self.growth_steps = np.array([row["step"] for row in self.growth], dtype=np.int64)
        changes = [*run.records.get("change", []), *self._resumes()]
        self.changes: dict[str, list[Mapping[str, Any]]] = {}
        for row in sorted(changes, key=lambda row: int(row["step"])):
            self.changes.setdefault(str(row.get("what")), []).append(row)
        self.typical_ratios = numbers(run, "forecast", "typical_mean_square_ratio")
        self.states, self.levels = (texts(run, "forecast", name) for name in ("state", "level"))
        self.gradient_ratios = numbers(run, "curvature", "gradient_stability_ratio")
        events = run.records.get("event", [])
        self.failed_probe = next((row for row in reversed(events) if row.get("name") == "probe failed"), None)
        self.noisy = bool(run.records.get("noise"))
        self.guarded = bool(run.records.get("guard")) or bool(run.meta.get("guard"))

    def _resumes(self) -> list[dict[str, Any]]:
        """Return the resumes that no monitor wrote down, because its own state was not loaded."""
        recorded = {row["step"] for row in self.run.records.get("change", []) if row.get("what") == "resume"}
        found = []
        for step in self.run.resumed:
            at = int(np.searchsorted(self.steps, step))
            if step in recorded or not 0 < at < len(self.steps):
                continue
            signals = {"instant_lag": self.lag, "second_moment": self.moment, "learning_rate": self.rate}
            before, after = (
                {name: float(values[i]) for name, values in signals.items()} for i in (at - 1, at)
            )
            first = int(self.steps[at])
            found.append({"step": first, "what": "resume", "before": before, "after": after})
        return found

    def at(self, step: int) -> int:
        """Return the index of a step, or of the first one after it.

        Args:
            step: Step number.
        """
        return int(np.searchsorted(self.steps, step))

    def usual(self, values: NDArray[np.float64], at: int, *, skip: int = 0) -> Usual | None:
        """Return what a quantity was over the fifty steps before an index; None if too little is known.

        Args:
            values: The quantity at each step.
            at: Index.
            skip: So many steps right before it are left out.
        """
        end = max(at - skip, 0)
        before = values[max(end - USUAL, 0) : end]
        before = before[np.isfinite(before)]
        if before.size < _FEWEST:
            return None
        median = float(np.median(before))
        spread = SIGMA * float(np.median(np.abs(before - median)))
        return Usual(median, float(before.max()), spread)

    def changes_near(self, what: str, first: int, last: int) -> list[Mapping[str, Any]]:
        """Return the changes of a type in a range of steps, both ends included.

        Args:
            what: As in ``foreshock.monitor.changes.Change``.
            first: First step.
            last: Last step.
        """
        rows = self.changes.get(what, [])
        begin = bisect_left(rows, first, key=_step_of)
        return rows[begin : bisect_right(rows, last, key=_step_of)]

    def same_data(self, step: int) -> bool:
        """Return whether a step saw the batch of the step before, as the log says; False if it doesn't say.

        Args:
            step: Step number.
        """
        rows = self.changes_near("data", 0, step)
        after = rows[-1].get("after") if rows else None
        if not (isinstance(after, Mapping) and after.get("same") is True):
            return False
        # Another process begins without a step before.
        return not self.changes_near("resume", _step_of(rows[-1]) + 1, step)

    def rows(self, kind: str, first: int, last: int) -> list[dict[str, Any]]:
        """Return the records of a kind in a range of steps, both ends included.

        Args:
            kind: Kind of the records.
            first: First step.
            last: Last step.
        """
        steps = self.steps_of(kind)
        begin, end = int(np.searchsorted(steps, first)), int(np.searchsorted(steps, last, side="right"))
        rows: Sequence[dict[str, Any]] = self.run.records.get(kind, [])
        return list(rows[begin:end])

    def steps_of(self, kind: str) -> NDArray[np.int64]:
        """Return the steps of all records of a kind, in order.

        Args:
            kind: Kind of the records.
        """
        if kind not in self._steps_of:
            self._steps_of[kind] = self.run.steps(kind)
        return self._steps_of[kind]

    def ratio_before(self, step: int, oldest: int) -> tuple[int, float] | None:
        """Return the last stability ratio at or before a step, with its step; None if there is none.

        Args:
            step: Step number.
            oldest: First step that counts.
        """
        end = int(np.searchsorted(self.ratio_steps, step, side="right"))
        for i in reversed(range(end)):
            if self.ratio_steps[i] < oldest:
                return None
            if math.isfinite(self.ratios[i]):
                return int(self.ratio_steps[i]), float(self.ratios[i])
        return None


def _step_of(row: Mapping[str, Any]) -> int:
    return int(row["step"])


def middle(values: NDArray[np.float64]) -> float:
    """Return the median of what is finite; NaN if nothing is.

    Args:
        values: Any numbers.
    """
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else math.nan


def quotient(one: float, other: float) -> float:
    """Return a quotient of two floats; NaN over zero, or where it is too large for a float.

    Args:
        one: The numerator.
        other: The denominator.
    """
    try:
        return float(one) / float(other)
    except (ZeroDivisionError, OverflowError):
        return math.nan


def logarithm(value: float) -> float:
    """Return the natural logarithm; NaN for what has none.

    Args:
        value: Any float.
    """
    return math.log(value) if 0 < value < math.inf else math.nan


def number_of(row: Mapping[str, Any], group: str, name: str) -> float:
    """Return a number of a record that holds mappings; NaN for what is none.

    Args:
        row: The record.
        group: ``"before"`` or ``"after"``, for instance.
        name: Name inside of it.
    """
    held = row.get(group)
    return as_number(held.get(name)) if isinstance(held, Mapping) else math.nan
