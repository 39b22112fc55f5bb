"""Find the events of a loss: in one pass, step by step or many steps at once."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreshock.spikes.calm import NEAR, NOISY, CalmSteps, Floats
from foreshock.spikes.detection import checked_curve, first_size
from foreshock.spikes.events import EventDefinition, Kind, LossEvent

_OVER = 0.1  # share of the rise that may be left where an event is over: the rest may take very long
_STAYED = 0.5  # share of a rise: a loss that keeps more of it has not come back
_FALLING = 0.1  # of what is left, from one half of `patience` to the next: what falls slower has settled
_AT_ONCE = 1024  # steps that are looked at together
_BY_THEMSELVES = 128  # steps after one that may be high, which are looked at one by one


def detect_events(
    steps: Sequence[int], losses: Sequence[float], definition: EventDefinition | None = None
) -> list[LossEvent]:
    """Return what happened to a recorded loss, in order.

    Args:
        steps: Step numbers, strictly increasing, shape (n,).
        losses: Losses of any sign, shape (n,).
        definition: What counts.

    Raises:
        ValueError: If the two differ in length, or the steps do not increase.

    Example:
        >>> losses = [2.0] * 60 + [5.9] * 10 + [2.0] * 100
        >>> [event] = detect_events(range(len(losses)), losses)
        >>> event.kind, event.onset, event.end, round(event.rise, 3)
        ('spike', 60, 69, 3.9)
    """
    step, loss = checked_curve(steps, losses)
    scan = EventScan(definition or EventDefinition(), first_size(loss))
    scan.see_all(step, loss)
    return scan.finish()


class _Open:
    """An event that is going on."""

    def __init__(
        self, recent: Iterable[tuple[int, float]], *, level: float, sigma: float, bar: float
    ) -> None:
        # Where a mean of five is judged, the first of them that is high by itself is where it began.
        high = [(step, loss) for step, loss in recent if loss > bar or not math.isfinite(loss)]
        self.onset = self.last = high[0][0]
        self.level, self.sigma, self.bar = level, sigma, bar
        self.highest = -math.inf  # of what is compared with the bar
        self.peak, self.top = max(high, key=lambda pair: pair[1])
        self.first_non_finite: int | None = None
        self.calm: list[float] = []  # losses since the last high step
        self.losses: list[float] = []

    def see(self, step: int, judged: float, loss: float) -> None:
        """Take one step into account: what is compared with the bar, and the loss itself."""
        self.losses.append(judged)
        if loss > self.top:
            self.peak, self.top = step, loss
        if not math.isfinite(judged):
            if self.first_non_finite is None:
                self.first_non_finite = self.peak = step
                self.highest = self.top = math.inf
        elif judged <= max(self.bar, self.level + _OVER * (self.highest - self.level)):
            self.calm.append(judged)
            return
        else:
            self.highest = max(self.highest, judged)
        self.last = step
        self.calm.clear()

    def has_settled(self, patience: int) -> bool:
        """Return whether the loss stopped falling, looked at every `patience` steps."""
        if len(self.losses) % patience or self.first_non_finite is not None:
            return False
        half = patience // 2
        before, now = (
            float(np.median(part)) for part in (self.losses[-2 * half : -half], self.losses[-half:])
        )
        return before - now < _FALLING * (before - self.level)

    @property
    def remains(self) -> float:
        """What is left of the rise, by the median of the last steps."""
        return (float(np.median(self.losses[-NEAR * 4 :])) - self.level) / (self.highest - self.level)

    def close(self, kind: Kind) -> LossEvent:
        return LossEvent(
            "non-finite" if self.first_non_finite is not None else kind,
            self.onset,
            self.peak,
            self.last,
            self.level,
            self.top - self.level if math.isfinite(self.level) else math.inf,
            self.sigma,
            self.first_non_finite,
        )


@dataclass
class _Climb:
    """A level that rose without a single high step, and is still up."""

    onset: int
    level: float
    sigma: float
    peak: int = 0
    end: int = 0
    highest: float = -math.inf
    steps: int = 0

    def see(self, step: int, loss: float) -> None:
        self.steps, self.end = self.steps + 1, step
        if loss > self.highest:
            self.highest, self.peak = loss, step

    def close(self) -> LossEvent:
        rise = self.highest - self.level
        return LossEvent("climb", self.onset, self.peak, self.end, self.level, rise, self.sigma)


class EventScan:
    """One pass over a loss curve, step by step: also over one that is still growing.

    Args:
        definition: What counts.
        first: Modulus of the first finite loss.
    """

    def __init__(self, definition: EventDefinition, first: float) -> None:
        self._definition, self._calm = definition, CalmSteps(definition, definition.floor * first)
        self._open: _Open | None = None
        self._events: list[LossEvent] = []
        self._lowest = math.inf
        self._climb: _Climb | None = None
        self._recent: deque[tuple[int, float]] = deque(maxlen=NEAR)

    @property
    def events(self) -> tuple[LossEvent, ...]:
        """What is over by now, in the order in which it ended."""
        return tuple(self._events)

    @property
    def going_on(self) -> LossEvent | None:
        """What has begun and is not over, as it looks by now: a spike, unless a loss was not finite."""
        return None if self._open is None else self._open.close("spike")

    def see(self, step: int, loss: float) -> None:
        """Take one step into account.

        Args:
            step: Its number, above that of the step before.
            loss: Its loss.
        """
        definition = self._definition
        self._recent.append((step, loss))
        if self._open is not None:
            self._open.see(step, self._judged(loss, self._open.level, self._open.sigma), loss)
            if len(self._open.calm) >= definition.rest:
                self._end("spike")
            elif self._open.has_settled(definition.patience):
                self._end("divergence" if self._open.remains >= _STAYED else "spike")
                # What the loss is now is its level: else a change of the data would be an event for ever.
                self._restart()
            return
        level, sigma, bar = self._calm.bar()
        judged = self._judged(loss, level, sigma)
        if not math.isfinite(judged) or judged > bar:
            self._open = _Open(self._recent, level=level, sigma=sigma, bar=bar)
            self._open.see(step, judged, loss)
            return
        self._calm.add(loss)
        self._follow_level(step, loss)

    def see_all(self, steps: NDArray[np.int64], losses: Floats) -> None:
        """Take many steps into account, as `see` would one by one.

        Args:
            steps: Their numbers, increasing, all above that of the step before, shape (n,).
            losses: Their losses, shape (n,).
        """
        place = 0
        while place < len(losses):
            if self._open is None and self._climb is None:
                calm = losses[place : place + _AT_ONCE]
                recent = [loss for _, loss in self._recent]
                count, self._lowest = self._calm.add_calm(recent, calm, self._lowest)
                place += count
                self._recent.extend(_pairs(steps, losses, max(place - NEAR, place - count), place))
                if count == len(calm):
                    continue
            end = place + _BY_THEMSELVES
            for step, loss in _pairs(steps, losses, place, end):
                self.see(step, loss)
            place = end

    def finish(self) -> list[LossEvent]:
        """End what is going on, and return all events in order of their onset."""
        if self._open is not None:
            long = len(self._open.losses) >= self._definition.patience // 2
            self._end("divergence" if long and self._open.remains >= _STAYED else "spike")
        self._end_climb()
        return sorted(self._events, key=lambda event: event.onset)

    def _judged(self, loss: float, level: float, sigma: float) -> float:
        """Return what is compared with the bar: the loss, or where it is noisy the mean of five steps."""
        if not sigma > NOISY * abs(level):
            return loss
        recent = [value for _, value in self._recent]
        if not all(map(math.isfinite, recent)):
            return loss
        try:
            return math.fsum(recent) / len(recent)
        except OverflowError:  # near the largest number their sum is beyond it
            return math.fsum(one / len(recent) for one in recent)

    def _end(self, kind: Kind) -> None:
        if self._open is None:
            return
        self._events.append(self._open.close(kind))
        calm, bar = self._open.calm, self._open.bar
        self._open, self._lowest = None, math.inf
        if calm and float(np.median(calm)) > bar:
            self._restart()  # still on its way back: the next event is one of the level that it has now
        for loss in calm:
            self._calm.add(loss)

    def _restart(self) -> None:
        self._calm.clear()
        self._lowest = math.inf

    def _follow_level(self, step: int, loss: float) -> None:
        """Notice a level that rose without a single high step."""
        if not self._calm.full:
            return
        level, sigma = self._calm.slow
        self._lowest = min(self._lowest, level)
        risen = self._calm.rises(self._lowest)
        if risen and self._climb is None:
            self._climb = _Climb(step, self._lowest, sigma)
        if self._climb is not None:
            if risen:
                self._climb.see(step, loss)
            else:
                self._end_climb()

    def _end_climb(self) -> None:
        """Keep a climb that lasted as long as the window: shorter ones are the shoulders of spikes."""
        if self._climb is not None and self._climb.steps >= self._definition.window:
            self._events.append(self._climb.close())
        self._climb = None


def _pairs(steps: NDArray[np.int64], losses: Floats, start: int, end: int) -> Iterable[tuple[int, float]]:
    return zip(steps[start:end].tolist(), losses[start:end].tolist(), strict=True)
