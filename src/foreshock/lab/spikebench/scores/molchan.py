r"""Spikes that an alarm misses against the time that it is on: the Molchan curve of a score.

At each threshold the alarm is on while the score is at or above it. Then τ is the share of steps, outside
spikes, at which it is on, and ν the share of spikes before which it was not on in the last 50 steps. A score
that knows nothing lies near the line ν = 1 − τ, and the area skill is

.. math:: 1 - 2 \int_0^1 ν \, dτ,

one for a score that is on just before spikes alone, zero for an alarm that is on or off for whole runs. An
alarm that flickers does better than the line although it knows nothing, because it need be on only once in 50
steps; how much better is found by shifting the scores of each run against its spikes (`shifted`).
(G. M. Molchan, "Strategies in strong earthquake prediction", 1990.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreshock.lab.spikebench.scores.held import Held

Floats = NDArray[np.float64]

SHARES = (0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6,
          0.7, 0.8, 0.9, 1.0)  # fmt: skip
"""Shares of time in alarm at which a curve is kept."""
_SHIFTS = 8


@dataclass(frozen=True)
class MolchanCurve:
    """A Molchan curve, from no alarm at all to one that is always on.

    Attributes:
        alarm_share: τ, not decreasing from 0 to 1, shape (n,).
        missed: ν at each, not increasing from 1 to 0, shape (n,).
    """

    alarm_share: Floats
    missed: Floats

    @property
    def area_skill(self) -> float:
        """One less twice the area below the curve."""
        width = np.diff(self.alarm_share)
        return float(1 - (width * (self.missed[1:] + self.missed[:-1])).sum())

    def missed_at(self, share: float) -> float:
        """Return the share of spikes missed with no more than this share of time in alarm.

        Args:
            share: τ, in [0, 1].
        """
        return float(self.missed[np.searchsorted(self.alarm_share, share, side="right") - 1])

    def share_at(self, recall: float) -> float:
        """Return the least share of time in alarm that catches this share of spikes.

        Args:
            recall: 1 − ν, in [0, 1].
        """
        return float(self.alarm_share[np.flatnonzero(self.missed <= 1 - recall + 1e-9)[0]])


def molchan_curve(scores: Floats, highest: Floats) -> MolchanCurve | None:
    """Return the curve of a score; None without spikes or without steps.

    Args:
        scores: At each step outside spikes, shape (n,); NaN is no alarm at any threshold but the lowest.
        highest: Before each spike, the highest in the 50 steps before it, shape (m,).

    Example:
        >>> curve = molchan_curve(np.array([0.0, 0.1, 0.2, 0.9]), np.array([0.9, 0.1]))
        >>> curve.missed_at(0.25), curve.share_at(1.0)
        (0.5, 0.75)
    """
    if not scores.size or not highest.size:
        return None
    ordered = np.sort(_without_nan(scores))
    reached = _without_nan(highest)
    levels, counts = np.unique(reached, return_counts=True)
    levels, caught = levels[::-1], np.cumsum(counts[::-1]) / reached.size
    above = 1 - np.searchsorted(ordered, levels, side="right") / ordered.size
    at = 1 - np.searchsorted(ordered, levels, side="left") / ordered.size
    before = np.concatenate(([0.0], caught[:-1]))
    share = np.stack([above, at], axis=1).ravel()
    missed = 1 - np.stack([before, caught], axis=1).ravel()
    return MolchanCurve(np.concatenate(([0.0], share, [1.0])), np.concatenate(([1.0], missed, [0.0])))


def curve_of(runs: Sequence[Held], *, tall: bool = False, early: bool = False) -> MolchanCurve | None:
    """Return the curve of the scores of several runs, each spike counting alike.

    Args:
        runs: The runs.
        tall: Whether only spikes of 8× and more are asked for.
        early: Whether an alarm in the last ten steps before a spike is too late.
    """
    if not runs:
        return None
    scores = np.concatenate([run.score[run.counted] for run in runs])
    reached = [run.highest_early if early else run.highest for run in runs]
    highest = np.concatenate([one[run.tall] if tall else one for one, run in zip(reached, runs, strict=True)])
    return molchan_curve(scores, highest)


def shifted(runs: Sequence[Held], *, early: bool = False) -> list[MolchanCurve]:
    """Return the curves of the same scores at wrong times: each run's are rotated against its spikes.

    Args:
        runs: The runs.
        early: As for `curve_of`.
    """
    found = []
    for k in range(1, _SHIFTS + 1):
        curve = curve_of([_rotated(run, k / (_SHIFTS + 1)) for run in runs], early=early)
        if curve is not None:
            found.append(curve)
    return found


def _rotated(run: Held, part: float) -> Held:
    score = run.score.copy()
    score[run.outside] = np.roll(score[run.outside], round(part * int(run.outside.sum())))
    return dataclasses.replace(run, score=score)


def _without_nan(values: Floats) -> Floats:
    return np.where(np.isnan(values), -np.inf, values)
