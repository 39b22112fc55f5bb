"""The calm steps of a loss: their level, their noise, and the loss above which a step is high.

Step by step, or many at once: a long run is calm almost everywhere, and NumPy finds that out in less time.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from itertools import islice

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from foreshock.spikes.events import EventDefinition

NEAR = 5  # steps before that a loss is compared with, to tell noise from trend
NOISY = 0.05  # σ over the level from which the mean of as many steps is judged
SIGMA = 1.4826  # of the median of absolute deviations, for a normal distribution
_ABOVE_ZERO = 0.5  # level over σ from which a multiple of the level means something
_UNSURE = 1.5  # the σ of 20 steps may be so much too low, by chance
_APART = 8  # steps from one median to the next that bounds rest on
_ROUNDING = 1e-9  # a mean this near to the bar, relative to both, is judged step by step

Floats = NDArray[np.float64]


class CalmSteps:
    """The last calm steps.

    Args:
        definition: What counts as an event.
        floor: Losses at or below it are never high.
    """

    def __init__(self, definition: EventDefinition, floor: float) -> None:
        self._definition, self._floor = definition, floor
        self._losses, self._noise = _Window(definition.window), _Window(definition.window)
        self._last_losses, self._last_noise = _Window(definition.fewest), _Window(definition.fewest)

    @property
    def full(self) -> bool:
        """Whether as many steps are known as set the level."""
        return len(self._losses) == self._definition.window and len(self._noise) > 0

    @property
    def slow(self) -> tuple[float, float]:
        """Level and σ of all of them, also where the loss falls fast."""
        return self._losses.median, SIGMA * self._noise.median

    def rises(self, lowest: float) -> bool:
        """Return whether the level of all of them is well above the lowest one up to now."""
        level, sigma = self.slow
        bar = lowest + max((self._definition.climb - 1) * abs(lowest), sigma)
        return level > max(bar, self._floor if level >= 0 else -math.inf)

    def bar(self) -> tuple[float, float, float]:
        """Return level, σ, and the loss above which a step is high; infinite while too little is known."""
        definition = self._definition
        if len(self._losses) < definition.fewest or not len(self._noise):
            return math.nan, math.nan, math.inf
        # Of a loss that falls fast, the last 100 steps are far above what it has come to.
        level = min(self._losses.median, self._last_losses.median)
        sigma = SIGMA * min(self._noise.median, _UNSURE * self._last_noise.median)
        bar = level + max(definition.sigmas * sigma, definition.least * abs(level))
        # Around zero a multiple of the level means nothing.
        if level > _ABOVE_ZERO * sigma:
            bar = min(bar, definition.factor * level)
        return level, sigma, max(bar, self._floor) if level >= 0 else bar

    def add(self, loss: float) -> None:
        """Take a calm step into account."""
        before = list(islice(reversed(self._losses.values), NEAR))
        if len(before) == NEAR:
            deviation = abs(loss - sorted(before)[NEAR // 2])
            self._noise.add(deviation)
            self._last_noise.add(deviation)
        self._losses.add(loss)
        self._last_losses.add(loss)

    def clear(self) -> None:
        """Forget all of them."""
        for window in (self._losses, self._noise, self._last_losses, self._last_noise):
            window.clear()

    def add_calm(self, recent: Sequence[float], losses: Floats, lowest: float) -> tuple[int, float]:
        """Add the steps that come next as long as they are surely calm, and their level does not rise.

        Args:
            recent: The losses just before, calm or not, the last `NEAR` at most.
            losses: Losses of the steps that come next, shape (n,).
            lowest: The lowest level so far, by which a rise of the level is told.

        Returns:
            How many were added, and the lowest level by then. The next one may be high, or not: it has to be
            looked at by itself.
        """
        size = self._definition.window
        if len(self._noise) < size or len(self._losses) < size or len(recent) < NEAR - 1:
            return 0, lowest
        known = np.array(self._losses.values)
        with np.errstate(all="ignore"):
            calm = np.concatenate((known, losses))
            around = _medians(calm[size - NEAR : -1], NEAR)
            noise = np.concatenate((np.array(self._noise.values), np.abs(losses - around)))
            near = np.array(recent)[-(NEAR - 1) :]
            if self._all_calm(calm, noise, near, lowest):
                count, lowest = len(losses), _lowest_median(calm[1:], size, lowest)
            else:
                slow, slow_noise = _medians(calm, size), _medians(noise, size)
                high = self._may_be_high(calm, noise, slow, slow_noise, near)
                lows = np.minimum.accumulate(np.append(lowest, slow[1:]))[1:]
                high |= self._may_rise(slow[1:], SIGMA * slow_noise[1:], lows)
                count = int(np.argmax(high)) if high.any() else len(losses)
                lowest = float(lows[count - 1]) if count else lowest
        if count:
            for window, values in ((self._losses, calm), (self._noise, noise)):
                window.replace(values[count : count + size].tolist())
            for window, values in ((self._last_losses, calm), (self._last_noise, noise)):
                window.replace(values[count + size - self._definition.fewest : count + size].tolist())
        return count, lowest

    def _all_calm(self, calm: Floats, noise: Floats, recent: Floats, lowest: float) -> bool:
        """Return whether bounds of the medians tell that all steps are calm: they cost a quarter of them."""
        definition, before = self._definition, self._definition.window
        losses, past = calm[before:], before - definition.fewest
        low, high = _median_bounds(calm, before)
        least_noise = _median_bounds(noise, before)[0]
        level = np.minimum(low[:-1], _medians(calm[past:-1], definition.fewest))
        sigma = SIGMA * np.minimum(least_noise[:-1], _UNSURE * _medians(noise[past:-1], definition.fewest))
        if not (level > 0).all():
            return False  # around zero the bar is no simple function of them
        rise = np.maximum(definition.sigmas * sigma, definition.least * level)
        bar = np.maximum(np.minimum(level + rise, definition.factor * level), self._floor)
        near = sliding_window_view(np.concatenate((recent, losses)), NEAR)
        mean = near.mean(axis=1) + _ROUNDING * (np.abs(near).max(axis=1) + bar)
        lowest_yet = np.minimum.accumulate(np.append(lowest, low[1:]))[1:]
        risen = high[1:] > np.maximum(definition.climb * lowest_yet, self._floor)
        # NaN and infinity are never surely calm.
        return bool(((losses <= bar) & (mean <= bar) & np.isfinite(losses)).all() and not risen.any())

    def _may_be_high(
        self, calm: Floats, noise: Floats, slow: Floats, slow_noise: Floats, recent: Floats
    ) -> NDArray[np.bool_]:
        """Return which steps may be high, shape (n,): what `bar` says, or a value too near to it."""
        definition, before = self._definition, self._definition.window
        losses, past = calm[before:], before - definition.fewest
        level = np.minimum(slow[:-1], _medians(calm[past:-1], definition.fewest))
        sigma = SIGMA * np.minimum(slow_noise[:-1], _UNSURE * _medians(noise[past:-1], definition.fewest))
        bar = level + np.maximum(definition.sigmas * sigma, definition.least * np.abs(level))
        bar = np.where(level > _ABOVE_ZERO * sigma, np.minimum(bar, definition.factor * level), bar)
        bar = np.where(level >= 0, np.maximum(bar, self._floor), bar)
        near = sliding_window_view(np.concatenate((recent, losses)), NEAR)
        mean = near.mean(axis=1)
        # NaN and infinity are never surely calm: hence not "above the bar", but "not surely below".
        surely = mean + _ROUNDING * (np.abs(near).max(axis=1) + np.abs(bar)) <= bar
        below = np.where(sigma > NOISY * np.abs(level), surely, losses <= bar)
        return np.asarray(~(below & np.isfinite(losses) & np.isfinite(mean)))

    def _may_rise(self, level: Floats, sigma: Floats, lowest: Floats) -> NDArray[np.bool_]:
        """Return after which steps the level has risen, or is no number, shape (n,): what `rises` says."""
        bar = lowest + np.maximum((self._definition.climb - 1) * np.abs(lowest), sigma)
        bar = np.where(level >= 0, np.maximum(bar, self._floor), bar)
        return np.asarray((level > bar) | ~np.isfinite(level))


def _medians(values: Floats, size: int) -> Floats:
    """Return the medians of all stretches of some length, shape (n − size + 1,)."""
    return _middles(sliding_window_view(values, size))


def _middles(stretches: Floats) -> Floats:
    """Return the median of each row, shape (n,)."""
    size = stretches.shape[1]
    middle = size >> 1
    if size & 1:
        return np.partition(stretches, middle, axis=1)[:, middle]
    parts = np.partition(stretches, (middle - 1, middle), axis=1)
    return (parts[:, middle - 1] + parts[:, middle]) / 2


def _median_bounds(values: Floats, size: int) -> tuple[Floats, Floats]:
    """Return bounds of what `_medians` returns, below and above: only every few medians are looked for.

    A stretch that begins j values later lacks j of the first, and has j others: an order statistic of it lies
    between those of the first that are j lower and j higher.
    """
    middle, apart = size >> 1, min(_APART, size >> 2)
    ranks = max(middle - 1 - (apart - 1), 0), min(middle + apart - 1, size - 1)
    some = np.partition(sliding_window_view(values, size)[::apart], ranks, axis=1)
    count = len(values) - size + 1
    low, high = (np.repeat(some[:, rank], apart)[:count] for rank in ranks)
    return low, high


def _lowest_median(values: Floats, size: int, lowest: float) -> float:
    """Return the lowest of all medians of stretches of some length, and of another number."""
    low, high = _median_bounds(values, size)
    best = min(lowest, float(high.min()))
    places = np.flatnonzero(low < best)  # a few: no other can be lower
    if not len(places):
        return best
    return min(lowest, float(_middles(sliding_window_view(values, size)[places]).min()))


class _Window:
    """The last values, in order of time and of size: their median costs next to nothing.

    Attributes:
        values: The values, in order of time.
        median: Their median; NaN of none. It is kept because a step looks at it several times, and a log may
            have a million steps.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self.values: deque[float] = deque()
        self._sorted: list[float] = []
        self.median = math.nan

    def add(self, value: float) -> None:
        values, ordered = self.values, self._sorted
        if len(values) == self._size:
            del ordered[bisect_left(ordered, values.popleft())]
        values.append(value)
        insort(ordered, value)
        self._find_median()

    def replace(self, values: list[float]) -> None:
        self.values, self._sorted = deque(values), sorted(values)
        self._find_median()

    def clear(self) -> None:
        self.values.clear()
        self._sorted.clear()
        self.median = math.nan

    def __len__(self) -> int:
        return len(self.values)

    def _find_median(self) -> None:
        ordered = self._sorted
        middle = len(ordered) >> 1
        self.median = ordered[middle] if len(ordered) & 1 else (ordered[middle - 1] + ordered[middle]) / 2
