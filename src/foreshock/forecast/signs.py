r"""What the probability of a spike rests on: a handful of numbers, most of them logarithms of ratios.

==============  =========================================================================================
``ratio``       ln of the stability ratio, measured or followed
``ahead``       where it will be at the end of the horizon if it goes on growing as it does
``highest``     its highest value in the last 100 steps: an edge that was passed before without a spike
``noise``       ln of the typical mean-square ratio
``lag``         ln of Σv̂ over the mean ‖g‖² of five steps: how far v is above the gradient just now
``held lag``    ln of the `Forecast.lag`, that of some dozens of steps
``rise 10``     ln of the mean ‖g‖² of five steps over what it was 10 steps before; 20 and 40 likewise
``rise``        the same over its lowest value of the last 50 steps
``burst``       ln of the size of the gradient over its usual one
``level``       ln of the mean loss of five steps over the median of the 100 before
``bump``        the highest such level in the last 100 steps
``volatility``  ln of the mean change of ln(loss) from step to step
``rate``        ln of the spikes so far, plus .3, over the steps so far, plus 300
``since``       ln of the steps since the last spike
``phase``       ln of these steps over the usual ones between two spikes
==============  =========================================================================================

One that is not known is NaN, and counts as such.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from foreshock.dynamics import StepStatistics

SPIKE = 3.0
"""A loss above so many times its level is a spike."""

_REST = 10  # steps below it that end a spike
_WINDOW = 100
_NEVER = 5000  # steps since the last spike, where there was none
_VOLATILITY_MEMORY, _GRADIENT_MEMORY = 30, 5
_RISES = (10, 20, 40)
_LOWEST = 50


class SpikeHistory:
    """The spikes that a run has had, found as it goes.

    Attributes:
        count: Spikes that are over.
        steps: Steps so far.
        inside: Whether one is going on.

    Example:
        >>> history = SpikeHistory()
        >>> for step in range(60):
        ...     history.update(9.0 if step == 30 else 1.0)
        >>> history.count, history.since
        (1, 29)
    """

    def __init__(self) -> None:
        self.count = self.steps = 0
        self.inside = False
        self._high = self._ended = -1
        self._onsets: deque[int] = deque(maxlen=20)

    def update(self, level: float, *, passed: int = 1) -> None:
        """Take one step into account.

        Args:
            level: Its loss as a multiple of the level before; NaN if unknown.
            passed: Steps since the last one that was observed, ≥ 1.
        """
        self.steps += passed
        if level > SPIKE:
            if not self.inside:
                self._onsets.append(self.steps)
            self.inside, self._high = True, self.steps
        elif self.inside and self.steps - self._high >= _REST:
            self.inside, self._ended = False, self._high
            self.count += 1

    @property
    def since(self) -> int | None:
        """Steps since the end of the last spike; None without one."""
        return self.steps - self._ended if self.count else None

    @property
    def gap(self) -> float:
        """Median number of steps from one onset to the next, of the last 20; NaN with fewer than two."""
        onsets = list(self._onsets)[: -1 if self.inside else None]
        gaps = [later - earlier for earlier, later in itertools.pairwise(onsets)]
        return statistics.median(gaps) if gaps else math.nan

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed history needs, as plain values."""
        return vars(self) | {"_onsets": list(self._onsets)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        vars(self).update(state)
        self._onsets = deque(state["_onsets"], maxlen=20)


class Signs:
    """Follow what the probability of a spike rests on.

    Attributes:
        history: The spikes so far.
        observed: Steps that were observed so far; `history.steps` counts those in between, too.
        statistics: The smoothed signals of the last step.
        loss: Its loss.
    """

    def __init__(self) -> None:
        self.history = SpikeHistory()
        self.statistics = StepStatistics(math.nan, math.nan, math.nan)
        self.loss = math.nan
        self._moment = self._square = self._volatility = math.nan
        # Steps so far, and ln of the mean ‖g‖², or of the level of the loss.
        self._sizes: deque[tuple[int, float]] = deque(maxlen=_LOWEST)
        self._levels: deque[tuple[int, float]] = deque(maxlen=_WINDOW)
        self.observed = 0
        self._ratios: deque[tuple[int, float]] = deque(maxlen=_WINDOW)

    def record_step(
        self,
        *,
        loss: float,
        squared_gradient: float,
        second_moment: float,
        statistics: StepStatistics,
        steady: bool,
        passed: int = 1,
    ) -> None:
        """Take one step into account.

        Args:
            loss: Its loss.
            squared_gradient: ‖g‖².
            second_moment: Σv̂.
            statistics: Its signals, smoothed.
            steady: Whether every step sees the same data, so that a single high loss is a spike.
            passed: Steps since the last one that was observed, ≥ 1.
        """
        self.history.update(statistics.instant_loss_ratio if steady else statistics.loss_ratio, passed=passed)
        self.observed += 1
        before, self.loss = self.loss, loss
        self.statistics, self._moment = statistics, second_moment
        self._square = _moved(self._square, squared_gradient, _GRADIENT_MEMORY)
        self._sizes.append((self.history.steps, logarithm(self._square)))
        if loss and before and math.isfinite(loss) and math.isfinite(before):
            # Of the quotient it would be that of 0, where a loss underflows.
            change = abs(math.log(abs(loss)) - math.log(abs(before)))
            self._volatility = _moved(self._volatility, change, _VOLATILITY_MEMORY)
        self._levels.append((self.history.steps, logarithm(statistics.loss_ratio)))

    def record_ratio(self, step: int, ratio: float) -> None:
        """Take a reading of the stability ratio into account."""
        self._ratios.append((step, ratio))

    def at(self, step: int, *, ratio: float, growth: float, noise: float) -> dict[str, float]:
        """Return the signs at a step, all but ``ahead``, which depends on the horizon.

        Args:
            step: Step number.
            ratio: The stability ratio; NaN if it is unknown or does not decide.
            growth: Growth of its logarithm a step.
            noise: The typical mean-square ratio; NaN if it is unknown or does not decide.
        """
        since = self.history.since
        recent = [one for made, one in self._ratios if step - made < _WINDOW]
        levels = self._known(self._levels, within=_WINDOW)
        size = self._sizes[-1][1] if self._sizes else math.nan
        lowest = min(self._known(self._sizes, within=_LOWEST), default=math.nan)
        return {f"rise {k}": size - self._size_before(k) for k in _RISES} | {
            "rise": size - lowest,
            "ratio": logarithm(ratio),
            "growth": growth,
            "highest": logarithm(max(recent, default=math.nan)) if ratio > 0 else math.nan,
            "noise": logarithm(noise),
            "lag": logarithm(self._moment / self._square) if self._square > 0 else math.nan,
            "held lag": logarithm(self.statistics.lag),
            "burst": logarithm(self.statistics.burst),
            "level": logarithm(self.statistics.loss_ratio),
            "bump": max(levels, default=math.nan),
            "volatility": logarithm(self._volatility),
            "rate": math.log((self.history.count + 0.3) / (self.history.steps + 300)),
            "since": math.log1p(_NEVER if since is None else since),
            "phase": math.nan if since is None else logarithm((since + 1) / self.history.gap),
        }

    def _known(self, values: Iterable[tuple[int, float]], *, within: int) -> list[float]:
        """Return those of the last steps that are known."""
        first = self.history.steps - within
        return [value for step, value in values if step > first and value == value]  # without NaN

    def _size_before(self, steps: int) -> float:
        """Return ln of the mean ‖g‖² so many steps ago, or where it was observed before; NaN if unknown."""
        wanted = self.history.steps - steps
        return next((size for step, size in reversed(self._sizes) if step <= wanted), math.nan)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain values."""
        return {
            "history": self.history.state_dict(),
            "observed": self.observed,
            "loss": self.loss,
            "moment": self._moment,
            "square": self._square,
            "volatility": self._volatility,
            "sizes": [list(pair) for pair in self._sizes],
            "levels": [list(pair) for pair in self._levels],
            "ratios": [list(pair) for pair in self._ratios],
            "statistics": list(vars(self.statistics).values()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.history.load_state_dict(state["history"])
        self.loss, self._moment = float(state["loss"]), float(state["moment"])
        self._square, self._volatility = float(state["square"]), float(state["volatility"])
        self.observed = int(state["observed"])
        self._sizes = deque(((int(k), float(x)) for k, x in state["sizes"]), maxlen=_LOWEST)
        self._levels = deque(((int(k), float(x)) for k, x in state["levels"]), maxlen=_WINDOW)
        self._ratios = deque(((int(k), float(x)) for k, x in state["ratios"]), maxlen=_WINDOW)
        self.statistics = StepStatistics(*state["statistics"])


def logarithm(value: float) -> float:
    """Return ln of a positive finite number; NaN of any other.

    Args:
        value: The number.
    """
    return math.log(value) if 0 < value < math.inf else math.nan


def _moved(mean: float, value: float, memory: int) -> float:
    """Return an exponential mean after one more value; one that is not finite is skipped."""
    if not math.isfinite(value):
        return mean
    return value if math.isnan(mean) else mean + (value - mean) / memory
