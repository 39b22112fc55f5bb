"""What a guard follows from step to step, as plain numbers.

`RunMemory` has all of it: by what gradients were multiplied, how fast they grow, the second moment without
the guard's own raises, and the noise of mini-batches.
"""

from __future__ import annotations

import itertools
import math
import operator
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foreshock.dynamics import LagWindow
from foreshock.forecast import NoiseAverage

SUSTAINED = 3
"""Steps on which ‖g‖² must grow alike: one large gradient makes one large factor."""

FOR_GOOD = 10
"""Steps in a row on which a number of coordinates must be the same to become the usual one."""

# From here on the secant is measured at every step, however far from the threshold it was. ‖g‖² must double
# against all of the last steps: that of mini-batches doubles from one step to the next every so often.
_FAST = 2.0
_BEFORE = 8
_USUAL = 30
_WINDOW = 50
_FORGOTTEN = 0.999  # a factor this near to one is rounded to one, so that training is left alone again


@dataclass
class ClipRecord:
    """Follow the factors on the gradients of the last step and of the coming one, to compare the two.

    Attributes:
        last: Factor on the gradients of the last step.
        coming: Factor on those of the coming step; the guard multiplies it by its own.

    Example:
        >>> record = ClipRecord()
        >>> record.set_clip_factor(0.5)
        >>> record.undoing
        (1.0, 2.0)
        >>> record.stepped(finite=True)
        >>> record.undoing
        (2.0, 1.0)
    """

    last: float = 1.0
    coming: float = 1.0

    def set_clip_factor(self, factor: float) -> None:
        """Set the factor by which the training loop multiplied the coming gradients.

        Args:
            factor: In [0, 1].
        """
        self.coming = factor

    def stepped(self, *, finite: bool) -> None:
        """Turn the coming step into the last one, unless a gradient scaler left it out.

        Args:
            finite: Whether its gradient was finite.
        """
        self.last, self.coming = self.coming if finite else self.last, 1.0

    @property
    def undoing(self) -> tuple[float, float]:
        """Factors on the gradients of the last and of the coming step that undo the clipping.

        NaN for what can't be undone, so that there is no secant.
        """
        last, coming = self.last, self.coming
        return 1 / last if last > 0 else math.nan, 1 / coming if coming > 0 else math.nan


def usual_change(squares: Iterable[float]) -> float:
    """Return the median change of ln ‖g‖² from step to step; 0 before there are any.

    Args:
        squares: ‖g‖² of successive steps; zeros are passed over.
    """
    pairs = itertools.pairwise(square for square in squares if square > 0)
    return statistics.median([abs(math.log(now / before)) for before, now in pairs] or [0.0])


def keep_recent(entries: deque[tuple[int, float]], step: int, steps: int) -> None:
    """Drop what is no longer of the last steps, and what is of this step or later.

    The latter was put there before a return to an earlier checkpoint, and is of another run.

    Args:
        entries: Pairs of a step and a value, in order.
        step: The step about to be taken.
        steps: How many steps before it count.
    """
    while entries and entries[-1][0] >= step:
        entries.pop()
    while entries and entries[0][0] <= step - steps:
        entries.popleft()


def lately(at: int | None, step: int, steps: int) -> bool:
    """Return whether something was at one of the last steps; what is of a later one, another run had.

    Args:
        at: When it was; None if it never was.
        step: The step about to be taken.
        steps: How many steps count, the present one included.

    Example:
        >>> [lately(10, step, 5) for step in (9, 10, 14, 15)]
        [False, True, True, False]
    """
    return at is not None and 0 <= step - at < steps


class Growth:
    """Follow the factors by which ‖g‖² grew.

    Far above the edge the deviation along the unstable direction grows by the same factor at every step, and
    ‖g‖² with its square once that part outweighs the rest of the gradient. That is long before it outweighs
    the rest of the last displacement, where the secant would show it.

    Attributes:
        latest: The last factor; NaN before there is one.
        sustained: The smallest of the last three factors; NaN before there are three.
        leap: ‖g‖² over its largest value of the last eight steps; NaN before there is one.
        growing_fast: Whether ‖g‖² is at least twice what it was at any of the last eight steps.
        rise: ‖g‖² over its smallest value of the last eight steps; NaN before there is one.
        climb: The same, but one while ‖g‖² is below twice its mean of 30 steps: what comes back from a dip
            rises as well.

    Example:
        >>> growth = Growth()
        >>> for square in (1.0, 3.0, 12.0, 36.0):
        ...     growth.update(square)
        >>> growth.sustained
        3.0
    """

    def __init__(self) -> None:
        self._squares: deque[float] = deque(maxlen=_WINDOW + 1)
        self._mean = math.nan  # of the steps before the last one
        self._follow()

    def update(self, squared_gradient: float) -> None:
        """Take one step into account; one with a gradient that is not finite starts again.

        Args:
            squared_gradient: ‖g‖².
        """
        if not math.isfinite(squared_gradient):
            self._squares.clear()
            self._follow()
            return
        if self._squares:
            before = self._squares[-1]
            self._mean = before if math.isnan(self._mean) else self._mean + (before - self._mean) / _USUAL
        self._squares.append(squared_gradient)
        self._follow()

    @property
    def settled(self) -> bool:
        """Whether there are 50 steps that `noise` is of."""
        return len(self._squares) > _WINDOW

    @property
    def noise(self) -> float:
        """`usual_change` of ‖g‖² over the last 50 steps."""
        return usual_change(self._squares)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain values."""
        return {"squares": list(self._squares), "mean": self._mean}

    def load_state_dict(self, state: Mapping[str, Any] | Sequence[float]) -> None:
        """Continue from `state_dict()`; earlier versions kept the squares alone."""
        squares, mean = (state["squares"], state["mean"]) if isinstance(state, Mapping) else (state, math.nan)
        self._squares.clear()
        self._squares.extend(map(float, squares))
        self._mean = float(mean)
        self._follow()

    def _follow(self) -> None:
        """Compute what is read of the last steps, once for all who read it."""
        self.latest = self.sustained = self.leap = self.rise = self.climb = math.nan
        self.growing_fast = False
        if len(self._squares) < 2:
            return
        now, *before = itertools.islice(reversed(self._squares), _BEFORE + 1)
        highest, lowest = max(before), min(before)
        self.growing_fast = now >= _FAST * highest > 0
        if highest > 0:
            self.leap = now / highest
        if lowest > 0:
            self.rise = now / lowest
            self.climb = self.rise if now > _FAST * self._mean else 1.0
        # A gradient of zero makes no factor.
        if now > 0 and before[0] > 0:
            self.latest = now / before[0]
            steps = before[:SUSTAINED]
            if len(steps) == SUSTAINED and min(steps) > 0:
                self.sustained = min(self.latest, *map(operator.truediv, steps, steps[1:]))


class ActiveParameters:
    """Notice by their number when parameters were frozen, or are trained again.

    A parameter that lacks a gradient now and then (an expert to which no token was sent) must not start a new
    count each time, so that another number counts only once it was the same at ten steps in a row. By then
    the mean of ‖g‖² over 30 steps has gone a third of its way, and the lag is off by a factor of 1.5 at most.
    Of numbers that change all the time none becomes the usual one. It is a number and not the coordinates
    themselves because that can be summed over processes: all of them must start again at the same step.

    Example:
        >>> active = ActiveParameters()
        >>> [active.changed(count) for count in (9, 9, 5, 9, *[5] * 10, 5)].index(True)
        13
    """

    def __init__(self) -> None:
        self._usual: float | None = None
        self._other, self._steps = 0.0, 0

    def changed(self, count: float) -> bool:
        """Take one step into account, and return whether its number of coordinates is the new usual one.

        Args:
            count: How many have a gradient.
        """
        if self._usual is None:
            self._usual = count
        if count == self._usual:
            self._steps = 0
            return False
        self._steps = self._steps + 1 if count == self._other else 1
        self._other = count
        if self._steps < FOR_GOOD:
            return False
        self._usual, self._steps = count, 0
        return True

    def state_dict(self) -> tuple[float, ...]:
        """Return what a resumed run needs; nothing before the first step."""
        return () if self._usual is None else (self._usual, self._other, self._steps)

    def load_state_dict(self, state: Sequence[float]) -> None:
        """Continue from `state_dict()`."""
        self._usual, self._other, self._steps = None, 0.0, 0
        if state:
            usual, other, steps = state
            self._usual, self._other, self._steps = float(usual), float(other), int(steps)


class NaturalMoment:
    """Follow V = β₂V + (1 − β₂)‖g‖², and the same with the raises in it.

    The lag is that of V (`foreshock.dynamics.LagWindow`). With the true Σv it would be inflated by every
    raise, and the guard would arm itself.

    V is a sum over the coordinates that had a gradient. Where others have one from now on, it is started
    again: parameters that were frozen would count for as long as v remembers, and v would seem to lag.

    Attributes:
        started: Whether `start` was called.

    Example:
        >>> natural = NaturalMoment()
        >>> for _ in range(100):
        ...     natural.update(0.5, beta2=0.9)
        >>> round(natural.lag, 6)
        1.0
        >>> natural.raised(4.0)
        >>> round(natural.decay_factor, 6)
        0.5
    """

    def __init__(self) -> None:
        self._natural = self._raised = 0.0
        self._forgotten = 1.0  # β₂ᵗ, of the bias correction.
        self._touched = False
        self._window, self._active = LagWindow(), ActiveParameters()
        self.started = False

    @property
    def lag(self) -> float:
        """The lag at the last step; NaN before it is known."""
        return self._window.lag

    def is_outdated(self, coordinates: float) -> bool:
        """Count the coordinates that have a gradient; return whether to `start` with them.

        Args:
            coordinates: Their number, over all processes.
        """
        return self._active.changed(coordinates) or not self.started

    def start(self, total: float, *, beta2: float, updates: int) -> None:
        """Start, or start again, with an optimizer that has made some updates.

        Args:
            total: Σv over the coordinates that have a gradient, raises included. Of other coordinates than
                before, the same share of it is taken for raises.
            beta2: β₂.
            updates: How many it made.
        """
        share = self._natural / self._raised if self._raised > 0 else 1.0
        # How much of v is raises is unknown of the new coordinates; the share of the old ones stands for it.
        self._natural, self._raised = total * share, total
        self._forgotten = beta2**updates
        # Kept are the gradients since the coordinates changed: of a single mini-batch, no mean can be had.
        self._window.begin_anew(kept=FOR_GOOD - 1)
        self.started = True

    def update(self, squared_gradient: float, *, beta2: float) -> None:
        """Take one step into account; one with a gradient that is not finite is ignored.

        Args:
            squared_gradient: ‖g‖².
            beta2: β₂ of this step.
        """
        if not math.isfinite(squared_gradient):
            return
        # Two scalars stand for v and v without raises: of both, Σv follows ‖g‖² by the same recursion as each
        # coordinate, and a raise is a factor on one of them.
        self._natural = beta2 * self._natural + (1 - beta2) * squared_gradient
        self._raised = beta2 * self._raised + (1 - beta2) * squared_gradient
        self._forgotten *= beta2
        corrected = self._natural / (1 - self._forgotten) if self._forgotten < 1 else math.nan
        self._window.update(second_moment=corrected, squared_gradient=squared_gradient)

    def raised(self, factor: float) -> None:
        """Take into account that Σv was multiplied.

        Args:
            factor: By how much, ≥ 1.
        """
        self._raised *= factor
        self._touched = True

    @property
    def raised_share(self) -> float:
        """Σv over what it would be without raises; one as long as nothing was raised."""
        return self._raised / self._natural if self._touched and self._natural > 0 else 1.0

    @property
    def decay_factor(self) -> float:
        """Factor on decoupled weight decay, min(1, √(V/Σv)): steps that are shorter decay less.

        Exactly one as long as nothing was raised, and again once raises are forgotten to one part in a
        thousand.
        """
        if not self._touched or not self._raised > 0:
            return 1.0
        factor = math.sqrt(self._natural / self._raised)
        return factor if factor < _FORGOTTEN else 1.0

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain values."""
        return {
            "natural": self._natural,
            "raised": self._raised,
            "forgotten": self._forgotten,
            "touched": self._touched,
            "started": self.started,
            "window": self._window.state_dict(),
            "active": self._active.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._natural, self._raised = float(state["natural"]), float(state["raised"])
        self._forgotten, self._touched = float(state["forgotten"]), bool(state["touched"])
        self._window.load_state_dict(state["window"])
        self._active.load_state_dict(state["active"])
        self.started = bool(state["started"])


class RunMemory:
    """All that a guard remembers of a run as numbers; the last displacement is with `StepMeasurer`.

    Attributes:
        growth: How fast ‖g‖² grows.
        clips: By what gradients were multiplied.
        natural: The second moment without the guard.
        mean_square: Mean-square ratio from the pairs recorded so far; NaN before the fifth.
        rate_factor: By what the learning rate is multiplied from now on.
        beta2: β₂ of the last step that was measured; None before, and without such an average.
        finite: Whether the gradient of the last step that was measured was finite.
    """

    def __init__(self) -> None:
        self.rate_factor = 1.0
        self.beta2: float | None = None
        self.forget()

    def forget(self) -> None:
        """Start again: the optimizer got another state. A lower learning rate stays."""
        self.growth, self.clips, self.natural = Growth(), ClipRecord(), NaturalMoment()
        self._pairs, self.mean_square = NoiseAverage(), math.nan
        self.finite = True

    @property
    def pairs(self) -> int:
        """How many pairs were recorded."""
        return self._pairs.count

    def update(
        self,
        squared_gradient: float,
        *,
        coordinates: float,
        beta2: float | None,
        second_moment: Callable[[], tuple[float, int]],
        unclipped: float,
    ) -> None:
        """Take the gradient of the coming step into account, or that of the last one, which came late.

        Args:
            squared_gradient: ‖g‖², finite.
            coordinates: How many coordinates have a gradient, over all processes.
            beta2: β₂ of the step; None without a decaying average of g².
            second_moment: Returns Σv_{t−1} and the updates in it; called where v has to be taken over.
            unclipped: Factor on the gradient that undoes clipping.
        """
        self.finite, self.beta2 = True, beta2
        # Growth is that of the gradient before clipping: clipped gradients would all have the same norm.
        self.growth.update(squared_gradient * unclipped**2)
        if beta2 is None:
            return
        if self.natural.is_outdated(coordinates):
            total, updates = second_moment()
            self.natural.start(total, beta2=beta2, updates=updates)
        self.natural.update(squared_gradient, beta2=beta2)

    def not_finite(self) -> bool:
        """Record that the coming gradient is not finite; return whether it is the first in a row."""
        first, self.finite = self.finite, False
        self.growth.update(math.nan)
        return first

    def record_noise(self, *, mean: float, variance: float, noise_factor: float) -> None:
        """Take one pair into account, see `NoiseAverage.update`."""
        self._pairs.update(mean=mean, variance=variance, noise_factor=noise_factor)
        self.mean_square = self._pairs.ratio

    def forget_noise(self) -> None:
        """Forget all pairs."""
        self._pairs = NoiseAverage()
        self.mean_square = self._pairs.ratio

    def raised_all(self, factor: float) -> None:
        """Record that √v was multiplied everywhere: the curvatures of earlier pairs fall with it.

        Args:
            factor: By how much, ≥ 1.
        """
        self._pairs.lower(factor)
        self.mean_square = self._pairs.ratio

    def stepped(self) -> None:
        """Turn the coming step into the last one."""
        self.clips.stepped(finite=self.finite)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain values."""
        return {
            "rate_factor": self.rate_factor,
            "clipped": self.clips.last,
            "finite": self.finite,
            "growth": self.growth.state_dict(),
            "natural": self.natural.state_dict(),
            "pairs": self._pairs.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.rate_factor, self.finite = float(state["rate_factor"]), bool(state["finite"])
        self.clips = ClipRecord(float(state["clipped"]))
        self.growth.load_state_dict(state["growth"])
        self.natural.load_state_dict(state["natural"])
        self._pairs.load_state_dict(state["pairs"])
        self.mean_square = self._pairs.ratio
