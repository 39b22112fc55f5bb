"""Causes in the data: one bad batch, other data, another shape of the batch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from foreshock.explain.changed import REACH, changed_training, rose_at
from foreshock.explain.history import History, logarithm, quotient
from foreshock.explain.jump import CALM, LEFT, NEAR, ONE_STEP, PART, Jump
from foreshock.explain.record import Cause, Fact
from foreshock.words import number

if TYPE_CHECKING:
    from foreshock.spikes import LossEvent

_LOUD = 1.5  # gradient of the step over its median
_SHAPE = 1.25  # batch size or length over the usual one, or one over it


def bad_batch(history: History, event: LossEvent, jump: Jump | None) -> Cause | None:
    """One batch: loss and gradient normal before, the loss normal after."""
    if jump is None or not jump.left <= LEFT or jump.part < PART:
        return None
    if not jump.gradient > _LOUD or _is_changed(history, event, jump) or shape_change(history, event):
        return None
    step = int(history.steps[jump.at])
    facts = (
        Fact("gradient of the step before, over its median", jump.before, CALM, step - 1),
        Fact("gradient of the step, over its median", jump.gradient, _LOUD, step),
        Fact("share of the rise in this one step", jump.share, ONE_STEP, step),
        Fact("share of the rise that is left over the next five steps", jump.left, LEFT, step + 1),
    )
    words = (
        f"the loss rose within step {step:,} with a gradient {number(jump.gradient)} × its usual size, the "
        f"step before was {number(jump.before)} × and {_percent(jump.left)} of the rise was left after it"
    )
    # What overflows in the backward pass may be large weights as well as a large value in the batch.
    most = 0.95 if math.isfinite(jump.gradient) else 0.5
    sure = min(jump.share, 1 - max(jump.left, 0) / (2 * LEFT), most)
    return Cause("bad batch", max(sure, 0.5), words, facts, step)


def data_change(history: History, event: LossEvent, jump: Jump | None) -> Cause | None:
    """Other data from one step on: a normal update can't raise a loss at once, and it stays high."""
    if jump is None or not jump.left > LEFT:
        return None
    if _is_changed(history, event, jump) or shape_change(history, event):
        return None
    step = int(history.steps[jump.at])
    facts = (
        Fact("gradient of the step before, over its median", jump.before, CALM, step - 1),
        Fact("share of the rise in this one step", jump.share, ONE_STEP, step),
        Fact("share of the rise that is left over the next five steps", jump.left, LEFT, step + 1),
    )
    words = (
        f"the loss rose within step {step:,} although the gradient before it was {number(jump.before)} × its "
        f"usual size and nothing of the training changed, and {_percent(jump.left)} of the rise stayed"
    )
    sure = min(jump.share, 0.5 + jump.left / 2, 0.95)
    return Cause("data change", max(sure, 0.5), words, facts, step)


def batch_shape(history: History, event: LossEvent) -> Cause | None:
    """Another number of examples, or another length of each, at the step or shortly before."""
    found = shape_change(history, event)
    if found is None:
        return None
    step, what, usual, now = found
    facts = (Fact(f"{what}, over the usual one", quotient(now, usual), math.nan, step),)
    words = f"the {what} was {number(now)} at step {step:,} instead of {number(usual)}"
    factor = abs(logarithm(quotient(now, usual)))
    sure = 0.6 + 0.15 * factor if math.isfinite(factor) else 0.6
    return Cause("batch shape", min(0.95, sure), words, facts, step)


def shape_change(history: History, event: LossEvent) -> tuple[int, str, float, float] | None:
    """Return step, quantity, usual value and value where the shape of the batch left what it had been.

    Args:
        history: The run.
        event: What happened to the loss.
    """
    onset, peak = history.at(event.onset), history.at(event.peak)
    with np.errstate(invalid="ignore", divide="ignore"):
        each = history.elements / history.size
    for what, values in (("batch size", history.size), ("number of values in an example", each)):
        # The change itself, or a step with another shape among the first high ones.
        for at in range(max(onset - REACH, 1), min(peak, onset + NEAR) + 1):
            before = values[max(at - 50, 0) : at]
            before = before[np.isfinite(before)]
            if before.size < 10 or not math.isfinite(values[at]):
                continue
            low, high = float(before.min()), float(before.max())
            if low / _SHAPE < values[at] < high * _SHAPE:
                continue
            # One odd batch acts at once; a new shape as long as it lasts.
            lasting = at <= onset and bool((values[at : onset + 1] == values[at]).all())
            if at >= onset - NEAR or lasting:
                return int(history.steps[at]), what, float(np.median(before)), float(values[at])
    return None


def _is_changed(history: History, event: LossEvent, jump: Jump) -> bool:
    """Return whether the training was changed before a jump, so that it may be the doing of that."""
    changed = changed_training(history, event.onset - REACH, event.onset)
    return bool(changed) or rose_at(history, jump.at)


def _percent(share: float) -> str:
    return f"{100 * max(share, 0.0):.0f} %"
