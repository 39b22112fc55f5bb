"""Causes that build up: what made the ratio rise to the edge, v or the landscape.

The stability ratio is measured now and then, and each measurement is compared with what v and the learning
rate alone made of the one before (`foreshock.curvature.followed`): one of the two parts of its rise is
re-evaluated with the other held. So the parts of a rise are measured, not guessed, and that of the learning
rate is known exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from foreshock.explain.changed import REACH, changed_training
from foreshock.explain.data import shape_change
from foreshock.explain.history import History, logarithm, middle, quotient
from foreshock.explain.jump import Jump
from foreshock.explain.record import Cause, Fact
from foreshock.runlog.numbers import as_number
from foreshock.words import number

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from foreshock.spikes import LossEvent

_OLDEST = 300  # steps before an onset in which a rise of the ratio counts
_EDGE = 0.9  # ratio near the event from which it may have been unstable: a measurement is a lower bound
_SHARE = 0.35  # of the rise of ln(ratio): what made as much of it is a cause
_NEAR, _NEARLY = 5, 30  # steps after an onset, and before it, in which the ratio was highest
_HIGHER = 1.05  # a ratio so much above the low is one of an earlier climb
_EXTRAPOLATED, _FARTHEST = 60, 3.0  # steps, and ln(ratio)
_LEAST = 0.02  # rise of ln(ratio) that has parts at all
_FEWEST_ROWS, _LEFT_OVER = 10, 0.1  # measurements, and what of the moves of ln(ratio) v may leave over
_BLIND, _PURE = 0.4, 0.7  # median decay exponent from which v decays, and from which it does little else
_LAG = 2.0  # v above g²
_GUESSED = 0.4  # confidence where nothing but v and the gradient is known
_FELL = -0.1  # how far ln Σv̂ fell: where it grew by more than a tenth, v did not decay
_WINDOW, _HARDLY = 100, 0.1  # steps, and ln(learning rate) over them, where nothing else was measured
_EACH, _FEWEST_STEPS, _GREW = 1.2, 4, 8.0  # growth of the gradient: a step, steps, in all
_CALM = 2.0  # times its median, at most where that growth begins
_STEADY = 0.3  # of ln(learning rate): more than that over the window is the schedule's doing


@dataclass(frozen=True)
class Rise:
    """What the ratio rose by before an event, in parts of ln(ratio).

    Attributes:
        first: First step of the measurements that it is made of.
        last: Last one.
        preconditioner: What v made of it, without the learning rate.
        landscape: What the curvature along the top eigenvector made.
        rate: What the learning rate made.
        ratio: The ratio that it came to.
        measured: Whether the parts were measured along the eigenvector; else that of v is what Σv says.
    """

    first: int
    last: int
    preconditioner: float
    landscape: float
    rate: float
    ratio: float
    measured: bool = True

    @property
    def total(self) -> float:
        """The parts that raised the ratio, added."""
        return sum(max(part, 0.0) for part in (self.preconditioner, self.landscape, self.rate))


def measure_rise(history: History, event: LossEvent) -> Rise | None:
    """Return the last climb of the ratio before an event, in parts; None if it was not measured.

    The climb ends at the highest ratio near the onset and begins at its last low before. Between
    measurements the ratio is followed from v and the learning rate alone; what a measurement finds beside
    that is the landscape's.

    Args:
        history: The run.
        event: What happened to the loss.
    """
    window = event.onset - _OLDEST, event.onset + _NEAR
    end = int(np.searchsorted(history.growth_steps, window[1], side="right"))
    near = slice(*np.searchsorted(history.ratio_steps, (window[0], window[1] + 1)).tolist())
    known = np.isfinite(history.ratios[near]) & (history.ratios[near] > 0)
    steps, ratios = history.ratio_steps[near][known], history.ratios[near][known]
    if not steps.size:
        return None
    top = _top(steps, ratios, event)
    low = low_before(ratios, top)
    first, last = int(steps[low]), int(steps[top])
    total = logarithm(quotient(ratios[top], ratios[low]))
    if not end:
        alone = _moved_alone(history, steps[: top + 1], ratios[: top + 1])
        return _by_sums(history, (first, last), total, float(ratios[top]), alone=alone)
    growth = history.growth[int(np.searchsorted(history.growth_steps, first)) : end] or [
        history.growth[end - 1]
    ]
    landscape = float(sum(_landscape_part(row, first, last) for row in growth))
    rate = rate_growth(history, first, last)
    ahead = _ahead(growth[-1], event.onset - last)
    if ahead > 0 and _share_of_landscape(growth[-1]) > 0:
        part = _share_of_landscape(growth[-1]) * ahead
        total, landscape = total + ahead, landscape + part
    ratio = float(ratios[top]) * math.exp(min(ahead, _FARTHEST))
    return Rise(first, last, total - landscape - rate, landscape, rate, ratio)


def _by_sums(
    history: History, span: tuple[int, int], total: float, ratio: float, *, alone: bool
) -> Rise | None:
    """Return the parts of a climb where ratios were measured, but not along one eigenvector.

    Where v does little else than decay, all of its coordinates fall alike, and its sum says what that makes
    of the ratio: its root. So it does where the ratio has moved with that root alone.
    """
    first, last = span
    moments = history.moment[history.at(first) : history.at(last) + 1]
    exponents = history.exponent[history.at(first) : history.at(last) + 1]
    if not alone and (moments.size < _FEWEST_STEPS or not middle(exponents) >= _PURE):
        return None
    decay = 0.5 * logarithm(quotient(moments[0], moments[-1]))
    rate = rate_growth(history, first, last)
    if not math.isfinite(decay):
        return None
    return Rise(first, last, decay, total - decay - rate, rate, ratio, measured=False)


def _moved_alone(history: History, steps: NDArray[np.int64], ratios: NDArray[np.float64]) -> bool:
    """Return whether ln(ratio) went up and down as ln(η/√Σv̂) did, so that the curvature had no part in it."""
    at = np.searchsorted(history.steps, steps)
    known = at < len(history.steps)
    at, ratios = at[known], ratios[known]
    with np.errstate(all="ignore"):
        followed = np.log(history.rate[at]) - 0.5 * np.log(history.moment[at])
        left = np.log(ratios) - followed
    if at.size < _FEWEST_ROWS or not (np.isfinite(left).all() and np.diff(followed).min() < 0):
        return False
    return bool(np.ptp(followed) >= _LEAST and np.ptp(left) <= _LEFT_OVER * np.ptp(followed))


def _top(steps: NDArray[np.int64], ratios: NDArray[np.float64], event: LossEvent) -> int:
    """Return the index of the highest ratio within thirty steps before the onset, else of the last one."""
    near = np.flatnonzero(steps >= event.onset - _NEARLY)
    return int(near[np.argmax(ratios[near])]) if near.size else len(steps) - 1


def low_before(ratios: NDArray[np.float64], top: int) -> int:
    """Return the index at which the climb to a ratio began: before it, the ratio had been higher.

    Args:
        ratios: The ratios, in order, shape (n,).
        top: Index of the one that the climb leads to.
    """
    low = top
    for i in reversed(range(top)):
        if ratios[i] < ratios[low]:
            low = i
        elif ratios[i] > _HIGHER * ratios[low]:
            break
    return low


def _landscape_part(row: Mapping[str, Any], first: int, last: int) -> float:
    """Return what the landscape made of ln(ratio) between two steps, from the record of a measurement."""
    since, step = as_number(row.get("since")), row["step"]
    growth = as_number(row.get("landscape_growth"))
    if not (first < step <= last and since < step and math.isfinite(growth)):
        return 0.0
    return growth * float(step - max(since, first))


def _ahead(row: Mapping[str, Any], steps: int) -> float:
    """Return how far ln(ratio) rises in some steps if it goes on as it was last measured to."""
    growth = [as_number(row.get(name)) for name in ("preconditioner_growth", "landscape_growth")]
    total = float(sum(max(one, 0.0) for one in growth if math.isfinite(one)))
    return total * min(steps, _EXTRAPOLATED) if steps > _NEARLY / 3 else 0.0


def _share_of_landscape(row: Mapping[str, Any]) -> float:
    names = ("preconditioner_growth", "landscape_growth")
    growth = [max(as_number(row.get(name)), 0.0) for name in names]
    share = quotient(growth[1], sum(growth))
    return share if share > 0 else 0.0


def slow_causes(history: History, event: LossEvent, jump: Jump | None) -> list[Cause]:
    """Return preconditioner lag, the landscape, or both, as far as they made the ratio rise to the edge.

    Args:
        history: The run.
        event: What happened to the loss.
        jump: Its rise within one step, if there was one: then nothing built up.
    """
    if jump is not None or event.first_non_finite == event.onset or was_disturbed(history, event):
        return []
    rise = measure_rise(history, event)
    decay = _decay(history, event, rise)
    if rise is None or not rise.ratio >= _EDGE:
        return _by_the_gradient(history, event, rise, decay) or _without_readings(history, event, decay)
    if not rise.total > _LEAST:
        return []
    causes = []
    shares = quotient(rise.preconditioner, rise.total), quotient(rise.landscape, rise.total)
    span = f"between steps {rise.first:,} and {rise.last:,}"
    if rise.first == rise.last:  # the only reading near: what it rose from was measured long before
        span = f"by step {rise.last:,}"
    if shares[0] >= _SHARE and decay.exponent > 0 and decay.fell > _FELL:
        made = f"{'' if rise.measured else 'about '}{100 * shares[0]:.0f} %"
        words = (
            f"v decayed and made {made} of the rise of the stability ratio {span}, to "
            f"{number(rise.ratio)}; its exponent was {number(decay.exponent)}, v {number(decay.lag)} × g²"
        )
        sure = _surely_lag(shares[0], decay)
        causes.append(Cause("preconditioner lag", sure, words, _facts(shares[0], rise, decay), rise.first))
    if shares[1] >= _SHARE:
        words = (
            f"the landscape sharpened and made {100 * shares[1]:.0f} % of the rise of the ratio {span}, "
            f"to {number(rise.ratio)}"
        )
        sure = min(0.95, 0.4 + 0.55 * min(shares[1], 1.0))
        if causes and shares[0] > shares[1]:
            sure = min(sure, causes[0].confidence)  # what made more of it comes first
        causes.append(Cause("landscape", sure, words, _facts(shares[1], rise, decay), rise.first))
    return causes


def _by_the_gradient(history: History, event: LossEvent, rise: Rise | None, decay: Decay) -> list[Cause]:
    """What a gradient says that grew as past the edge, where the ratio was last measured below it.

    It grows by a factor at each step only past the edge. From the last measurement on the ratio is followed
    by v and the learning rate alone; what lacks to one was made by the curvature, along that direction or
    along another one that overtook it. It counts beside what made the climb until then.
    """
    last = history.ratio_before(event.onset - 1, event.onset - _OLDEST)
    grew = _growth_of_gradient(history, event)
    if history.noisy or last is None or grew is None or not 0 < last[1] < _EDGE:
        return []
    (steps, times), (step, ratio) = grew, last
    missing = -math.log(ratio)
    made = (0.0, 0.0, 0.0) if rise is None else (rise.preconditioner, rise.landscape, rise.rate)
    v, landscape, rate = (max(part, 0.0) for part in made)
    shares = [part / (missing + v + landscape + rate) for part in (v, missing + landscape)]
    said = (
        f"the gradient grew {number(times)}-fold over {steps} steps, as past the edge, although v and the "
        f"learning rate alone had brought the stability ratio to {number(ratio)} by step {step:,}"
    )
    facts = (
        Fact("growth of the gradient before the peak", times, _GREW, event.onset),
        Fact("stability ratio, followed from its last measurement", ratio, math.nan, step),
    )
    causes = []
    if shares[0] >= _SHARE and decay.exponent > 0 and decay.fell > _FELL:
        words = f"{said}; v decayed and made {100 * shares[0]:.0f} % of the way to the edge"
        share = Fact("share of v in the rise of ln(ratio) to the edge", shares[0], _SHARE)
        causes.append(Cause("preconditioner lag", 0.5 * min(shares[0] / 0.5, 1), words, (*facts, share)))
    if shares[1] >= _SHARE:
        words = f"{said}: the curvature rose since it was last measured"
        share = Fact("share of the rise of ln(ratio) to the edge", shares[1], _SHARE)
        causes.append(Cause("landscape", 0.5 * min(shares[1] / 0.5, 1), words, (*facts, share)))
    return causes


def _growth_of_gradient(history: History, event: LossEvent) -> tuple[int, float] | None:
    """Return over how many steps the gradient grew by a factor each, from calm, and by how much in all."""
    first, last = history.at(event.onset) - _NEARLY, history.at(event.peak)
    norms = history.norm[max(first, 0) : last + 1]
    usual = history.usual(history.norm, max(first, 0))
    if usual is None or not usual.median > 0 or not np.isfinite(norms).all() or not (norms > 0).all():
        return None
    grows = norms[1:] >= _EACH * norms[:-1]
    ends = np.flatnonzero(np.diff(np.concatenate(([False], grows, [False])).astype(int)))
    runs = [(int(a), int(b)) for a, b in ends.reshape(-1, 2) if b - a >= _FEWEST_STEPS]
    for start, end in reversed(runs):
        times = quotient(norms[end], norms[start])
        if times >= _GREW and norms[start] <= _CALM * usual.median:
            return end - start, times
    return None


@dataclass(frozen=True)
class Decay:
    """What v did before an event.

    Attributes:
        exponent: Median decay exponent over the fifty steps before it.
        lag: Median of Σv̂/Σg² over these.
        fell: −ln of Σv̂ at the end over its start; where sums say what v made of the climb, over the climb if
            it fell more there: an earlier spike raises v.
    """

    exponent: float
    lag: float
    fell: float


def _decay(history: History, event: LossEvent, rise: Rise | None) -> Decay:
    at = history.at(event.onset)
    # Of a log that has every nth step, as many rows as it takes to have ten.
    first = min(history.at(event.onset - 60), max(at - _FEWEST_ROWS - 5, 0))
    part = slice(first, max(min(history.at(event.onset - 5), at), 0))
    exponents, lags, moments = (values[part] for values in (history.exponent, history.lag, history.moment))
    exponents, moments = exponents[np.isfinite(exponents)], moments[np.isfinite(moments)]
    if exponents.size < 10 or moments.size < 10:
        return Decay(math.nan, math.nan, math.nan)
    lag = middle(lags)
    fell = logarithm(quotient(moments[0], moments[-1]))
    if rise is not None and not rise.measured:  # it is this sum that says what v made of the climb
        climb = history.moment[[history.at(rise.first), min(history.at(rise.last), len(history.moment) - 1)]]
        fell = float(np.fmax(fell, logarithm(quotient(climb[0], climb[1]))))
    return Decay(middle(exponents), lag, fell)


def _without_readings(history: History, event: LossEvent, decay: Decay) -> list[Cause]:
    """What v alone says: it decayed, blind to a small gradient, and then the gradient grew for some steps."""
    rising = rate_growth(history, event.onset - _WINDOW, event.onset) > _HARDLY
    measured = bool(np.searchsorted(history.growth_steps, event.onset + _NEAR, side="right"))
    # Where batches differ it is their noise that is measured, and holding v removes few of those spikes.
    if (
        measured
        or history.noisy
        or rising
        or not (decay.exponent >= _BLIND and decay.lag >= _LAG and decay.fell > 0)
    ):
        return []
    words = (
        f"v decayed with exponent {number(decay.exponent)}, {number(decay.lag)} × above g², until the loss "
        "rose over several steps; its part in the ratio was not measured"
    )
    facts = (
        Fact("decay exponent, median of the steps before", decay.exponent, _BLIND),
        Fact("v above g²", decay.lag, _LAG),
    )
    return [Cause("preconditioner lag", _GUESSED, words, facts)]


def was_disturbed(history: History, event: LossEvent) -> bool:
    """Return whether something was done to the training that may have made what follows.

    Args:
        history: The run.
        event: What happened to the loss.
    """
    first = event.onset - REACH
    changed = changed_training(history, first, event.onset)
    before = history.ratio_before(int(changed[0]["step"]) - 1, event.onset - _OLDEST) if changed else None
    if changed and not (before is not None and before[1] >= 1):
        return True
    rate = rate_growth(history, event.onset - REACH, event.onset)
    return rate > _STEADY or shape_change(history, event) is not None


def rate_growth(history: History, first: int, last: int) -> float:
    """Return ln of the learning rate at a step over that at an earlier one; 0 where one is unknown or 0.

    Args:
        history: The run.
        first: The earlier step.
        last: The later one.
    """
    i, j = (min(max(history.at(step), 0), len(history.rate) - 1) for step in (first, last))
    before, after = float(history.rate[i]), float(history.rate[j])
    growth = logarithm(quotient(after, before))
    return growth if math.isfinite(growth) else 0.0


def _surely_lag(share: float, decay: Decay) -> float:
    """Return how certain v is to blame for a rise of which it made a share.

    What made the rise is measured, but not what would have been without it: holding v fifty steps before a
    spike that follows such a rise removes some, and the landscape alone brings others. It never removed one
    whose v decayed slowly.
    """
    return min(0.35 + 0.35 * min(share, 1.0), 0.7 if decay.exponent >= _PURE else 0.5)


def _facts(share: float, rise: Rise, decay: Decay) -> tuple[Fact, ...]:
    return (
        Fact("share of the rise of ln(ratio)", share, _SHARE, rise.last),
        Fact("stability ratio near the event", rise.ratio, _EDGE, rise.last),
        Fact("decay exponent, median of the steps before", decay.exponent),
        Fact("v above g²", decay.lag),
    )
