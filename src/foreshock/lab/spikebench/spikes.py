"""The ground truth of a trace: where its loss spiked, by several definitions of a spike.

=================  ==================================================================================
``3x``             above 3 × the median of the 100 steps before
``8x``             those of them whose peak is at least 8 × that median
``+20 %``          above 1.2 × the median; on text only
``+3 % sustained`` the median of the next 50 steps is at least 1.03 × that of the 100 before; on text only
=================  ==================================================================================

The loss of mini-batches, and of text always, is first averaged over the last five steps, so that a
single batch is no spike. Losses below 1e-8 of the initial loss never count: there rounding alone moves
them by multiples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreshock.lab.spikebench.trace import Column, Trace
from foreshock.lab.spikebench.windows import trailing_mean
from foreshock.spikes import SpikeDefinition, SpikeEvent, detect_spikes

HORIZON = 50
"""Steps ahead for which an alarm is asked whether a spike starts."""

# Steps of the running median: longer than a spike, shorter than the trend of a loss curve.
WINDOW = 100
# Steps of the mean in which spikes of mini-batches are sought: one odd batch is no spike.
SMOOTHING = 5
TALL = 8.0
_SUSTAINED, _AFTER, _REST = 1.03, 50, 10


def judged_loss(trace: Trace) -> Column:
    """Return the loss in which spikes are sought: of full batches as it is, else its mean over five steps."""
    loss = trace.column("loss")
    smooth = trace.meta["kind"] == "mini" or trace.meta["language"]
    return judged_column(loss, smooth=smooth)


def judged_column(loss: Column, *, smooth: bool) -> Column:
    """Return losses with NaN as infinity, averaged over the last five steps if asked."""
    values = np.where(np.isnan(loss.values), np.inf, loss.values)
    return Column(loss.steps, trailing_mean(values, SMOOTHING) if smooth else values)


def ground_truth(trace: Trace) -> dict[str, list[SpikeEvent]]:
    """Return the spikes of a trace by class, each in order.

    Returns:
        Lists for ``3x`` and ``8x``, and for text also ``+20 %`` and ``+3 % sustained``.
    """
    loss = judged_loss(trace)
    found = {"3x": spikes_above(loss, 3.0)}
    found["8x"] = [spike for spike in found["3x"] if spike.height >= TALL]
    if trace.meta["language"]:
        found["+20 %"] = spikes_above(loss, 1.2)
        found["+3 % sustained"] = sustained_rises(loss)
    return found


def judged(trace: Trace) -> NDArray[np.int64]:
    """Return the steps at which a spike could be detected: all but the first 100."""
    return trace.column("loss").steps[WINDOW:]


def sustained_rises(loss: Column) -> list[SpikeEvent]:
    """Return where the loss rose by 3 % and stayed up.

    One starts at a step whose loss is above 1.03 × the median of the 100 steps before it while the step
    before it was not above its own bar, if the median of the 50 steps from there on is at least that
    high. It ends with the last such loss before ten lower ones, or once the running median has reached
    the bar: from then on the higher loss is the level.
    """
    n = loss.values.size
    if n < WINDOW + _AFTER:
        return []
    windows = np.lib.stride_tricks.sliding_window_view
    before = np.full(n, np.nan)
    before[WINDOW:] = np.median(windows(loss.values, WINDOW)[:-1], axis=1)
    after = np.full(n, np.nan)
    after[: n - _AFTER + 1] = np.median(windows(loss.values, _AFTER), axis=1)
    bar = np.maximum(_SUSTAINED * before, SpikeDefinition().floor * abs(loss.values[0]))
    above = loss.values > bar
    rises = above & np.concatenate(([True], ~above[:-1])) & (after >= bar)
    events: list[SpikeEvent] = []
    free_from = WINDOW
    for i in np.flatnonzero(rises):
        if i >= free_from and np.isfinite(before[i]):
            last = _end(loss.values, before, int(i), float(bar[i]))
            events.append(_event(loss, int(i), last, float(before[i])))
            free_from = last + _REST + 1
    return events


def _end(loss: NDArray[np.float64], before: NDArray[np.float64], i: int, bar: float) -> int:
    last = i
    for k in range(i, loss.size):
        if k > last + _REST or before[k] >= bar:
            break
        if loss[k] > bar:
            last = k
    return last


def _event(loss: Column, i: int, last: int, reference: float) -> SpikeEvent:
    peak = i + int(np.argmax(loss.values[i : last + 1]))
    height = float(loss.values[peak] / reference) if reference > 0 else np.inf
    return SpikeEvent(int(loss.steps[i]), int(loss.steps[peak]), int(loss.steps[last]), reference, height)


def spikes_above(loss: Column, factor: float) -> list[SpikeEvent]:
    """Return the spikes above a multiple of the median of the 100 steps before."""
    definition = SpikeDefinition(factor=factor, window=WINDOW)
    return detect_spikes(loss.steps.tolist(), loss.values.tolist(), definition)


@dataclass(frozen=True)
class Truth:
    """The spikes of a trace and the steps at which alarms are judged.

    Attributes:
        trace: The trace.
        spikes: Its spikes by class.
        judged: Steps at which a spike could be detected, of shape (n,).
        outside: Whether each lies outside the spikes above 3×.
        soon: Whether such a spike starts within the next 50 steps.
        asked: Whether `soon` can be asked there: outside spikes, and not so close to the end of the run
            that the next 50 steps are unknown.
    """

    trace: Trace
    spikes: Mapping[str, list[SpikeEvent]]
    judged: NDArray[np.int64]
    outside: NDArray[np.bool_]
    soon: NDArray[np.bool_]
    asked: NDArray[np.bool_]

    @property
    def control(self) -> bool:
        """Whether the run is a control."""
        return bool(self.trace.meta["role"] == "control")


def truth_of(trace: Trace) -> Truth:
    """Return the truth of a trace."""
    steps, spikes = judged(trace), ground_truth(trace)
    outside = np.ones(steps.size, dtype=bool)
    soon = np.zeros(steps.size, dtype=bool)
    for spike in spikes["3x"]:
        outside &= ~((steps >= spike.onset) & (steps <= spike.end))
        soon |= (steps < spike.onset) & (steps >= spike.onset - HORIZON)
    last = steps[-1] if steps.size else 0
    return Truth(trace, spikes, steps, outside, soon, outside & (soon | (steps + HORIZON <= last)))
