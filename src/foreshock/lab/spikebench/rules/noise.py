"""Rules on the mean-square edge, from pairs of half-batches.

With r₀ the mean curvature along w, and S and S_w the squared half-difference and its part along w, each an
average of about eight measurements, and f the noise factor,

    MSS = r₀ + f·S/r₀,    F = R₂ + e/(1 − r₀ − e),    R₂ = f(S − S_w)/r₀,    e = f·S_w/(2r₀)

(`foreshock.lab.spikebench.feedback`). Both are undefined before the fifth measurement and while r₀ ≤ 0.
Of full batches the noise is zero and both are the stability ratio, which is used where no pairs were
recorded.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from foreshock.lab.spikebench.rules.rule import Rule
from foreshock.lab.spikebench.rules.state import lag
from foreshock.lab.spikebench.trace import Column, Trace
from foreshock.lab.spikebench.windows import Floats, moving_average, ratio

_MEASUREMENTS, _LEAST = 8, 5
_ARMED = 3.0


def _pairs(trace: Trace) -> tuple[Floats, Floats, Floats]:
    """Return r₀, f·S/r₀ and f·S_w/r₀."""
    mean = _average(trace.column("pair_mean").values)
    usable = np.where((mean > 0) & (np.arange(mean.size) >= _LEAST - 1), mean, np.nan)
    factor = trace.column("noise_factor").held(trace.column("pair_mean").steps)
    square = factor * ratio(_average(trace.column("pair_square").values), usable)
    along = factor * ratio(_average(trace.column("pair_along").values), usable)
    return usable, square, along


def _average(values: Floats) -> Floats:
    """Return the exponential average over about eight measurements, whatever the steps between them."""
    order = np.arange(values.size)
    return moving_average(Column(order, values), _MEASUREMENTS)


def _mean_square(mean: Floats, square: Floats, along: Floats) -> Floats:  # noqa: ARG001
    return mean + square


def _feedback(mean: Floats, square: Floats, along: Floats) -> Floats:
    own = along / 2
    room = 1 - mean - own
    return np.where(room > 0, square - along + ratio(own, room), np.where(np.isnan(room), np.nan, np.inf))


def _from_pairs(formula: Callable[[Floats, Floats, Floats], Floats]) -> Callable[[Trace], Column]:
    def score(trace: Trace) -> Column:
        steps = trace.column("pair_mean").steps
        return Column(steps, formula(*_pairs(trace))) if steps.size else trace.column("stability_ratio")

    return score


def _armed(score: Callable[[Trace], Column]) -> Callable[[Trace], Column]:
    """Return the score where v lags by more than three, else zero."""

    def armed(trace: Trace) -> Column:
        column = score(trace)
        return Column(column.steps, np.where(lag(trace).held(column.steps) > _ARMED, column.values, 0.0))

    return armed


_MSS = _from_pairs(_mean_square)

NOISE_RULES = (
    Rule("MSS of pairs", "mean-square edge along w", ("pair",), _MSS, 0.95),
    Rule("MSS, armed by lag > 3", "the same while v lags", ("pair",), _armed(_MSS), 0.95),
    Rule("F of pairs", "mean-square edge of all modes together", ("pair",), _from_pairs(_feedback), 1.0),
)
