"""A score of one run and what followed it, at every step: a forecast holds until the next one."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshock.lab.spikebench.scores.tally import EARLY
from foreshock.lab.spikebench.spikes import HORIZON, TALL, WINDOW, Truth
from foreshock.lab.spikebench.trace import Column

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Held:
    """One run.

    Attributes:
        meta: Of the run.
        score: What rises towards a spike, at each step, shape (steps,); NaN where unknown.
        alarm: Whether an alarm is on, shape (steps,).
        outside: Whether no spike is going on, shape (steps,).
        soon: Whether a spike begins within the next 50 steps, shape (steps,).
        onsets: First steps of the spikes, shape (spikes,).
        heights: Their heights, shape (spikes,).
        cost: What the score costs, in forward and backward passes a step.
    """

    meta: Mapping[str, Any]
    score: Floats
    alarm: Bools
    outside: Bools
    soon: Bools
    onsets: NDArray[np.int64]
    heights: Floats
    cost: float = 0.0

    @functools.cached_property
    def counted(self) -> Bools:
        """Steps at which time in alarm counts: outside spikes, and not before a spike could be seen."""
        return self.outside & (np.arange(self.score.size) >= WINDOW)

    @functools.cached_property
    def asked(self) -> Bools:
        """Those at which it is known whether a spike begins within 50 steps."""
        return self.counted & (self.soon | (np.arange(self.score.size) + HORIZON < self.score.size))

    @property
    def tall(self) -> Bools:
        """Which spikes are of 8× and more, shape (spikes,)."""
        return self.heights >= TALL

    @property
    def calm(self) -> bool:
        """Whether the run is a control, and indeed has no spike."""
        return self.meta["role"] == "control" and not self.onsets.size

    @property
    def group(self) -> str:
        """``language`` for what is like a language model; else ``full`` batch or ``mini``-batch."""
        return "language" if self.meta["language"] else str(self.meta["kind"])

    @functools.cached_property
    def highest(self) -> Floats:
        """The highest score in the 50 steps before each spike; −∞ if there is none, shape (spikes,)."""
        return self._highest(0)

    @functools.cached_property
    def highest_early(self) -> Floats:
        """The same without the last ten steps, in which it is late to act, shape (spikes,)."""
        return self._highest(EARLY)

    @functools.cached_property
    def early(self) -> Bools:
        """Which spikes had an alarm on in the 50 steps before them, but the last ten, shape (spikes,)."""
        on = self.alarm & self.outside
        return np.array([on[self._window(int(onset), EARLY)].any() for onset in self.onsets], dtype=bool)

    @functools.cached_property
    def leads(self) -> Floats:
        """Steps from the start of the alarm that was on in the 50 before each spike; NaN without one."""
        found = np.full(self.onsets.size, np.nan)
        on = self.alarm & self.outside
        for i, onset in enumerate(self.onsets):
            window = self._window(int(onset))
            steps = window[on[window]]
            if steps.size:
                off = np.flatnonzero(~on[: steps[-1]])
                found[i] = onset - (off[-1] + 1 if off.size else 0)
        return found

    def _highest(self, late: int) -> Floats:
        found = np.full(self.onsets.size, -np.inf)
        for i, onset in enumerate(self.onsets):
            values = self.score[self._window(int(onset), late)]
            found[i] = np.max(values[~np.isnan(values)], initial=-np.inf)
        return found

    def _window(self, onset: int, late: int = 0) -> NDArray[np.int64]:
        first = max(0, onset - HORIZON)
        return first + np.flatnonzero(self.outside[first : max(0, onset - late)])


def held(truth: Truth, score: Column, alarm: Column | None = None, *, cost: float = 0.0) -> Held:
    """Return a score, and the alarms made of it, at every step of a run.

    Args:
        truth: The run and its spikes; spikes are those above 3×.
        score: The score, where it was made.
        alarm: One where an alarm was on and zero elsewhere; no alarm at all if left out.
        cost: Passes a step.
    """
    steps = np.arange(truth.trace.column("loss").steps.size)
    spikes = truth.spikes["3x"]
    outside, soon = np.ones(steps.size, dtype=bool), np.zeros(steps.size, dtype=bool)
    for spike in spikes:
        outside[spike.onset : spike.end + 1] = False
        soon[max(0, spike.onset - HORIZON) : spike.onset] = True
    on = np.zeros(steps.size, dtype=bool) if alarm is None else alarm.held(steps) == 1
    onsets = np.array([spike.onset for spike in spikes], dtype=np.int64)
    heights = np.array([spike.height for spike in spikes], dtype=np.float64)
    return Held(truth.trace.meta, score.held(steps), on, outside, soon, onsets, heights, cost)
