r"""The guard against spikes of mini-batches that sees nothing but ‖g‖: it needs neither batch nor model.

Before such a spike v lags behind g² and the gradients rise for ten to twenty steps, while no displacement
shows an unstable direction. So: where the lag is large and the mean ‖g‖² of five steps is a multiple of its
median, all of v is raised a little at each step, up to a limit for each rise. Where ‖g‖² hardly changes from
step to step, or the secant shows a direction, it is the full batch that is unstable: `Secant` does it better.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from foreshock.guarding.policies.policy import Decision, GuardSignals, Measure, require_threshold

_SETTLED = 100  # updates before v and the median mean anything
_MEMORY, _WINDOW = 5, 50
_CURVED = 0.3  # secant from which growth has a direction, and is the business of `Secant`
_NOISE = 0.35  # usual change of ln ‖g‖² from step to step; below, batches hardly differ
_LEAST = 1.001  # a smaller factor is what rounding leaves of the limit
_EPISODE = 100  # steps for which a raise counts against the limit


@dataclass
class Rising:
    """Raise all of v while the gradients rise and v lags.

    Attributes:
        lag: Lag of v from which to act, > 0.
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
        >>> [decision] = policy.decide(GuardSignals(200, 201, squared_gradient=99.0, lag=9.0))
        >>> decision.remedy, round(decision.factor, 6)
        ('raise all', 1.1)
    """

    lag: float = 3.0
    multiple: float = 3.0
    largest: float = 1.1
    most: float = 2.0
    name: ClassVar[str] = "rising"
    needs: ClassVar[frozenset[Measure]] = frozenset({"norm"})
    scales_decay: ClassVar[bool] = True
    _squares: deque[float] = field(
        default_factory=lambda: deque(maxlen=_WINDOW + 1), init=False, repr=False, compare=False
    )
    _means: deque[float] = field(
        default_factory=lambda: deque(maxlen=_WINDOW + 1), init=False, repr=False, compare=False
    )
    _secant: float = field(default=math.nan, init=False, repr=False, compare=False)
    _factors: deque[tuple[int, float]] = field(default_factory=deque, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse impossible options."""
        require_threshold("lag", self.lag, low=0, high=math.inf)
        for name in ("multiple", "largest", "most"):
            require_threshold(name, getattr(self, name), low=1, high=math.inf)

    @property
    def exact_above(self) -> float:
        """Infinity: the secant is not used."""
        return math.inf

    def decide(self, signals: GuardSignals) -> Sequence[Decision]:
        """Return a raise of v if the gradients rise while v lags.

        Args:
            signals: The step about to be taken.
        """
        self._update(signals)
        if signals.updates <= _SETTLED or not signals.lag > self.lag or self._secant > _CURVED:
            return ()
        times = self._times()
        if not (times > self.multiple and self._noise() > _NOISE):
            return ()
        while self._factors and not 0 <= signals.step - self._factors[0][0] < _EPISODE:
            self._factors.popleft()
        left = self.most / math.prod(factor for _, factor in self._factors)
        factor = min(math.sqrt(times / self.multiple), self.largest, left)
        if not factor > _LEAST:
            return ()
        self._factors.append((signals.step, factor))
        reason = f"‖g‖² is {times:.3g} × its median of {_WINDOW} steps, and v is {signals.lag:.3g} × g²"
        return (Decision("raise all", factor, reason, times, self.multiple),)

    def _update(self, signals: GuardSignals) -> None:
        """Take ‖g‖² and the secant into account; where that is not measured, the last one counts."""
        square = signals.squared_gradient
        if not math.isnan(signals.secant):
            self._secant = signals.secant
        if math.isfinite(square):
            mean = self._means[-1] if self._means else square
            self._means.append(mean + (square - mean) / _MEMORY)
            self._squares.append(square)

    def _times(self) -> float:
        """Return the mean ‖g‖² over the median of those before; NaN while there are too few."""
        *before, mean = self._means
        usual = statistics.median(before) if len(before) == _WINDOW else math.nan
        return mean / usual if usual > 0 else math.nan

    def _noise(self) -> float:
        """Return the median change of ln ‖g‖² from step to step."""
        pairs = itertools.pairwise(square for square in self._squares if square > 0)
        return statistics.median([abs(math.log(now / before)) for before, now in pairs] or [0.0])

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed policy needs, as plain values."""
        factors = [list(pair) for pair in self._factors]
        squares, means = list(self._squares), list(self._means)
        return {"squares": squares, "means": means, "secant": self._secant, "factors": factors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._squares.clear()
        self._squares.extend(state["squares"])
        self._means.clear()
        self._means.extend(state["means"])
        self._secant = float(state["secant"])
        self._factors = deque((int(step), float(factor)) for step, factor in state["factors"])
