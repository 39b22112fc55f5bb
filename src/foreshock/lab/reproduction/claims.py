"""What the paper claims, by which number each claim is judged, and the verdict.

The numbers that a claim must reach are part of its record. A change of them asks for seeds that were not run
before; the page says which were.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Verdict(StrEnum):
    """What a claim came out as."""

    CONFIRMED = "confirmed"
    LIMITED = "confirmed with limits"
    REFUTED = "not confirmed"
    UNDECIDED = "not decided"


@dataclass(frozen=True)
class Claim:
    """One claim of the paper.

    Attributes:
        name: Key of the quantity among what an experiment measures.
        statement: The claim, in one sentence.
        quantity: What is measured, in words.
        bound: Whether the quantity must be "at least" or "at most" the bar.
        bar: What every seed must reach for "confirmed".
        weak_bar: What the median over seeds must reach for "confirmed with limits"; no stricter than `bar`.

    Raises:
        ValueError: If `weak_bar` is stricter than `bar`, or one of them is NaN.

    Example:
        >>> claim = Claim("share", "Most do.", "share that do", "at least", 0.9, 0.5)
        >>> [claim.judge(values).value for values in ([1.0, 0.95], [1.0, 0.6], [0.1, 0.2], [math.nan])]
        ['confirmed', 'confirmed with limits', 'not confirmed', 'not decided']
    """

    name: str
    statement: str
    quantity: str
    bound: Literal["at least", "at most"]
    bar: float
    weak_bar: float

    def __post_init__(self) -> None:
        """Check that the weak bar is the weaker one."""
        if not self._reaches(self.bar, self.weak_bar):
            raise ValueError(
                f"weak_bar is {self.weak_bar!r}, bar {self.bar!r}; with bound {self.bound!r} the weak bar "
                "must not be the stricter one"
            )

    @property
    def criterion(self) -> str:
        """The criterion in words."""
        return (
            f"{self.quantity}: {self.bound} {self.bar:g} in every seed; with limits: {self.weak_bar:g} in "
            "the median"
        )

    def judge(self, values: Sequence[float]) -> Verdict:
        """Return the verdict on one value a seed; a seed where there was nothing to measure has NaN.

        With fewer than half of the seeds there is no verdict.

        Args:
            values: The quantity, one for each seed.
        """
        known = [value for value in values if not math.isnan(value)]
        if not known or 2 * len(known) < len(values):
            return Verdict.UNDECIDED
        if len(known) == len(values) and all(self._reaches(value, self.bar) for value in known):
            return Verdict.CONFIRMED
        limited = self._reaches(statistics.median(known), self.weak_bar)
        return Verdict.LIMITED if limited else Verdict.REFUTED

    def _reaches(self, value: float, bar: float) -> bool:
        return value >= bar if self.bound == "at least" else value <= bar
