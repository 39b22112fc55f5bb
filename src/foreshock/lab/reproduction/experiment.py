"""What an experiment is: settings at two scales, a run function, claims and pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foreshock.lab.reproduction.claims import Claim

OnStep = Callable[[int, int], None]
"""Called with the steps done and the steps of the part in progress."""


@dataclass(frozen=True)
class Outcome:
    """What one seed of an experiment came out as.

    Attributes:
        measured: The quantities of the claims, by name, and others worth telling; NaN where there was
            nothing to measure.
        notes: What a reader must know of this run, such as which data stood in for others.
    """

    measured: Mapping[str, float]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Experiment:
    """One experiment of the paper.

    Attributes:
        name: Its name on the command line.
        title: What it is, in a few words.
        setup: The set-up in words, gaps in the paper's description included.
        scales: A frozen configuration for each of "cpu" and "paper".
        run: Runs one seed in a folder, which is empty, and returns what was measured.
        claims: What is judged.
        draw: Draws pictures of a folder of one seed into a folder, and returns their files.
        figures: Captions of these pictures, by file name.
    """

    name: str
    title: str
    setup: str
    scales: Mapping[str, Any]
    run: Callable[[Any, int, Path, OnStep], Outcome]
    claims: Sequence[Claim]
    draw: Callable[[Path, Path], list[Path]]
    figures: Mapping[str, str]
