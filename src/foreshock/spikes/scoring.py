"""Announcements against spikes: which spikes were forecast, how early, and what was a false alarm.

A forecast *announces* a spike while its probability makes it an alarm, see `announcing`.
Announcements form episodes; a spike ends its episode, so that the next spike must be announced again. An
episode in which no spike starts is a false alarm, also when the curvature did cross the threshold in it –
unless a guard acted in it, or right after it: then nobody knows what would have come, and it was answered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from foreshock.spikes.detection import SpikeEvent
from foreshock.spikes.events import LossEvent

Event = TypeVar("Event", SpikeEvent, LossEvent)

_GAP = 20
ANNOUNCING = ("edge", "armed")
"""States of a forecast that announce an instability, where it has no level of alarm."""
_QUIET, _ANNOUNCES, _GOES_ON = 0, 1, 2  # by itself; the last says what the one before it did


@dataclass(frozen=True)
class Readings:
    """What was measured and announced at each probe, all of shape (n,).

    Attributes:
        steps: Steps of the probes, increasing.
        announces: Whether the forecast of that step announced an instability.
        stability_ratio: λ_max(Ĥ)·η/2.
        gradient_stability_ratio: Gradient-directional curvature ·η/2.
    """

    steps: NDArray[np.int64]
    announces: NDArray[np.bool_]
    stability_ratio: NDArray[np.float64]
    gradient_stability_ratio: NDArray[np.float64]


@dataclass(frozen=True)
class SpikeOutcome(Generic[Event]):
    """One spike and what was known before it.

    Attributes:
        spike: The spike, by either definition.
        announced: Step at which its episode of announcements began; None if it was missed.
        curvature_crossed: Step at which λ_max(Ĥ) passed 2/η for the last time before the peak; None
            if it was not above.
        gradient_crossed: The same for the gradient-directional curvature.
    """

    spike: Event
    announced: int | None
    curvature_crossed: int | None
    gradient_crossed: int | None

    @property
    def lead(self) -> int | None:
        """Steps from the announcement to the onset of the spike; None if it was missed."""
        return None if self.announced is None else self.spike.onset - self.announced


@dataclass(frozen=True)
class Episode:
    """An episode of announcements in which no spike started.

    Attributes:
        start: First announcing step.
        end: Last announcing step.
        crossed: Whether the stability ratio reached one in it: an instability without a spike.
        highest: Highest stability ratio in it.
    """

    start: int
    end: int
    crossed: bool
    highest: float


@dataclass(frozen=True)
class Score(Generic[Event]):
    """What came of the announcements of a run.

    Attributes:
        outcomes: All spikes with what was known before each, in order.
        false_alarms: Episodes in which no spike started and no guard acted, in order.
        answered: Episodes in which no spike started and a guard acted: inside, or within `gap` steps after.
    """

    outcomes: tuple[SpikeOutcome[Event], ...]
    false_alarms: tuple[Episode, ...]
    answered: tuple[Episode, ...] = ()


def announcing(states: Sequence[str], levels: Sequence[str | None] = ()) -> NDArray[np.bool_]:
    """Return whether a forecast announces, reading by reading: while it is an alarm.

    Logs of earlier versions have no levels; there a forecast announces while its state is edge or armed. A
    spike that begins does not withdraw its announcement: the state ``spike`` goes on with what was before.

    Args:
        states: States of consecutive forecasts, n of them.
        levels: Their levels of alarm, n of them; None where there is none. Empty for none at all.

    Returns:
        Shape (n,).

    Example:
        >>> announcing(["stable", "armed", "spike", "stable", "spike"]).tolist()
        [False, True, True, False, False]
    """
    return _held(signs(states, levels))


def signs(states: Sequence[str], levels: Sequence[str | None] = ()) -> NDArray[np.int8]:
    """Return what each forecast says by itself, for `announced_at`, shape (n,).

    Args:
        states: States of forecasts, n of them.
        levels: Their levels of alarm, as `announcing` takes them.
    """
    found = []
    for state, level in zip(states, levels or [None] * len(states), strict=True):
        alarm = state in ANNOUNCING if level is None else level == "alarm"
        found.append(_ANNOUNCES if alarm else _GOES_ON if state == "spike" else _QUIET)
    return np.array(found, dtype=np.int8)


def announced_at(
    onset: int, steps: NDArray[Any], said: NDArray[Any], *, after: float = -math.inf, gap: int = _GAP
) -> int | None:
    """Return the step at which the alarm began that was on before an event; None if it was missed.

    An alarm that was over more than `gap` steps before the onset, or before another one began, is not that
    alarm.

    Args:
        onset: First step of the event.
        steps: Steps of the forecasts, in order, shape (n,).
        said: What `signs` returned of them, shape (n,).
        after: Last step of the event before: what was announced up to it was announced for that one.
        gap: Steps without an announcement after which an alarm is over, see `episode_gap`.

    Example:
        >>> steps = np.arange(0, 100, 10)
        >>> said = signs(["stable"] * 10, ["", "alarm", "", "", "", "", "alarm", "alarm", "alarm", "alarm"])
        >>> announced_at(95, steps, said)
        60
    """
    first, last = np.searchsorted(steps, [after, onset], side="right")
    inside = steps[first:last]
    return _began(onset, inside[_held(said[first:last])], gap)


def episode_gap(steps: NDArray[Any]) -> int:
    """Return after how many steps without an announcement an episode is over: 20, or two readings.

    Args:
        steps: Steps of the readings, increasing, shape (n,).
    """
    stride = float(np.median(np.diff(steps))) if steps.size > 1 else 0.0
    return max(_GAP, math.ceil(2 * stride))


def score(
    spikes: Sequence[Event],
    readings: Readings,
    *,
    gap: int = _GAP,
    judged_from: int = 0,
    actions: Sequence[int] = (),
    oldest: float = math.inf,
    last: int | None = None,
) -> Score[Event]:
    """Match announcements with spikes.

    Args:
        spikes: Spikes, in order.
        readings: Probes and announcements of the same run.
        gap: An episode ends once this many steps passed without an announcement; a spike that starts
            within `gap` steps of the last announcement belongs to the episode.
        judged_from: First step at which a spike can be detected at all. An episode that ends before it is
            not judged: whether it was false is unknown.
        actions: Steps on which a guard changed something.
        oldest: A ratio that was last seen above one more than so many steps before an onset has no part in
            that spike, and did not cross for it.
        last: Last step of the run; None if its last reading was made there. Where readings are few, or none
            where batches differ, an episode may be over long before the run is, without a reading after it.

    Returns:
        The score. An episode that is still open where the run ends is neither hit nor false; nor is one
        that is over within `gap` steps of the end of a spike: it is the spike's own echo.

    Raises:
        ValueError: If the readings differ in length.

    Example:
        >>> steps = np.arange(0, 300, 5)
        >>> ratio = np.where((steps >= 90) & (steps <= 120), 1.1, 0.9)
        >>> readings = Readings(steps, ratio > 1, stability_ratio=ratio, gradient_stability_ratio=ratio)
        >>> [outcome] = score([SpikeEvent(120, 122, 130, 1.0, 5.0)], readings).outcomes
        >>> outcome.lead, outcome.curvature_crossed
        (30, 90)
        >>> score([], readings, actions=[125]).answered
        (Episode(start=90, end=120, crossed=True, highest=1.1),)
    """
    if len({column.shape for column in vars(readings).values()}) != 1:
        raise ValueError("steps, announces and the two ratios must have the same shape")
    outcomes = []
    previous_end = -math.inf
    for spike in spikes:
        outcomes.append(_outcome(spike, readings, gap=gap, after=previous_end, since=spike.onset - oldest))
        previous_end = spike.end
    quiet = [one for one in _without_spike(spikes, readings, gap, last) if one.end >= judged_from]
    acted = np.asarray(sorted(actions), dtype=np.int64)
    answered = [bool(((acted >= one.start) & (acted <= one.end + gap)).any()) for one in quiet]
    return Score(
        tuple(outcomes),
        tuple(one for one, by_guard in zip(quiet, answered, strict=True) if not by_guard),
        tuple(one for one, by_guard in zip(quiet, answered, strict=True) if by_guard),
    )


def alarm_episodes(readings: Readings, gap: int = _GAP) -> list[tuple[int, int]]:
    """Return the first and the last announcing step of every episode, whatever came of it.

    Args:
        readings: Probes and announcements of a run.
        gap: An episode ends once this many steps passed without an announcement.
    """
    return _episodes(readings.steps[readings.announces], gap)


def _outcome(
    spike: Event, readings: Readings, *, gap: int, after: float, since: float
) -> SpikeOutcome[Event]:
    before = (readings.steps > after) & (readings.steps <= spike.onset)
    announced = _began(spike.onset, readings.steps[before & readings.announces], gap)
    # Up to the peak, not the onset: a crossing in between is late, but seen.
    until_peak = (readings.steps > after) & (readings.steps <= spike.peak)
    curvature, gradient = (
        _last_rise(readings.steps[until_peak], ratio[until_peak], since)
        for ratio in (readings.stability_ratio, readings.gradient_stability_ratio)
    )
    return SpikeOutcome(spike, announced, curvature, gradient)


def _held(said: NDArray[Any]) -> NDArray[np.bool_]:
    """Return whether an announcement was on at each forecast: a spike that goes on does not withdraw it."""
    known = np.flatnonzero(said != _GOES_ON)
    last = np.searchsorted(known, np.arange(len(said)), side="right") - 1
    on = said[known] == _ANNOUNCES
    return np.asarray(np.append(on, False)[last])  # −1: none before


def _began(onset: int, announcing: NDArray[Any], gap: int) -> int | None:
    """Return the first step of the episode that was on before an onset; None without one."""
    episodes = _episodes(announcing, gap)
    return episodes[-1][0] if episodes and onset - episodes[-1][1] <= gap else None


def _without_spike(
    spikes: Sequence[Event], readings: Readings, gap: int, last_step: int | None
) -> list[Episode]:
    found = []
    ended = int(readings.steps[-1]) if readings.steps.size else 0
    ended = ended if last_step is None else last_step
    ends = [-math.inf, *(spike.end for spike in spikes)]
    onsets = [*(spike.onset for spike in spikes), math.inf]
    for end, onset in zip(ends, onsets, strict=True):
        inside = (readings.steps > end) & (readings.steps <= onset)
        for first, last in _episodes(readings.steps[inside & readings.announces], gap):
            still_open = last + gap >= min(onset, ended)
            echo = last <= end + gap
            if not still_open and not echo:
                during = (readings.steps >= first) & (readings.steps <= last)
                highest = float(np.nanmax(readings.stability_ratio[during], initial=-np.inf))
                found.append(Episode(first, last, highest >= 1, highest))
    return found


def _episodes(announcing: NDArray[Any], gap: int) -> list[tuple[int, int]]:
    if not announcing.size:
        return []
    parts = np.split(announcing, np.flatnonzero(np.diff(announcing) > gap) + 1)
    return [(int(part[0]), int(part[-1])) for part in parts]


def _last_rise(steps: NDArray[np.int64], ratio: NDArray[np.float64], since: float) -> int | None:
    """Return the step at which the ratio last rose through one; None if it was not above one since then."""
    above = np.flatnonzero(ratio >= 1)
    if not above.size or steps[above[-1]] < since:
        return None
    below_before = np.flatnonzero(~(ratio[: above[-1]] >= 1))
    return int(steps[below_before[-1] + 1]) if below_before.size else int(steps[0])
