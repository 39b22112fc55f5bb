"""Causes in the training itself: its rate, its options, its state, what it trains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from foreshock.explain.history import History, middle, number_of, quotient
from foreshock.explain.jump import NEAR, WINDOW, Jump
from foreshock.explain.record import Cause, Fact
from foreshock.words import first_few, number

if TYPE_CHECKING:
    from foreshock.spikes import LossEvent

REACH = 60
"""Steps after a change of the training in which the loss may begin to rise because of it."""
ROSE = 1.3
"""Learning rate over an earlier one, from which it has risen."""

_EXACTLY, _NEARLY = 1e-4, 0.05  # of v̂/g² from one: v is that of one step, or may be so by chance
_COLD = 0.3  # of v̂ and of v̂ over g², after a resume over before it: v is lost


def changed_training(history: History, first: int, last: int) -> list[Mapping[str, Any]]:
    """Return the changes of the training itself, other than its learning rate, in a range of steps.

    Args:
        history: The run.
        first: First step.
        last: Last step.
    """
    types = ("parameters", "options", "resume")
    return [row for what in types for row in history.changes_near(what, first, last)]


def learning_rate(history: History, event: LossEvent, jump: Jump | None) -> Cause | None:
    """A rate that rose: at once, in a warm-up, or at a restart."""
    end = history.at(min(event.peak, event.onset + NEAR)) + 1
    onset = history.at(event.onset)
    rates = history.rate[max(onset - WINDOW, 0) : end]
    known = np.flatnonzero(np.isfinite(rates) & (rates > 0))
    if not known.size:
        return None
    highest = int(known[np.argmax(rates[known])])
    lowest = int(known[np.argmin(rates[known][: max(int((known <= highest).sum()), 1)])])
    first, last = (int(history.steps[max(onset - WINDOW, 0) + i]) for i in (lowest, highest))
    times = quotient(quotient(rates[highest], rates[lowest]), _new_groups(history, first, last))
    sudden = steep_rate(history, onset) >= ROSE
    if not times >= ROSE or (jump is not None and not sudden and not rose_at(history, jump.at)):
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


def lost_second_moment(row: Mapping[str, Any]) -> bool:
    """Return whether v is not what it was before a resume.

    Both v̂ and v̂ over g² fell: where the gradient fell as well, or the learning rate was zero for long, v is
    right.

    Args:
        row: The record of the resume, with both sides.
    """
    return all(
        number_of(row, "after", name) < _COLD * number_of(row, "before", name)
        for name in ("second_moment", "instant_lag")
    )


def lost_state(history: History, event: LossEvent) -> Cause | None:
    """A resume after which the optimizer counts anew, or its v is not what it was."""
    for row in reversed(history.changes_near("resume", event.onset - REACH, event.onset)):
        before, after = (number_of(row, name, "updates") for name in ("before", "after"))
        lag = [number_of(row, name, "instant_lag") for name in ("before", "after")]
        anew = after < before
        # After the first update of an optimizer v̂ is exactly g²; any other has a v of its own.
        first = abs(lag[1] - 1) < _EXACTLY and not abs(lag[0] - 1) < _NEARLY
        if not (anew or first or lost_second_moment(row)):
            continue
        step = int(row["step"])
        facts = [
            Fact("updates of the optimizer, after the resume", after, before, step),
            Fact("v̂ over g² at the first step", lag[1], math.nan, step),
            Fact("v̂ over g² at the last step before", lag[0], math.nan, step - 1),
        ]
        began = f"began at update {after:,.0f} although the run was at {before:,.0f}"
        what = began if anew else "had v̂ = g², as after its first update" if first else "kept its count"
        words = f"the run was resumed at step {step:,}; its optimizer {what}"
        if math.isfinite(lag[0]) and math.isfinite(lag[1]):
            words += f", and v̂/g² went from {number(lag[0])} to {number(lag[1])}"
        words += ": v was not loaded"
        return Cause("lost optimizer state", 0.95, words, tuple(facts), step)
    return None


def parameters_changed(history: History, event: LossEvent) -> Cause | None:
    """Parameters that began to be trained, or stopped."""
    rows = history.changes_near("parameters", event.onset - REACH, event.onset)
    rows = [row for row in rows if number_of(row, "after", "new") > 0 or number_of(row, "after", "gone") > 0]
    if not rows:
        return None
    row = rows[-1]
    new, gone = (number_of(row, "after", name) for name in ("new", "gone"))
    names = [str(name) for name in row.get("names") or ()] if isinstance(row.get("names"), list) else []
    step = int(row["step"])
    facts = (Fact("tensors trained anew", new, 0.0, step), Fact("tensors no longer trained", gone, 0.0, step))
    listed = f" ({first_few(names, most=3)})" if names else ""
    known = [f"{one:,.0f}" if math.isfinite(one) else "some" for one in (new, gone)]
    words = f"{known[0]} tensors{listed} began to be trained at step {step:,}, {known[1]} stopped"
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


def steep_rate(history: History, at: int) -> float:
    """Return the learning rate of the last three steps before an index over that of the ten before them.

    Args:
        history: The run.
        at: Index of a step whose loss is high; its weights were made by the step before.
    """
    now, before = history.rate[max(at - 3, 0) : at + 1], history.rate[max(at - 13, 0) : max(at - 3, 0)]
    known, usual = now[np.isfinite(now)], middle(before)
    return quotient(float(known.max()), usual) if known.size and usual > 0 else 1.0


def rose_at(history: History, at: int) -> bool:
    """Return whether the learning rate rose at once just before a step.

    Args:
        history: The run.
        at: Index of the step.
    """
    return steep_rate(history, at) >= ROSE


def _fading(steps: int) -> float:
    """Return how certain a change is the cause of what begins so many steps later."""
    return max(0.95 - 0.4 * steps / REACH, 0.5)
