"""Causes that act at one step: a batch, other data, numbers that overflow, a training that was changed.

What changes a training – its rate, its options, its state, its parameters – acts on the loss of the *next*
step: that step is the first whose weights are made by it. Data act on the loss of the same step, whatever the
weights. Both leave the gradient of the step before as it was, which an instability, that grows for some
steps, does not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from foreshock.explain.history import History, logarithm, middle, number_of, quotient
from foreshock.explain.record import Cause, Fact
from foreshock.words import number

if TYPE_CHECKING:
    from foreshock.spikes import LossEvent

REACH = 60
"""Steps after a change of the training in which the loss may begin to rise because of it."""
ROSE = 1.3
"""Learning rate over an earlier one, from which it has risen."""

LEFT = 0.35
"""Share of a rise that may be left in the steps after a batch that alone was bad."""
PART = 0.5
"""Height of a jump over that of its event, from which the one is the other."""

_NEAR = 5  # steps before an onset in which the rise may have begun: a noisy loss is judged by a mean of five
_ONE_STEP = 0.6  # share of the rise to the first summit that came in one step
_TIMES = 2.0  # the rise over those within one step before: a loss that swings already is not calm
_DOUBLED, _CLEAN_SHARE, _CLEAN_BEFORE = 2.0, 0.8, 2.0  # rate, and the jump beside one that rises
_FIRST = 3  # steps after that step within which the first summit counts
_CALM = 3.0  # gradient of the step before over its median: not more than that, where nothing builds up
_LOUD = 1.5  # gradient of the step over its median
_AFTER = 5
_SHAPE = 1.25  # batch size or length over the usual one, or one over it
_WINDOW = 100  # steps before an event in which a rise of the learning rate counts
_EXACTLY, _NEARLY = 1e-4, 0.05  # of v̂/g² from one: v is that of one step, or may be so by chance
_COLD = 0.3  # of v̂ over g², after a resume over before it: v is lost


@dataclass(frozen=True)
class Jump:
    """A rise of the loss within one step, from calm.

    Attributes:
        at: Index of the step.
        share: Share of the rise to the first summit that came in it.
        before: Gradient of the step before, over its median.
        gradient: Gradient of the step, over the median.
        left: Share of the rise that was left over the next five steps; NaN if the run ended.
        times: The rise over the largest one within a step of the twenty steps before.
        part: Height of the step over that of the whole event: a small one was no more than its beginning.
    """

    at: int
    share: float
    before: float
    gradient: float
    left: float
    times: float = math.inf
    part: float = 1.0


def find_jump(history: History, event: LossEvent) -> Jump | None:
    """Return the step at which a loss rose at once from calm; None if the rise built up, or is not known.

    Args:
        history: The run.
        event: What happened to the loss.
    """
    onset, peak = history.at(event.onset), history.at(event.peak)
    first, last = max(onset - _NEAR, 1), min(peak, onset)
    rises = np.diff(history.loss[first - 1 : last + 1])
    if not rises.size or not math.isfinite(event.reference):
        return None
    rises = np.where(np.isnan(rises), -math.inf, rises)
    at = first + int(np.argmax(rises))
    usual = history.usual(history.norm, at)
    if usual is None or not usual.median > 0 or not np.isfinite(history.loss[at]):
        return None
    summit = max(value for value in history.loss[at : at + _FIRST + 1].tolist() if not math.isnan(value))
    height = summit - event.reference
    share = float(rises.max()) / height if height > 0 and math.isfinite(height) else math.nan
    after = history.loss[at + 1 : at + 1 + _AFTER]
    left = quotient(middle(after) - event.reference, float(history.loss[at]) - event.reference)
    before = quotient(float(history.norm[at - 1]), usual.median)
    jump = Jump(
        at=at,
        share=share,
        before=before,
        gradient=quotient(float(history.norm[at]), usual.median),
        left=left if after.size >= 2 else math.nan,
        times=_over_rises(history, at, float(rises.max())),
        part=_part(float(history.loss[at]), event),
    )
    calm = jump.share >= _ONE_STEP and jump.before <= _CALM and jump.times >= _TIMES
    # A rate that rises for long makes a loss swing: a rise within one step must then be clean to count.
    rising = _rise_of_rate(history, onset) >= _DOUBLED
    clean = jump.share >= _CLEAN_SHARE and jump.before <= _CLEAN_BEFORE
    return jump if calm and (clean or not rising) else None


def _part(loss: float, event: LossEvent) -> float:
    return quotient(loss - event.reference, event.rise) if event.rise < math.inf else 1.0


def _rise_of_rate(history: History, onset: int) -> float:
    """Return the learning rate at an index over the lowest one of the hundred steps before."""
    rates = history.rate[max(onset - _WINDOW, 0) : onset + 1]
    rates = rates[np.isfinite(rates) & (rates > 0)]
    return quotient(float(rates[-1]), float(rates.min())) if rates.size else 1.0


def _over_rises(history: History, at: int, rise: float) -> float:
    """Return a rise over the largest one within a step of the twenty steps before."""
    before = np.diff(history.loss[max(at - 21, 0) : at])
    before = before[np.isfinite(before)]
    largest = float(before.max()) if before.size else 0.0
    return quotient(rise, largest) if largest > 0 else math.inf


def changed_training(history: History, first: int, last: int) -> list[Mapping[str, Any]]:
    """Return the changes of the training itself, other than its learning rate, in a range of steps.

    Args:
        history: The run.
        first: First step.
        last: Last step.
    """
    types = ("parameters", "options", "resume")
    return [row for what in types for row in history.changes_near(what, first, last)]


def steep_rate(history: History, at: int) -> float:
    """Return the learning rate of the last three steps before an index over that of the ten before them.

    Args:
        history: The run.
        at: Index of a step whose loss is high; its weights were made by the step before.
    """
    now, before = history.rate[max(at - 3, 0) : at + 1], history.rate[max(at - 13, 0) : max(at - 3, 0)]
    known, usual = now[np.isfinite(now)], middle(before)
    return quotient(float(known.max()), usual) if known.size and usual > 0 else 1.0


def bad_batch(history: History, event: LossEvent, jump: Jump | None) -> Cause | None:
    """One batch: loss and gradient normal before, the loss normal after."""
    if jump is None or not jump.left <= LEFT or jump.part < PART:
        return None
    if not jump.gradient > _LOUD or _is_changed(history, event, jump) or shape_change(history, event):
        return None
    step = int(history.steps[jump.at])
    facts = (
        Fact("gradient of the step before, over its median", jump.before, _CALM, step - 1),
        Fact("gradient of the step, over its median", jump.gradient, _LOUD, step),
        Fact("share of the rise in this one step", jump.share, _ONE_STEP, step),
        Fact("share of the rise that is left over the next five steps", jump.left, LEFT, step + 1),
    )
    words = (
        f"the loss rose within step {step:,} with a gradient {number(jump.gradient)} × its usual size, the "
        f"step before was {number(jump.before)} × and {_percent(jump.left)} of the rise was left after it"
    )
    sure = min(jump.share, 1 - max(jump.left, 0) / (2 * LEFT), 0.95)
    return Cause("bad batch", max(sure, 0.5), words, facts, step)


def data_change(history: History, event: LossEvent, jump: Jump | None) -> Cause | None:
    """Other data from one step on: a normal update can't raise a loss at once, and it stays high."""
    if jump is None or not jump.left > LEFT:
        return None
    if _is_changed(history, event, jump) or shape_change(history, event):
        return None
    step = int(history.steps[jump.at])
    facts = (
        Fact("gradient of the step before, over its median", jump.before, _CALM, step - 1),
        Fact("share of the rise in this one step", jump.share, _ONE_STEP, step),
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
        for at in range(max(onset - REACH, 1), min(peak, onset + _NEAR) + 1):
            before = values[max(at - 50, 0) : at]
            before = before[np.isfinite(before)]
            if before.size < 10 or not math.isfinite(values[at]):
                continue
            low, high = float(before.min()), float(before.max())
            if low / _SHAPE < values[at] < high * _SHAPE:
                continue
            # One odd batch acts at once; a new shape as long as it lasts.
            lasting = at <= onset and bool((values[at : onset + 1] == values[at]).all())
            if at >= onset - _NEAR or lasting:
                return int(history.steps[at]), what, float(np.median(before)), float(values[at])
    return None


def learning_rate(history: History, event: LossEvent, jump: Jump | None) -> Cause | None:
    """A rate that rose: at once, in a warm-up, or at a restart."""
    end = history.at(min(event.peak, event.onset + _NEAR)) + 1
    onset = history.at(event.onset)
    rates = history.rate[max(onset - _WINDOW, 0) : end]
    known = np.flatnonzero(np.isfinite(rates) & (rates > 0))
    if not known.size:
        return None
    highest = int(known[np.argmax(rates[known])])
    lowest = int(known[np.argmin(rates[known][: max(int((known <= highest).sum()), 1)])])
    first, last = (int(history.steps[max(onset - _WINDOW, 0) + i]) for i in (lowest, highest))
    times = quotient(quotient(rates[highest], rates[lowest]), _new_groups(history, first, last))
    sudden = steep_rate(history, onset) >= ROSE
    if not times >= ROSE or (jump is not None and not sudden and not _rose_at(history, jump.at)):
        return None
    facts = (Fact("learning rate over the lowest one before", times, ROSE, last),)
    words = (
        f"the learning rate rose {number(times)}-fold, from {number(float(rates[lowest]))} at step {first:,} "
        f"to {number(float(rates[highest]))} at step {last:,}"
    )
    resumed = history.changes_near("resume", first, last)
    if resumed:
        words += ", where the run was resumed"
    return Cause("learning rate", min(0.95, 0.6 + 0.2 * math.log(times)), words, facts, last)


def _new_groups(history: History, first: int, last: int) -> float:
    """Return by how much new parameter groups raised the highest rate: that of the others did not rise."""
    raised = 1.0
    for row in history.changes_near("parameters", first, last):
        at = history.at(row["step"])
        more = number_of(row, "after", "groups") > number_of(row, "before", "groups")
        if more and at and history.rate[at - 1] > 0:
            raised *= max(quotient(history.rate[at], history.rate[at - 1]), 1.0)
    return raised


def lost_state(history: History, event: LossEvent) -> Cause | None:
    """A resume after which the optimizer counts anew, or its v is not what it was."""
    for row in reversed(history.changes_near("resume", event.onset - REACH, event.onset)):
        before, after = (number_of(row, name, "updates") for name in ("before", "after"))
        lag = [number_of(row, name, "instant_lag") for name in ("before", "after")]
        moment = [number_of(row, name, "second_moment") for name in ("before", "after")]
        anew = after < before
        lost = moment[1] < _COLD * moment[0] and lag[1] < _COLD * lag[0]
        # After the first update of an optimizer v̂ is exactly g²; any other has a v of its own.
        first = abs(lag[1] - 1) < _EXACTLY and not abs(lag[0] - 1) < _NEARLY
        if not (anew or lost or first):
            continue
        step = int(row["step"])
        facts = [
            Fact("updates of the optimizer, after the resume", after, before, step),
            Fact("v̂ over g² at the first step", lag[1], math.nan, step),
            Fact("v̂ over g² at the last step before", lag[0], math.nan, step - 1),
        ]
        began = f"began at update {after:,.0f} although the run was at {before:,.0f}"
        what = began if anew else "had v̂ = g², as after its first update" if first else "kept its count"
        words = (
            f"the run was resumed at step {step:,}; its optimizer {what}, and v̂/g² went from "
            f"{number(lag[0])} to {number(lag[1])}: v was not loaded"
        )
        return Cause("lost optimizer state", 0.95, words, tuple(facts), step)
    return None


def parameters_changed(history: History, event: LossEvent) -> Cause | None:
    """Parameters that began to be trained, or stopped."""
    rows = history.changes_near("parameters", event.onset - REACH, event.onset)
    rows = [row for row in rows if number_of(row, "after", "new") or number_of(row, "after", "gone")]
    if not rows:
        return None
    row = rows[-1]
    new, gone = (number_of(row, "after", name) for name in ("new", "gone"))
    names = [str(name) for name in row.get("names") or ()] if isinstance(row.get("names"), list) else []
    step = int(row["step"])
    facts = (Fact("tensors trained anew", new, 0.0, step), Fact("tensors no longer trained", gone, 0.0, step))
    listed = f" ({', '.join(names[:3])}{' …' if len(names) > 3 else ''})" if names else ""
    words = f"{new:,.0f} tensors{listed} began to be trained at step {step:,}, {gone:,.0f} stopped"
    return Cause("parameters changed", _fading(event.onset - step), words, facts, step)


def options_changed(history: History, event: LossEvent) -> Cause | None:
    """An option of the optimizer other than its rate."""
    rows = history.changes_near("options", event.onset - REACH, event.onset)
    if not rows:
        return None
    row = rows[-1]
    after: Any = row.get("after")
    before: Any = row.get("before")
    names = list(after) if isinstance(after, Mapping) else []
    step = int(row["step"])
    pairs = [
        f"{name} from {before.get(name)} to {after.get(name)}"
        for name in names
        if isinstance(before, Mapping)
    ]
    words = f"at step {step:,} the optimizer's options changed: {', '.join(pairs)}"
    return Cause("options changed", _fading(event.onset - step), words, (), step)


def overflows(history: History, event: LossEvent) -> list[Cause]:
    """Numbers that stopped being finite while the loss was at its level: nothing had grown before."""
    if event.first_non_finite is None:
        return []
    first = history.at(event.first_non_finite)
    start = max(first - REACH, 0)
    broken = np.flatnonzero(~np.isfinite(history.norm[start:first]) & np.isfinite(history.loss[start:first]))
    grown = event.onset < event.first_non_finite - 1 and event.first_non_finite - event.onset > 1
    if broken.size:
        at = start + int(broken[0])
        high = at > history.at(event.onset) + 1
        return [] if high else [_gradient_overflow(history, at)]
    return [] if grown else [_forward_overflow(history, first)]


def _gradient_overflow(history: History, at: int) -> Cause:
    step = int(history.steps[at])
    rows = history.rows("gradients", step, step)
    lost: Sequence[Any] = rows[0].get("non_finite") or () if rows else ()
    where = f", that of {', '.join(map(str, lost[:3]))}" if lost else ""
    facts = (
        Fact("loss of that step", float(history.loss[at]), math.nan, step),
        Fact("tensors whose gradient was not finite", float(len(lost)), math.nan, step),
    )
    words = f"the gradient was not finite at step {step:,}{where}, when the loss still was"
    return Cause("gradient overflow", 0.95, words, facts, step)


def _forward_overflow(history: History, at: int) -> Cause:
    step = int(history.steps[at])
    usual = history.usual(history.norm, at)
    before = quotient(float(history.norm[at - 1]), usual.median) if usual and at else math.nan
    facts = [Fact("gradient of the step before, over its median", before, math.nan, step - 1)]
    words = f"the loss was {number(float(history.loss[at]))} at step {step:,}, and normal at the step before"
    for row in history.rows("overflow", step, step + REACH):
        names = row.get("names")
        if row.get("what") == "forward" and isinstance(names, list) and names:
            words += f"; the first output that is not finite is that of {names[0]}, in {row.get('dtype')}"
        elif row.get("what") == "weight" and row["step"] == step and isinstance(names, list):
            words += f"; {', '.join(map(str, names[:3]))} had entries that were not finite before the update"
        elif row.get("what") == "input":
            words += "; the batch itself has numbers that are not finite"
    return Cause("forward overflow", 0.9 if before <= _CALM else 0.6, words, tuple(facts), step)


def _is_changed(history: History, event: LossEvent, jump: Jump) -> bool:
    """Return whether the training was changed before a jump, so that it may be the doing of that."""
    changed = changed_training(history, event.onset - REACH, event.onset)
    return bool(changed) or _rose_at(history, jump.at)


def _rose_at(history: History, at: int) -> bool:
    return steep_rate(history, at) >= ROSE


def _fading(steps: int) -> float:
    """Return how certain a change is the cause of what begins so many steps later."""
    return max(0.95 - 0.4 * steps / REACH, 0.5)


def _percent(share: float) -> str:
    return f"{100 * max(share, 0.0):.0f} %"
