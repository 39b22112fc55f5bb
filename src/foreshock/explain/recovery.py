"""Will it recover, and did it: four outcomes, each defined in numbers.

Bai et al. (2025, arXiv 2506.04805) sort spikes into neutral, benign, malignant and catastrophic ones by what
they leave behind. With R the rise above the level before, A the median loss of the last fifty of the 150
steps after the event, E the level that the trend of the hundred steps before leads one to expect there, H the
level halfway to it (a curve flattens: half of its progress is to be had), and a margin m = max(A/10, 2σ), σ
the noise of the loss before:

============ ==================================================================================
catastrophic the loss stayed NaN, or A is above the level before by more than half of R
malignant    the loss came back, and A > H + m: the run pays for the spike
benign       A < E − m: the run is better off than its trend had been
neutral      between them: as if nothing had happened
============ ==================================================================================

A run that lost something may make up for it later: that is said beside the outcome, and then nobody is sent
back to a checkpoint from before.

The paper judges by test loss as well; a log has the loss of training, so a spike that helps or harms
generalisation alone is neutral here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from foreshock.explain.history import History, quotient
from foreshock.explain.record import Outcome, Recovery
from foreshock.words import number

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from foreshock.spikes import LossEvent

_TREND, _NEAR = 100, 5  # steps before an event whose trend is taken, without the last ones
_LEVEL = 10  # steps before an event that its level is of
_SETTLED, _FEWEST, _JUDGED = 150, 20, 50  # steps after an event; that are needed; whose median counts
_STAYED, _MARGIN, _SIGMAS = 0.5, 0.1, 2.0
_BACK = 0.1  # of the rise: below it the loss is back
_LONGEST = 20_000  # steps after which it is no longer looked for whether a loss came back


def judge_recovery(history: History, event: LossEvent) -> Recovery:
    """Return what became of a run after an event.

    Args:
        history: The run.
        event: What happened to the loss.
    """
    end = history.at(event.end) + 1
    after = history.loss[end : end + _SETTLED]
    finite = after[np.isfinite(after)]
    before = event.reference
    middle = end + max(len(after) - _JUDGED // 2, len(after) // 2)
    expected, halfway = (_expected(history, event, middle, share=share) for share in (1.0, 0.5))
    if event.kind == "non-finite" and not finite.size:
        return Recovery("catastrophic", "the loss was not finite until the run ended", before, expected)
    if event.kind == "divergence":
        ended = "settled far above its level, or was high when the run ended"
        level = float(np.median(finite)) if finite.size else math.nan
        regained = _regained(history, event, end)
        words = f"the loss {ended}{_by(regained)}"
        return Recovery("catastrophic", words, before, expected, level, regained=regained)
    if finite.size < _FEWEST:
        words = _unfinished(history, event)
        return Recovery("not known yet", words, before, expected)
    level = float(np.median(finite[-_JUDGED:]))
    outcome, words = _judged(event, expected, halfway, level)
    lost = outcome in ("catastrophic", "malignant")
    # A level that is below the one before is back, also where the log ends with it.
    start = end if level <= event.reference else end + _SETTLED
    regained = _regained(history, event, start) if lost else None
    words += _by(regained)
    return Recovery(outcome, words, before, expected, level, _steps_until_back(history, event), regained)


def _judged(event: LossEvent, expected: float, halfway: float, level: float) -> tuple[Outcome, str]:
    if math.isnan(event.reference):
        return "neutral", f"the loss is finite again, {number(level)}; there was none before to compare with"
    margin = max(_MARGIN * abs(level), _SIGMAS * event.sigma)
    low, high = number(expected), number(halfway)
    led = low if low == high else f"{low} to {high}"
    numbers = f"{number(level)} after it, and its trend led to {led}"
    if math.isfinite(event.rise) and level > event.reference + _STAYED * event.rise:
        return "catastrophic", f"the loss kept more than half of its rise: {numbers}"
    if level > halfway + margin:
        where = "higher" if level > event.reference else "not to where its trend would have brought it"
        return "malignant", f"the loss came back, but {where}: {numbers}"
    if level < expected - margin:
        return "benign", f"the run is better off: {numbers}"
    # A noisy loss may be far off its trend and say nothing by that.
    within = "" if level <= halfway + _MARGIN * abs(level) else f", within the noise of {number(margin)},"
    return "neutral", f"the loss is{within} where its trend would have brought it: {numbers}"


def _expected(history: History, event: LossEvent, at: int, *, share: float) -> float:
    """Return the level that a share of the trend before an event leads to; one that rises counts as level."""
    onset = history.at(event.onset)
    part = slice(max(onset - _TREND - _NEAR, 0), max(onset - _NEAR, 0))
    losses = history.loss[part]
    places = np.arange(part.start, part.start + len(losses), dtype=np.float64)
    known = np.isfinite(losses)
    losses, places = losses[known], places[known]
    if losses.size < _FEWEST:
        return event.reference
    logarithmic = bool((losses > 0).all()) and event.reference > 0
    values = np.log(losses) if logarithmic else losses
    reference = math.log(event.reference) if logarithmic else event.reference
    # The level before is that of the last twenty steps, of a loss that falls.
    steps = max(at - (onset - _LEVEL), 0)
    ahead = reference + share * steps * min(_slope(places, values), 0.0)
    return math.exp(min(ahead, reference)) if logarithmic else ahead


def _slope(places: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """Return the slope of a line through the medians of the two halves: outliers don't count."""
    half = len(values) // 2
    run = float(np.median(places[half:]) - np.median(places[:half]))
    return quotient(float(np.median(values[half:]) - np.median(values[:half])), run) if run > 0 else 0.0


def _steps_until_back(history: History, event: LossEvent) -> int | None:
    start = history.at(event.peak)
    bar = event.reference + _BACK * event.rise if math.isfinite(event.rise) else event.reference
    back = np.flatnonzero(history.loss[start : history.at(event.end) + _SETTLED] <= bar)
    return int(history.steps[start + int(back[0])]) - event.onset if back.size else None


def _regained(history: History, event: LossEvent, start: int) -> int | None:
    """Return the first step from an index on by which the median of twenty losses is at the level before."""
    for at in range(start, len(history.loss) - _FEWEST + 1, _FEWEST):
        if float(np.median(history.loss[at : at + _FEWEST])) <= event.reference:
            return int(history.steps[at + _FEWEST - 1])
        if at - start > _LONGEST:
            break
    return None


def _by(regained: int | None) -> str:
    return "" if regained is None else f"; by step {regained:,} it was below its level before the event again"


def _unfinished(history: History, event: LossEvent) -> str:
    """What the last steps say of an event that the log ends in, or right after."""
    last = history.loss[history.at(event.peak) :]
    last = last[np.isfinite(last)]
    if last.size and event.rise > 0 and math.isfinite(event.rise):
        left = quotient(float(last[-1]) - event.reference, event.rise)
        if left < _BACK:
            return "the loss is back at its level, and the log ends too soon after it to tell its cost"
        if left < 1:
            return f"the loss is falling, {100 * left:.0f} % of the rise is left where the log ends"
    return "the log ends before the loss comes down"
