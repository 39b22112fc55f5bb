r"""Copies of branches → what one spike does, where that is more than chance.

An effect is the mean of ln x over the copies with the spike, less the mean over those without: x the training
loss, a validation loss or λ_max(H). Two copies of one branch differ too, since what follows is chaotic. An
effect counts only if it is larger than

- the largest difference between two copies of either branch,
- the difference that nine in ten pairs of copies with the spike stay below, among all forks of that kind of
  task (two copies may agree by chance), and
- 5 %.

Of normal noise and two copies one effect in fifty or less counts though there is none.

============ ==================================================================================
catastrophic in every copy with the spike the loss is not finite, or at the end still above the level before
             by more than half of the spike's rise
malignant    with the spike the early-stopped validation loss is higher; or it is not lower, and the training
             loss is higher
benign       with the spike the early-stopped validation loss is lower; or it is not higher, and the training
             loss is lower
neutral      neither counts
============ ==================================================================================

`foreshock.explain` has the same four words for a log, which lacks the run without the spike.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foreshock.lab.reproduction.spikeforks.branches import PREVENTIONS
from foreshock.lab.reproduction.spikemap.outcomes import Outcome

Fork = Mapping[str, Any]
"""One fork: what `measure_fork` found, with the settings and the seed of its training."""
MARGIN = math.log(1.05)
_PART = 0.9
# What is infinite, or was none, counts as a factor of a thousand where means are taken.
_MOST = math.log(1000)

Floors = Mapping[tuple[str, str], float]
"""By kind of task and measure: what nine in ten pairs of copies with the spike differ by at most."""


@dataclass(frozen=True)
class Effect:
    """What a spike does to one measure.

    Attributes:
        size: Mean logarithm with the spike less that without; NaN if unknown.
        noise: What it must pass to count.
    """

    size: float
    noise: float

    @property
    def counts(self) -> bool:
        """Whether it is more than chance."""
        return abs(self.size) > self.noise

    @property
    def sign(self) -> int:
        """1 if the spike raises the measure, −1 if it lowers it, 0 if that is no more than chance."""
        return int(math.copysign(1, self.size)) if self.counts else 0


def prevention(fork: Fork) -> str | None:
    """Return what a fork is compared with: the guard, or half the rate where that fails; None if both do.

    Args:
        fork: A fork.
    """
    return next((way for way in PREVENTIONS if way in fork["copies"]), None)


def values(fork: Fork, way: str, measure: str, *, against: str) -> list[float]:
    """Return a measure of all copies of a branch.

    Args:
        fork: A fork.
        way: The branch.
        measure: A name in `MEASURES`.
        against: The prevention at whose level ``equal`` is taken.
    """
    name = f"{measure} {against}" if measure == "equal" else measure
    return [copy[name] for copy in fork["copies"].get(way, ())]


def noise_floors(forks: Sequence[Fork], measures: Iterable[str]) -> dict[tuple[str, str], float]:
    """Return what nine in ten pairs of copies with the spike differ by at most, by kind and measure.

    Args:
        forks: All forks.
        measures: The measures.
    """
    found: dict[tuple[str, str], float] = {}
    for measure in measures:
        for kind in dict.fromkeys(fork["kind"] for fork in forks):
            apart = [
                gap
                for fork in forks
                if fork["kind"] == kind and (way := prevention(fork)) is not None
                for gap in _gaps(values(fork, "pass", measure, against=way))
            ]
            found[kind, measure] = float(np.quantile(apart, _PART)) if apart else math.nan
    return found


def _gaps(numbers: Sequence[float]) -> list[float]:
    """Return the differences of all pairs; two that are infinite do not differ."""
    pairs = itertools.combinations((max(min(number, 1e3), -1e3) for number in numbers), 2)
    return [abs(one - other) for one, other in pairs if not math.isnan(one - other)]


def effect(fork: Fork, measure: str, floors: Floors, *, against: str) -> Effect:
    """Return what a spike does to a measure, against a branch in which it is prevented.

    Args:
        fork: A fork that has this branch.
        measure: A name in `MEASURES`.
        floors: What `noise_floors` found.
        against: The prevention: ``guard`` or ``rate``.
    """
    own, others = (values(fork, way, measure, against=against) for way in ("pass", against))
    gaps = [*_gaps(own), *_gaps(others), floors[fork["kind"], measure], MARGIN]
    noise = max(gap for gap in gaps if not math.isnan(gap))
    with np.errstate(invalid="ignore"):
        size = float(np.mean(own) - np.mean(others)) if own and others else math.nan
    return Effect(capped(size), noise)


def capped(size: float) -> float:
    """Return a logarithm that is no more than that of a thousand either way; NaN stays."""
    return size if math.isnan(size) else max(min(size, _MOST), -_MOST)


def outcome(fork: Fork, floors: Floors, *, against: str) -> Outcome:
    """Return what a spike did, in one of the four words.

    Args:
        fork: A fork that has the branch.
        floors: What `noise_floors` found.
        against: The prevention.
    """
    if fork["stayed"] == len(fork["copies"]["pass"]):
        return "catastrophic"
    validation = effect(fork, "best", floors, against=against)
    training = effect(fork, "loss", floors, against=against)
    sign = validation.sign or training.sign
    return ("neutral", "malignant", "benign")[sign]
