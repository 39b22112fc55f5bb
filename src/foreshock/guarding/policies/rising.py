r"""The guard against spikes of mini-batches that sees nothing but ‖g‖: it needs neither batch nor model.

Before such a spike v lags behind g² and the gradients rise for ten to twenty steps, while no displacement
shows an unstable direction. So: where the lag is large and the mean ‖g‖² of five steps is a multiple of its
median, all of v is raised a little at each step, up to a limit for each rise. Where ‖g‖² hardly changes
from step to step, or the secant shows a direction, it is the full batch that is unstable: `Secant` does it
better, also for a while after it raised v, when such gradients swing as widely as those of batches. A rise
that begins with a jump was made by new data, as where the targets are renewed: v is raised if the mean goes
on rising, and not while the gradients merely stay large.

Where ‖g‖² is calm and v far above g², the first sign is a lone jump: one step has a multiple of ‖g‖², and the
next is as before. Something has passed the edge on a few examples, or while a router sends them another way;
a few such steps later the loss itself jumps, often a hundredfold. v hardly sees a single gradient, and is
raised at once, by a larger factor. New data would stay.

The median follows a slow rise. Where a network comes to fit its training set, v forgets for hundreds of
steps, and the noise of the batches begins to be amplified along the sharpest directions: loss and ‖g‖² creep
up tenfold and more, until the loss jumps. Other things rise as slowly. What tells this one apart is the
secant: a displacement that noise drives along sharp directions shows about a tenth of the edge at *each*
measurement. With the full batch it is next to nothing, where the rise has another reason, or goes on to the
edge, and is the business of `Secant` then.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from foreshock.forecast import SETTLED
from foreshock.guarding.policies.policy import Decision, GuardSignals, Measure, require_threshold
from foreshock.guarding.policies.raise_limit import RaiseLimit
from foreshock.guarding.tracking import keep_recent, lately, usual_change

_MEMORY, _WINDOW = 5, 50
_CURVED = 0.3  # secant from which growth has a direction, and is the business of `Secant`
_NOISE = 0.35  # usual change of ln ‖g‖² from step to step; below, batches hardly differ
# A rise that begins with ‖g‖² at a multiple of all of the last steps was made by new data. It is left alone
# for some steps, and after these unless the mean is clearly above what it was in them.
_JUMP, _CALM, _ACCUSTOM = 8.0, 8, 15  # the multiple, the steps before, and those after
_GOES_ON = 1.25
# After a lone jump ‖g‖² is below this multiple of what it was. Corrupted batches make such jumps as well; but
# nearly all that announced a spike came where v was that of gradients more than ten times as large, and where
# ln ‖g‖² usually changed by less than this from step to step: of batches that differ more some are eightfold.
_BACK, _FORGOTTEN, _UNLIKE = 2.0, 100.0, 0.45
# Factor on √v for each, their product in 100 steps, and in 1,000. Where more come than that many steps may
# have, some batches are heavier than others: they are to be learned, and nothing announces a spike.
_OF_JUMP, _MOST_OF_JUMPS, _MOST_IN_LONG, _LONG, _MANY = 2.0, 8.0, 64.0, 1000, 12
# Of a slow rise.
_RECENT = 25  # five-step means whose median is the present level
_PAST = 200  # steps within which the lowest level is compared with
_TIMES = 5.0  # present level over the lowest
_UNSEEN = 30.0  # lag of v
_MEASURED, _LEAST, _MOST = 4, 0.05, 0.2  # last secants, and between what all of them lie
_SINCE = 40  # steps within which they were measured: one is at every eighth step at least
_AFTER_DATA = 65  # steps that don't count after a jump that new data made
_FACTOR, _TOGETHER = 1.05, 4.0  # on √v in one step, and in 100


class Creeping:
    """Raise all of v in a slow rise that noise drives.

    By 5 % of √v a step, and fourfold at most in 100 steps.

    Example:
        >>> creeping = Creeping()
        >>> for step in range(60):
        ...     rising = [1.04**i * 2 ** (i % 2) for i in range(step, step + 51)]
        ...     signals = GuardSignals(step, step + 1, lag=1e4, secant=0.1)
        ...     creeping.follow(signals)
        ...     decisions = creeping.decide(signals, rising, rising)
        >>> [(one.remedy, round(one.factor, 6)) for one in decisions]
        [('raise all', 1.05)]
    """

    def __init__(self) -> None:
        self._levels: deque[tuple[int, float]] = deque()
        self._secants: deque[tuple[int, float]] = deque(maxlen=_MEASURED)
        self._limit = RaiseLimit(_TOGETHER)
        self._new_data: int | None = None  # at which step

    def follow(self, signals: GuardSignals) -> None:
        """Take the secant of a step into account, if one was measured.

        Args:
            signals: The step about to be taken.
        """
        keep_recent(self._secants, signals.step, _SINCE)
        if not math.isnan(signals.secant):
            self._secants.append((signals.step, signals.secant))

    def begin_anew(self, step: int) -> None:
        """Forget the levels, because new data made ‖g‖² jump: they say nothing about what follows.

        Args:
            step: The step about to be taken.
        """
        self._levels.clear()
        self._new_data = step

    def decide(
        self, signals: GuardSignals, means: Sequence[float], squares: Sequence[float]
    ) -> Sequence[Decision]:
        """Return a raise of all of v, if ‖g‖² creeps up.

        Args:
            signals: The step about to be taken.
            means: Means of ‖g‖² over five steps, as of the last fifty steps; with fewer nothing is done.
            squares: ‖g‖² of these steps.
        """
        step = signals.step
        if lately(self._new_data, step, _AFTER_DATA) or len(means) <= _WINDOW:
            return ()
        level = statistics.median([*means][-_RECENT:])
        keep_recent(self._levels, step, _PAST)
        self._levels.append((step, level))
        if not (signals.lag > _UNSEEN and self._is_driven()):
            return ()
        lowest = min(one for _, one in self._levels)
        times = level / lowest if lowest > 0 else math.nan
        if not (times > _TIMES and _batches_differ(squares)):
            return ()
        factor = self._limit.grant(step, _FACTOR)
        if factor == 1:
            return ()
        reason = (
            f"‖g‖², as the median of {_RECENT} means, is {times:.3g} × its lowest of {_PAST} steps, v is "
            f"{signals.lag:.3g} × g², and the last {_MEASURED} secants lie between {_LEAST} and {_MOST}"
        )
        return (Decision("raise all", factor, reason, times, _TIMES),)

    def _is_driven(self) -> bool:
        """Return whether each of the last secants is about a tenth of the edge."""
        return len(self._secants) == _MEASURED and all(_LEAST < one < _MOST for _, one in self._secants)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed policy needs, as plain values."""
        return {
            "levels": [list(pair) for pair in self._levels],
            "secants": [list(pair) for pair in self._secants],
            "limit": self._limit.state_dict(),
            "new_data": self._new_data,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`; what an earlier version didn't keep is begun anew."""
        self._levels = deque((int(step), float(one)) for step, one in state.get("levels", ()))
        secants = ((int(step), float(one)) for step, one in state.get("secants", ()))
        self._secants = deque(secants, maxlen=_MEASURED)
        self._limit.load_state_dict(state.get("limit", ()))
        new_data = state.get("new_data")
        self._new_data = None if new_data is None else int(new_data)


class LoneJumps:
    """Raise all of v after a jump of ‖g‖² that lasted one step.

    √v is doubled, eightfold at most in 100 steps and 64-fold in 1,000, and no more once twelve came in these.

    Example:
        >>> jumps = LoneJumps()
        >>> signals = GuardSignals(100, 101, leap=0.1, lag=900.0)
        >>> [(one.remedy, one.factor) for one in jumps.decide(signals, leap=9.0)]
        [('raise all', 2.0)]
    """

    def __init__(self) -> None:
        self._soon, self._long = RaiseLimit(_MOST_OF_JUMPS), RaiseLimit(_MOST_IN_LONG, steps=_LONG)
        self._jumps: deque[tuple[int, float]] = deque()

    def decide(self, signals: GuardSignals, *, leap: float) -> Sequence[Decision]:
        """Return a raise of all of v, as far as the limits leave some.

        Args:
            signals: The step about to be taken, at which ‖g‖² is back.
            leap: ‖g‖² of the last step over all of the eight steps before it.
        """
        step = signals.step
        keep_recent(self._jumps, step, _LONG)
        self._jumps.append((step, leap))
        if len(self._jumps) > _MANY:
            return ()
        factor = self._long.grant(step, self._soon.grant(step, _OF_JUMP))
        if factor == 1:
            return ()
        reason = f"‖g‖² was {leap:.3g} × all of {_CALM} steps at one step alone, v is {signals.lag:.3g} × g²"
        return (Decision("raise all", factor, reason, leap, _JUMP),)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed policy needs, as plain values."""
        return {
            "soon": self._soon.state_dict(),
            "long": self._long.state_dict(),
            "jumps": [list(one) for one in self._jumps],
        }

    def load_state_dict(self, state: Mapping[str, Any] | Sequence[Sequence[float]]) -> None:
        """Continue from `state_dict()`; earlier versions kept the factors of 100 steps alone."""
        kept: Mapping[str, Any] = state if isinstance(state, Mapping) else {"soon": state}
        self._soon.load_state_dict(kept.get("soon", ()))
        self._long.load_state_dict(kept.get("long", ()))
        self._jumps = deque((int(step), float(leap)) for step, leap in kept.get("jumps", ()))


@dataclass
class Rising:
    """Raise all of v while the gradients rise and v lags, and after a lone jump of ‖g‖².

    After such a jump √v is doubled, see `LoneJumps`; in a slow rise that noise drives it grows
    by 5 % a step, fourfold at most in 100 steps.

    Attributes:
        lag: Lag of v from which to act, > 0; below about two v follows g².
        multiple: Mean ‖g‖² of five steps over its median of fifty from which to act, > 1.
        largest: Largest factor on √v in one step, > 1.
        most: Largest product of the factors of 100 steps, > 1: a level that stays is no rise.

    Raises:
        ValueError: If an option lies outside its interval.

    Example:
        >>> policy = Rising()
        >>> for step in range(200):
        ...     noisy = 1.0 + step % 2
        ...     calm = policy.decide(GuardSignals(step, step + 1, squared_gradient=noisy, lag=9.0))
        >>> for step in range(200, 204):
        ...     decisions = policy.decide(
        ...         GuardSignals(step, step + 1, squared_gradient=3.0 ** (step - 198), lag=9.0)
        ...     )
        >>> [decision] = decisions
        >>> decision.remedy, round(decision.factor, 6)
        ('raise all', 1.1)
    """

    lag: float = 2.0
    multiple: float = 3.0
    largest: float = 1.1
    most: float = 2.0
    name: ClassVar[str] = "rising"
    needs: ClassVar[frozenset[Measure]] = frozenset({"norm"})
    scales_decay: ClassVar[bool] = True
    exact_above: ClassVar[float] = math.inf  # the secant is not used
    _squares: deque[float] = field(
        default_factory=lambda: deque(maxlen=_WINDOW + 1), init=False, repr=False, compare=False
    )
    _means: deque[float] = field(
        default_factory=lambda: deque(maxlen=_WINDOW + 1), init=False, repr=False, compare=False
    )
    _secant: float = field(default=math.nan, init=False, repr=False, compare=False)
    _limit: RaiseLimit = field(init=False, repr=False, compare=False)
    _jumped: int | None = field(default=None, init=False, repr=False, compare=False)
    _level: float = field(default=0.0, init=False, repr=False, compare=False)  # highest mean soon after it
    _leap: float = field(default=math.nan, init=False, repr=False, compare=False)
    _along: int | None = field(default=None, init=False, repr=False, compare=False)
    _jumps: LoneJumps = field(default_factory=LoneJumps, init=False, repr=False, compare=False)
    _creeping: Creeping = field(default_factory=Creeping, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse impossible options."""
        require_threshold("lag", self.lag, low=0, high=math.inf)
        for name in ("multiple", "largest", "most"):
            require_threshold(name, getattr(self, name), low=1, high=math.inf)
        self._limit = RaiseLimit(self.most)

    def decide(self, signals: GuardSignals) -> Sequence[Decision]:
        """Return a raise of v if the gradients rise while v lags, or one jumped alone.

        Args:
            signals: The step about to be taken.
        """
        before, self._leap = self._leap, signals.leap
        self._update(signals)
        if signals.updates <= SETTLED or not signals.lag > self.lag:
            return ()
        # The largest of the eight steps before is the jump itself: the product is over those before it.
        alone = before > _JUMP and before * signals.leap < _BACK
        if alone and signals.lag > _FORGOTTEN and usual_change(self._squares) < _UNLIKE:
            return self._jumps.decide(signals, leap=before)
        if self._secant > _CURVED:
            return ()
        if self._just_jumped(signals.step):
            return ()
        creeps = self._creeping.decide(signals, self._means, self._squares)
        if creeps:
            return creeps
        times = self._times()
        if not times > self.multiple:
            self._jumped = None  # what rose after the jump has come down again
            return ()
        made_by_data = self._jumped is not None and not self._means[-1] > _GOES_ON * self._level
        if made_by_data or self._has_direction(signals.step) or not _batches_differ(self._squares):
            return ()
        factor = self._limit.grant(signals.step, min(math.sqrt(times / self.multiple), self.largest))
        if factor == 1:
            return ()
        reason = f"‖g‖² is {times:.3g} × its median of {_WINDOW} steps, and v is {signals.lag:.3g} × g²"
        return (Decision("raise all", factor, reason, times, self.multiple),)

    def raised_along(self, step: int) -> None:
        """Take note that v is to be raised along a direction: the full batch is unstable, or was.

        Args:
            step: The step about to be taken.
        """
        self._along = step

    def _update(self, signals: GuardSignals) -> None:
        """Take ‖g‖² and the secant into account; where that is not measured, the last one counts."""
        square = signals.squared_gradient
        if not math.isnan(signals.secant):
            self._secant = signals.secant
        self._creeping.follow(signals)
        # By then the median has followed; and after a return to an earlier checkpoint another run had jumped.
        if not lately(self._jumped, signals.step, _WINDOW):
            self._jumped = None
        if math.isfinite(square):
            before = [*itertools.islice(reversed(self._squares), _CALM)]
            jumps = len(before) == _CALM and square > _JUMP * max(before)
            # Within a rise of another kind a jump is part of it.
            if jumps and (self._jumped is not None or not self._times() > self.multiple):
                self._jumped, self._level = signals.step, 0.0
                self._creeping.begin_anew(signals.step)
            mean = self._means[-1] if self._means else square
            self._means.append(mean + (square - mean) / _MEMORY)
            self._squares.append(square)
            if self._just_jumped(signals.step):
                self._level = max(self._level, self._means[-1])

    def _just_jumped(self, step: int) -> bool:
        """Return whether ‖g‖² jumped so recently that a rise is left alone, whatever it does."""
        return lately(self._jumped, step, _ACCUSTOM)

    def _has_direction(self, step: int) -> bool:
        """Return whether v was raised along a direction so lately that a rise is due to it.

        Gradients of the full batch then swing along it, or along others near the edge, as widely as those of
        batches differ, and the median has not followed. To raise all of v besides costs progress for nothing.
        """
        return lately(self._along, step, _WINDOW)

    def _times(self) -> float:
        """Return the mean ‖g‖² over the median of those before; NaN while there are too few."""
        *before, mean = self._means
        usual = statistics.median(before) if len(before) == _WINDOW else math.nan
        return mean / usual if usual > 0 else math.nan

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed policy needs, as plain values."""
        squares, means, factors = list(self._squares), list(self._means), self._limit.state_dict()
        return {
            "squares": squares,
            "means": means,
            "secant": self._secant,
            "factors": factors,
            "jumped": self._jumped,
            "level": self._level,
            "leap": self._leap,
            "along": self._along,
            "of_jumps": self._jumps.state_dict(),
            "creeping": self._creeping.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._squares.clear()
        self._squares.extend(state["squares"])
        self._means.clear()
        self._means.extend(state["means"])
        self._secant = float(state["secant"])
        self._limit.load_state_dict(state["factors"])
        jumped = state.get("jumped")  # earlier versions had neither this nor the following
        self._jumped = None if jumped is None else int(jumped)
        self._level = float(state.get("level", 0.0))
        self._leap = float(state.get("leap", math.nan))
        along = state.get("along")
        self._along = None if along is None else int(along)
        self._jumps.load_state_dict(state.get("of_jumps", ()))
        self._creeping.load_state_dict(state.get("creeping", {}))


def _batches_differ(squares: Iterable[float]) -> bool:
    """Return whether ‖g‖² changes so much from step to step that it is not the same batch each time."""
    return usual_change(squares) > _NOISE
