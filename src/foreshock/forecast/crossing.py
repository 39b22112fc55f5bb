r"""Readings of ln(ratio) → when it will reach zero: a bank of Kalman filters, one a regime of noise.

Each filter follows level, passing and lasting slope (`foreshock.forecast.motion`) under its own noise. After
every reading the filters are weighted by how well they predicted it, and a small share of each is replaced by
the mean of all, so that a regime that was wrong for long is ready when its time comes (interacting multiple
models, Blom and Bar-Shalom 1988). A sudden fall restarts the level, while the lasting slope goes on from
what it was at the peak: v decays after a spike as it did before.

The forecast is the mixture of the filters' normal distributions of x(k), moved by the known schedule. One is
reached in expectation where the mean is zero; the 80 % interval runs from the first k at which it is reached
with probability .1 to the first with .9.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from foreshock.forecast.bank import Bank, normal_distribution
from foreshock.forecast.calibration import LEADS, Calibration
from foreshock.forecast.motion import Ahead, Array, Regimes

AHEAD: Array = np.unique(np.concatenate((np.arange(32), np.round(np.geomspace(32, 1e5, 200)))))
"""Steps ahead at which a forecast is evaluated, ascending from 0; no forecast is longer."""

_DIFFUSE = 1e4  # variance of an unknown slope
_ERROR_SHARE = 0.1  # bounds of λ_max are about ten times its error, by the scatter about smooth stretches
_ROUND = 6  # steps
_REOPENED = 0.3  # how far a spike changes the lasting slope, as a share of it


@dataclass(frozen=True)
class Crossing:
    """When ln(ratio) will reach zero.

    Attributes:
        steps: Expected steps; infinity if it does not rise.
        low: Lower end of the 80 % interval.
        high: Upper end.
        growth: Slope of ln(ratio/η), a step, at present.
        growth_deviation: Its standard deviation.
    """

    steps: float
    low: float
    high: float
    growth: float
    growth_deviation: float


class CrossingModel:
    """Follow ln(ratio/η) through its readings.

    Args:
        drop: Fall of the logarithm below the prediction that restarts the level, if it also exceeds four
            standard deviations.
        beta2: Second-moment decay, if known: −½ ln β₂ is then the first guess of the slope.
    """

    def __init__(self, *, drop: float = 0.02, beta2: float | None = None) -> None:
        self.drop = drop
        self.beta2 = beta2
        self.readings = 0
        self.falls = 0
        self._regimes = _regimes()
        self._bank: Bank | None = None
        self._calibration = Calibration()
        self._slopes: deque[tuple[int, float, float]] = deque(maxlen=8)
        self._rise: deque[tuple[float, float, float]] = deque(maxlen=64)

    @property
    def step(self) -> int | None:
        """Step of the last reading."""
        return None if self._bank is None else self._bank.step

    def update(self, step: int, logarithm: float, *, error: float = 0.0) -> None:
        """Take one reading.

        Args:
            step: Step; must exceed the last one's.
            logarithm: ln(ratio/η).
            error: Bound of its error.
        """
        variances = self._regimes.scatter**2 + (_ERROR_SHARE * error) ** 2
        if self._bank is None:
            weights = np.full(len(self._regimes), 1 / len(self._regimes))
            self._bank = self._start(step, logarithm, variances, self._guess(), weights)
            return
        gap = step - self._bank.step
        bank = self._bank.mixed().moved(self._regimes, gap)
        predicted, uncertainty = bank.level
        surprise = logarithm - predicted
        deviation = math.sqrt(uncertainty + float(bank.weights @ variances))
        if self.readings > 1 and surprise < -max(self.drop, 4 * deviation):
            slope, spread = max(self._rise, default=(0.0, *bank.slope))[1:]
            lasting = slope, spread + (_REOPENED * slope) ** 2
            self._bank = self._start(step, logarithm, variances, lasting, bank.weights, fall=surprise / gap)
            self.falls += 1
            self._calibration.fell()
            return
        self._bank = bank.corrected(logarithm, variances, weigh=self.readings > 1)
        self.readings += 1
        self._calibration.compare(step, logarithm)
        # The top is round: each level is kept with the slope of some steps earlier.
        self._slopes.append((step, *self._bank.slope))
        earlier = [slope for slope in self._slopes if slope[0] >= step - _ROUND]
        self._rise.append((logarithm, *earlier[0][1:]))

    def forecast(self, schedule: Array | float) -> Crossing:
        """Return when ln(ratio) will reach zero.

        Args:
            schedule: ln η at each of the steps `AHEAD`; one number if it stays.

        Raises:
            ValueError: If there was no reading yet.
        """
        if self._bank is None:
            raise ValueError("there is no reading to forecast from; call update first")
        weights, means, deviations = self._bank.future(_ahead())
        mean = weights @ means
        spread = np.sqrt(weights @ (deviations**2 + (means - mean) ** 2))
        self._calibration.keep(
            self._bank.step, np.interp(LEADS, AHEAD, mean), np.interp(LEADS, AHEAD, spread)
        )
        factor = self._calibration.factor
        centred = (mean + schedule) / factor + (means - mean)
        passed = np.maximum.accumulate(weights @ normal_distribution(centred / deviations))
        steps = first_reach(mean + schedule)
        low, high = first_reach(passed - 0.1), first_reach(passed - 0.9)
        growth, variance = self._bank.growth
        return Crossing(steps, min(low, steps), max(high, steps), growth, math.sqrt(variance))

    def state_dict(self) -> dict[str, Any]:
        """Return what is known, as plain values."""
        bank = None if self._bank is None else self._bank.as_plain()
        return {
            "readings": self.readings,
            "falls": self.falls,
            "rise": list(self._rise),
            "slopes": list(self._slopes),
            "calibration": self._calibration.state_dict(),
            "bank": bank,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()` of another model."""
        self.readings, self.falls = int(state["readings"]), int(state["falls"])
        self._rise.clear()
        self._rise.extend((float(x), float(b), float(v)) for x, b, v in state["rise"])
        self._calibration.load_state_dict(state["calibration"])
        self._slopes.clear()
        self._slopes.extend((int(k), float(b), float(v)) for k, b, v in state["slopes"])
        self._bank = None if state["bank"] is None else Bank.from_plain(state["bank"])

    def _guess(self) -> tuple[float, float]:
        if self.beta2 is None:
            return 0.0, _DIFFUSE
        decay = -0.5 * math.log(self.beta2)
        return decay, (3 * decay) ** 2  # the landscape may outdo v

    def _start(
        self,
        step: int,
        logarithm: float,
        variances: Array,
        lasting: tuple[float, float],
        weights: Array,
        *,
        fall: float = 0.0,
    ) -> Bank:
        self.readings = 1
        self._rise.clear()
        self._slopes.clear()
        passing = fall**2 + self._regimes.turmoil**2
        return Bank.start(
            step,
            np.append(logarithm, variances),
            np.append(0.0, passing),
            np.append(lasting[0], np.full(len(weights), lasting[1])),
            weights,
        )


@cache
def _regimes() -> Regimes:
    return Regimes.standard()


@cache
def _ahead() -> Ahead:
    return _regimes().ahead(AHEAD)


def first_reach(x: Array) -> float:
    """Return where x, given at the steps `AHEAD`, first reaches zero; infinity if nowhere."""
    reached = np.flatnonzero(x >= 0)
    if not reached.size:
        return math.inf
    i = int(reached[0])
    if i == 0 or not math.isfinite(x[i - 1]):
        return float(AHEAD[i])
    return float(AHEAD[i] - x[i] / (x[i] - x[i - 1]) * (AHEAD[i] - AHEAD[i - 1]))
