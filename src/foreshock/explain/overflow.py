"""Numbers that overflow: the first that is not finite, in the forward pass or in a gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from foreshock.explain.changed import REACH
from foreshock.explain.history import History, quotient
from foreshock.explain.jump import CALM
from foreshock.explain.record import Cause, Fact
from foreshock.words import number

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from foreshock.spikes import LossEvent

BATCH = "whether the batch has numbers that are not finite"


def overflows(history: History, event: LossEvent) -> list[Cause]:
    """Numbers that stopped being finite while the loss was at its level: nothing had grown before."""
    if event.first_non_finite is None:
        return []
    first = history.at(event.first_non_finite)
    start = max(first - REACH, 0)
    # Another tool's log may lack the norm: which of the two overflowed first is unknown then.
    known = _norm_logged(history, start, first)
    if first > start and not known.any():
        return []
    if not _is_seen(history, first):
        return []
    odd = ~np.isfinite(history.norm[start:first]) & np.isfinite(history.loss[start:first])
    broken = np.flatnonzero(odd & known)
    grown = event.onset < event.first_non_finite - 1 and event.first_non_finite - event.onset > 1
    if broken.size:
        at = start + int(broken[0])
        high = at > history.at(event.onset) + 1
        return [] if high else [_gradient_overflow(history, at)]
    return [] if grown else [_forward_overflow(history, first)]


def _is_seen(history: History, first: int) -> bool:
    """Return whether it is known what was before the first loss that is not finite.

    Between two steps that were logged an instability can grow; and of what was before a log that begins with
    it, nothing is known. The module that overflowed settles it.
    """
    step = int(history.steps[first])
    if first and step - history.steps[first - 1] <= 1:
        return True
    return (not first and step <= 1) or any(
        row.get("what") in ("forward", "input") and row["step"] == step
        for row in history.rows("overflow", step, step)
    )


def _norm_logged(history: History, start: int, end: int) -> NDArray[np.bool_]:
    if end <= start:
        return np.zeros(0, dtype=bool)
    steps = history.steps[start:end]
    rows = history.rows("step", int(steps[0]), int(steps[-1]))
    logged = {row["step"] for row in rows if row.get("gradient_norm") is not None}
    return np.array([int(step) in logged for step in steps])


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
    words, facts, before = f"the loss was {number(float(history.loss[at]))} at step {step:,}", [], math.nan
    if at:
        last = int(history.steps[at - 1])
        before = quotient(float(history.norm[at - 1]), usual.median) if usual else math.nan
        facts = [Fact("gradient of the step before, over its median", before, math.nan, last)]
        words += f", and {number(float(history.loss[at - 1]))} at step {last:,}"
    else:
        words += ", the first of the log"
    for row in history.rows("overflow", step, step + REACH):
        names = row.get("names")
        if row.get("what") == "forward" and isinstance(names, list) and names:
            words += f"; the first output that is not finite is that of {names[0]}, in {row.get('dtype')}"
        elif row.get("what") == "weight" and row["step"] == step and isinstance(names, list):
            words += f"; {', '.join(map(str, names[:3]))} had entries that were not finite before the update"
        if row.get("what") == "input" or row.get("batch"):
            when = "" if row["step"] == step else f" of step {row['step']:,}"
            words += f"; the batch{when} itself has numbers that are not finite"
            facts.append(Fact(BATCH, 1.0, math.nan, row["step"]))
            break
    return Cause("forward overflow", 0.9 if before <= CALM else 0.6, words, tuple(facts), step)
