"""Recorded losses → spike events: the ground truth that forecasts are scored against.

Nothing here is used to forecast. A spike is a loss above `factor` times the median of the steps
before it; the reference stays frozen while the spike lasts, so that a wide spike cannot hide itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class SpikeDefinition:
    """What counts as a spike.

    Attributes:
        factor: A spike is a loss above `factor` × the reference, > 1.
        window: The reference is the median of this many steps before it, ≥ 2.
        floor: Losses at or below `floor` × the first finite loss are never spikes: there, float32
            rounding alone moves the loss by multiples.
        rest: A spike is over once the loss stayed below the bar for this many steps, ≥ 1.
    """

    factor: float = 3.0
    window: int = 100
    floor: float = 1e-8
    rest: int = 10

    def __post_init__(self) -> None:
        """Refuse impossible definitions.

        Raises:
            ValueError: If a field lies outside its interval.
        """
        if not self.factor > 1:
            raise ValueError(f"factor is {self.factor!r}; a spike must be higher than 1 × the median")
        if not self.window >= 2:
            raise ValueError(f"window is {self.window!r}; a median needs at least 2 steps")
        if not self.floor >= 0:
            raise ValueError(f"floor is {self.floor!r}; it must be 0 or more")
        if not self.rest >= 1:
            raise ValueError(f"rest is {self.rest!r}; it must be at least 1 step")


@dataclass(frozen=True)
class SpikeEvent:
    """One spike.

    Attributes:
        onset: First step above the bar.
        peak: Step of the highest loss.
        end: Last step above the bar.
        reference: Median loss of the window before the onset.
        height: Peak loss ÷ `reference`; infinite if the loss overflowed or was NaN.
    """

    onset: int
    peak: int
    end: int
    reference: float
    height: float


def detect_spikes(
    steps: Sequence[int],
    losses: Sequence[float],
    definition: SpikeDefinition | None = None,
) -> list[SpikeEvent]:
    """Return the spikes of a recorded loss curve, in order.

    Args:
        steps: Step numbers, strictly increasing, shape (n,).
        losses: Losses, shape (n,); NaN and infinity count as infinitely high.
        definition: What counts as a spike; by default above 3 × the median of 100 steps.

    Raises:
        ValueError: If the two differ in length or the steps do not increase.

    Example:
        >>> losses = [1.0] * 120 + [5.0, 9.0, 4.0] + [1.0] * 30
        >>> [event] = detect_spikes(range(len(losses)), losses)
        >>> event.onset, event.peak, event.end, event.height
        (120, 121, 122, 9.0)
    """
    definition = definition or SpikeDefinition()
    step, loss = checked_curve(steps, losses)
    # An overflow shows as NaN or infinity, depending on the loss function: both are a spike.
    loss = np.where(np.isnan(loss), np.inf, loss)
    floor = definition.floor * first_size(loss)
    candidates = _candidates(loss, definition)
    events, free_from = [], 0
    for i in candidates:
        if i < free_from:
            continue
        reference = float(np.median(loss[i - definition.window : i]))
        bar = max(definition.factor * reference, floor)
        if loss[i] > bar and math.isfinite(reference):
            last = _last_above(loss, i, bar, definition.rest)
            peak = i + int(np.argmax(loss[i : last + 1]))
            height = float(loss[peak] / reference) if reference > 0 else math.inf
            events.append(SpikeEvent(int(step[i]), int(step[peak]), int(step[last]), reference, height))
            # The reference of the next spike may reach into this one: a median bears that, a mean would not.
            free_from = last + definition.rest + 1
    return events


def checked_curve(
    steps: Sequence[int], losses: Sequence[float]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return a loss curve as arrays of shape (n,).

    Args:
        steps: Step numbers, strictly increasing.
        losses: As many losses.

    Raises:
        ValueError: If the two differ in length or the steps do not increase.
    """
    step = np.asarray(steps, dtype=np.int64)
    loss = np.asarray(losses, dtype=np.float64)
    if step.shape != loss.shape:
        raise ValueError(f"{step.size} steps but {loss.size} losses; they must pair up")
    if np.any(np.diff(step) <= 0):
        raise ValueError("steps must increase strictly; a resumed run is cut at its restart first")
    return step, loss


def first_size(loss: NDArray[np.float64]) -> float:
    """Return the modulus of the first finite loss, of which the floor of a definition is a share.

    Args:
        loss: Losses, shape (n,); 0 is returned if none is finite.
    """
    finite = loss[np.isfinite(loss)]
    return abs(float(finite[0])) if finite.size else 0.0


def _candidates(loss: NDArray[np.float64], definition: SpikeDefinition) -> list[int]:
    """Return where the loss exceeds `factor` × the least loss before it: a median is no less."""
    if loss.size <= definition.window:
        return []
    windows = np.lib.stride_tricks.sliding_window_view(loss, definition.window)
    least = windows[:-1].min(axis=1)
    high = loss[definition.window :] > definition.factor * least
    return [int(i) + definition.window for i in np.flatnonzero(high)]


def _last_above(loss: NDArray[np.float64], i: int, bar: float, rest: int) -> int:
    last = i
    while i < min(loss.size, last + rest + 1):
        if loss[i] > bar:
            last = i
        i += 1
    return last
