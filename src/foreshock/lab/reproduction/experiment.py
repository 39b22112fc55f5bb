"""What an experiment is: settings at two scales, a run function, claims with their criteria, figures.

The numbers that a claim must reach are part of its record. A change of them asks for seeds that were not run
before; the page says which were.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal


class Verdict(StrEnum):
    """The verdict on a claim."""

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


OnStep = Callable[[int, int], None]
"""Called with the steps done and the steps of the part in progress."""


@dataclass(frozen=True)
class Outcome:
    """The result of one seed of an experiment.

    Attributes:
        measured: The quantities of the claims, by name, and others worth reporting; NaN where there was
            nothing to measure.
        notes: What a reader must know about this run, such as which data were used instead of the paper's.
        seconds: Processor time, of all processes that had a part in it; None if it was this one alone.
    """

    measured: Mapping[str, float]
    notes: tuple[str, ...] = ()
    seconds: float | None = None


@dataclass(frozen=True)
class Experiment:
    """One experiment of the paper.

    Attributes:
        name: Its name on the command line.
        title: What it is, in a few words.
        setup: The set-up in words, gaps in the paper's description included.
        scales: A frozen configuration for each of "cpu" and "paper", or for "medium" alone.
        run: Runs one seed in a folder and returns what was measured.
        claims: What is judged.
        draw: Draws figures of a folder of one seed into a folder, and returns their files.
        figures: Captions of these figures, by file name.
        resumable: Whether `run` goes on from what an interrupted one left in the folder; otherwise it gets
            an empty one.
    """

    name: str
    title: str
    setup: str
    scales: Mapping[str, Any]
    run: Callable[[Any, int, Path, OnStep], Outcome]
    claims: Sequence[Claim]
    draw: Callable[[Path, Path], list[Path]]
    figures: Mapping[str, str]
    resumable: bool = False
