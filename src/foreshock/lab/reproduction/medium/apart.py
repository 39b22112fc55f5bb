"""A spike of a long training, taken apart: what made λ_max(Ĥ) rise, and whether it comes with v frozen."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreshock.lab.reproduction.frozen import point_of, split_growth
from foreshock.lab.reproduction.medium.longrun import BACK, KEEP_EVERY, Columns, LongRun
from foreshock.lab.reproduction.spikemap.course import Begin, displaced, floor_v, freeze_v
from foreshock.lab.reproduction.spikemap.readings import MARGIN, lowest_to_highest
from foreshock.lab.spikebench.windows import trailing_mean
from foreshock.lab.tasks.task import Batch

FACTOR = 3.0
"""A spike is a loss above this multiple of the median."""
_LOOK_BACK = 100
_WATCHED = 50  # steps before and after the onset in which a branch's spike counts as the same one
_DEFAULT_START = 40  # steps before the onset at which branches begin where λ_max(Ĥ) did not rise

BRANCHES: dict[str, Begin] = {"displaced": displaced, "frozen": freeze_v, "floor": floor_v}
"""The branches: the control, v as it is where the rise begins, and v ≥ g²."""


@dataclass(frozen=True)
class Scene:
    """A spike and what is at hand of the steps before.

    Attributes:
        run: The training.
        probe: The fixed batch.
        columns: What was measured.
        level: Median of the losses before.
    """

    run: LongRun
    probe: Batch
    columns: Columns
    level: float


def take_apart(scene: Scene, onset: int) -> dict[str, float]:
    """Split the last rise of ln λ_max(Ĥ) before a spike, and leave the course in branches.

    Args:
        scene: What is at hand.
        onset: First step of the spike.

    Returns:
        ``onset``; ``low`` and ``high``, the steps of the rise, its ``total`` and its parts, if there was one;
        and the peak of each of `BRANCHES`, in multiples of the level.
    """
    found: dict[str, float] = {"onset": float(onset), "level": scene.level}
    rise = _rise(scene, onset)
    if rise is not None:
        found |= {"low": float(rise[0]), "high": float(rise[1])}
        with contextlib.suppress(FloatingPointError):  # a product overflowed: there is nothing to divide
            found |= _parts(scene, rise)
    start = rise[0] if rise is not None else (onset - _DEFAULT_START) // KEEP_EVERY * KEEP_EVERY
    if start in scene.run.states:
        found["fork"] = float(start)
        for name, begin in BRANCHES.items():
            found[name] = _peak(scene, start, onset, begin)
    return found


def _rise(scene: Scene, onset: int) -> tuple[int, int] | None:
    points = [
        (step, ratio)
        for step, ratio in scene.columns.get("stability_ratio", [])
        if onset - min(_LOOK_BACK, BACK) <= step <= onset - MARGIN and step in scene.run.states
    ]
    return lowest_to_highest([step for step, _ in points], [ratio for _, ratio in points])


def _parts(scene: Scene, rise: tuple[int, int]) -> dict[str, float]:
    run = scene.run
    then = point_of(run.moment(run.states[rise[0]]))
    moment = run.moment(run.states[rise[1]])
    growth = split_growth(moment, scene.probe, then, point_of(moment))
    return {} if growth is None else growth.parts()


def _peak(scene: Scene, start: int, onset: int, begin: Begin) -> float:
    """Return the highest mean of five losses of a branch around the onset, in multiples of the level."""
    losses = scene.run.branch(scene.run.states[start], begin, steps=onset + _WATCHED - start)
    smooth = smoothed(losses)
    near = smooth[max(onset - _WATCHED - start, 0) :]
    return float(near.max()) / scene.level if near.size and np.isfinite(near).all() else math.inf


def smoothed(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of each loss and the four before."""
    return trailing_mean(losses, 5)
