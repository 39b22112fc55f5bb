"""What happened to the loss: spikes, divergences, slow climbs, and losses that are no numbers.

Nothing here is used to forecast. A step is *high* if its loss lies above a bar that is set by the calm steps
before it:

- their level, the median of the last 100;
- their noise σ, from how far each was from the five before it (median, so that outliers don't count).

Of a loss that falls fast both lag behind, and a spike would hide below what the loss has long left: then the
last 20 steps set them, if that is lower.

The bar is the lower one of `factor` × the level, which needs a level well above zero, and the level plus 8 σ,
which needs none: cross-entropy is bounded by the logarithm of the vocabulary and can hardly rise threefold, a
log-likelihood may lie below zero. A rise of less than 5 % of the level is never high: a smooth curve has next
to no noise. Where σ is more than a twentieth of the level, as in small batches, the mean of five steps is
compared instead of the loss itself: one unlucky batch is no spike. High steps are not calm: a wide spike
neither hides itself nor the next one.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np

from foreshock.spikes.detection import checked_curve, first_size

Kind = Literal["spike", "divergence", "climb", "non-finite"]

_SIGMA = 1.4826  # of the median of absolute deviations, for a normal distribution
_NEAR = 5  # steps before that a loss is compared with, to tell noise from trend
_OVER = 0.1  # share of the rise that may be left where an event is over: the rest may take very long
_STAYED = 0.5  # share of a rise: a loss that keeps more of it has not come back
_FALLING = 0.1  # of what is left, from one half of `patience` to the next: what falls slower has settled
_ABOVE_ZERO = 0.5  # level over σ from which a multiple of the level means something
_UNSURE = 1.5  # the σ of 20 steps may be so much too low, by chance
_NOISY = 0.05  # σ over the level from which the mean of as many steps is judged


@dataclass(frozen=True)
class EventDefinition:
    """What counts as an event of the loss.

    Attributes:
        factor: A loss above `factor` × its level is high, > 1.
        sigmas: So is one that lies so many σ of the calm steps' noise above it, > 0.
        least: Rises below this share of the level are never high, ≥ 0.
        window: Calm steps that set the level, ≥ 2.
        fewest: Calm steps before anything can be high, and that set the level of a falling loss; in
            [2, `window`].
        rest: A spike is over after so many steps that are not high, ≥ 1.
        patience: A loss that stays high for so many steps, and falls no more, has diverged, > `rest`; what
            comes after is compared with the level that it has then.
        climb: A level above `climb` × the lowest one before is a slow climb, > 1.
        floor: Losses at or below `floor` × the modulus of the first finite loss are never high: there,
            rounding in float32 alone moves a loss by multiples.

    Raises:
        ValueError: If a field lies outside its interval.
    """

    factor: float = 3.0
    sigmas: float = 8.0
    least: float = 0.05
    window: int = 100
    fewest: int = 20
    rest: int = 10
    patience: int = 200
    climb: float = 1.5
    floor: float = 1e-8

    def __post_init__(self) -> None:
        """Refuse impossible definitions."""
        for name, holds, allowed in (
            ("factor", self.factor > 1, "above 1"),
            ("sigmas", self.sigmas > 0, "above 0"),
            ("least", self.least >= 0, "0 or more"),
            ("window", self.window >= 2, "2 steps or more"),
            ("fewest", 2 <= self.fewest <= self.window, "from 2 steps to `window`"),
            ("rest", self.rest >= 1, "1 step or more"),
            ("patience", self.patience > self.rest, "more steps than `rest`"),
            ("climb", self.climb > 1, "above 1"),
            ("floor", self.floor >= 0, "0 or more"),
        ):
            if not holds:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be {allowed}")


@dataclass(frozen=True)
class LossEvent:
    """One thing that happened to the loss.

    Attributes:
        kind: ``"spike"``: high, and back by at least half of the rise. ``"divergence"``: settled where more
            than half of it was left, or high where the run ended. ``"climb"``: never suddenly high, but its
            level rose. ``"non-finite"``: NaN or infinite from `first_non_finite` on.
        onset: First high step; where a mean of five is compared, the first of the five that is high itself.
        peak: Step of the highest loss, or the first that is not finite.
        end: Last high step.
        reference: Level of the calm steps before the onset.
        rise: Peak loss − `reference`; infinite if the loss was not finite.
        sigma: σ of the calm steps before the onset.
        first_non_finite: First step whose loss was NaN or infinite; None if there is none.
    """

    kind: Kind
    onset: int
    peak: int
    end: int
    reference: float
    rise: float
    sigma: float
    first_non_finite: int | None = None

    @property
    def height(self) -> float:
        """Peak loss ÷ `reference`; NaN where that is not positive, and the rise alone has a meaning."""
        return 1 + self.rise / self.reference if self.reference > 0 else math.nan


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
    for number, value in zip(step.tolist(), loss.tolist(), strict=True):
        scan.see(number, value)
    return scan.finish()


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
        middle = len(ordered) >> 1
        self.median = ordered[middle] if len(ordered) & 1 else (ordered[middle - 1] + ordered[middle]) / 2

    def clear(self) -> None:
        self.values.clear()
        self._sorted.clear()
        self.median = math.nan

    def __len__(self) -> int:
        return len(self.values)


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
        return (float(np.median(self.losses[-_NEAR * 4 :])) - self.level) / (self.highest - self.level)

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
        self._definition, self._floor = definition, definition.floor * first
        self._calm, self._noise = _Window(definition.window), _Window(definition.window)
        self._last_calm, self._last_noise = _Window(definition.fewest), _Window(definition.fewest)
        self._open: _Open | None = None
        self._events: list[LossEvent] = []
        self._lowest = math.inf
        self._climb: _Climb | None = None
        self._recent: deque[tuple[int, float]] = deque(maxlen=_NEAR)

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
        level, sigma, bar = self._bar()
        judged = self._judged(loss, level, sigma)
        if not math.isfinite(judged) or judged > bar:
            self._open = _Open(self._recent, level=level, sigma=sigma, bar=bar)
            self._open.see(step, judged, loss)
            return
        self._add(loss)
        self._follow_level(step, loss)

    def finish(self) -> list[LossEvent]:
        """End what is going on, and return all events in order of their onset."""
        if self._open is not None:
            long = len(self._open.losses) >= self._definition.patience // 2
            self._end("divergence" if long and self._open.remains >= _STAYED else "spike")
        self._end_climb()
        return sorted(self._events, key=lambda event: event.onset)

    def _judged(self, loss: float, level: float, sigma: float) -> float:
        """Return what is compared with the bar: the loss, or where it is noisy the mean of five steps."""
        if not sigma > _NOISY * abs(level):
            return loss
        recent = [value for _, value in self._recent]
        if not all(map(math.isfinite, recent)):
            return loss
        try:
            return math.fsum(recent) / len(recent)
        except OverflowError:  # near the largest number their sum is beyond it
            return math.fsum(one / len(recent) for one in recent)

    def _bar(self) -> tuple[float, float, float]:
        """Return level, σ, and the loss above which a step is high; infinite while too little is known."""
        definition = self._definition
        if len(self._calm) < definition.fewest or not len(self._noise):
            return math.nan, math.nan, math.inf
        # Of a loss that falls fast, the last 100 steps are far above what it has come to.
        level = min(self._calm.median, self._last_calm.median)
        sigma = _SIGMA * min(self._noise.median, _UNSURE * self._last_noise.median)
        bar = level + max(definition.sigmas * sigma, definition.least * abs(level))
        # Around zero a multiple of the level means nothing.
        if level > _ABOVE_ZERO * sigma:
            bar = min(bar, definition.factor * level)
        return level, sigma, max(bar, self._floor) if level >= 0 else bar

    def _add(self, loss: float) -> None:
        before = list(islice(reversed(self._calm.values), _NEAR))
        if len(before) == _NEAR:
            deviation = abs(loss - sorted(before)[_NEAR // 2])
            self._noise.add(deviation)
            self._last_noise.add(deviation)
        self._calm.add(loss)
        self._last_calm.add(loss)

    def _end(self, kind: Kind) -> None:
        if self._open is None:
            return
        self._events.append(self._open.close(kind))
        calm, bar = self._open.calm, self._open.bar
        self._open, self._lowest = None, math.inf
        if calm and float(np.median(calm)) > bar:
            self._restart()  # still on its way back: the next event is one of the level that it has now
        for loss in calm:
            self._add(loss)

    def _restart(self) -> None:
        self._calm.clear()
        self._last_calm.clear()
        self._last_noise.clear()
        self._noise.clear()
        self._lowest = math.inf

    def _follow_level(self, step: int, loss: float) -> None:
        """Notice a level that rose without a single high step."""
        if len(self._calm) < self._definition.window or not len(self._noise):
            return
        level, sigma = self._calm.median, _SIGMA * self._noise.median
        self._lowest = min(self._lowest, level)
        bar = self._lowest + max((self._definition.climb - 1) * abs(self._lowest), sigma)
        risen = level > max(bar, self._floor if level >= 0 else -math.inf)
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
