"""A run → what happened at each event of its loss."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from foreshock.explain.advice import advise
from foreshock.explain.changed import (
    REACH,
    learning_rate,
    lost_state,
    options_changed,
    parameters_changed,
)
from foreshock.explain.course import places_of, signals_of, stages_of, table_near, unstable_blocks
from foreshock.explain.data import bad_batch, batch_shape, data_change
from foreshock.explain.history import History
from foreshock.explain.jump import find_jump
from foreshock.explain.layers import layer_types
from foreshock.explain.noise import gradient_noise
from foreshock.explain.overflow import overflows
from foreshock.explain.record import Cause, Explanation, Name
from foreshock.explain.recovery import judge_recovery
from foreshock.explain.roles import role_places
from foreshock.explain.slow import slow_causes
from foreshock.representation import short_line
from foreshock.runlog.values import recorded_losses
from foreshock.spikes import EventDefinition, LossEvent, detect_events

if TYPE_CHECKING:
    from foreshock.runlog import Run


def explain_run(run: Run, definition: EventDefinition | None = None) -> tuple[Explanation, ...]:
    """Return what happened at each event of the loss of a run, in order.

    Args:
        run: A run as read from its log.
        definition: What counts as an event; by default that of `foreshock.spikes.detect_events`.

    Example:
        >>> import tempfile
        >>> from foreshock.runlog import RunLogWriter, read_run
        >>> folder = tempfile.mkdtemp()
        >>> log = RunLogWriter(folder)
        >>> for step in range(120):
        ...     bad = step == 100
        ...     values = {"loss": 40.0 if bad else 1.0, "gradient_norm": 90.0 if bad else 2.0}
        ...     log.write("step", {"step": step, "learning_rate": 1e-3, **values})
        >>> log.close()
        >>> [explanation] = explain_run(read_run(folder))
        >>> explanation.onset, explanation.cause
        (100, 'bad batch')
    """
    steps, losses = recorded_losses(run)
    return explain_events(run, detect_events(steps.tolist(), losses.tolist(), definition))


def explain_events(run: Run, events: Sequence[LossEvent]) -> tuple[Explanation, ...]:
    """Return what happened at events of the loss that are known already, in their order.

    Args:
        run: A run as read from its log.
        events: What `foreshock.spikes.detect_events` found in its losses.
    """
    history, found, after = History(run), [], -math.inf
    # A log may have been written by anybody, with any numbers.
    with np.errstate(all="ignore"):
        for event in events:
            found.append(explain_event(history, event, after=after))
            after = event.end if event.kind != "climb" else after
    return tuple(found)


def explain_event(history: History, event: LossEvent, *, after: float = -math.inf) -> Explanation:
    """Return what happened at one event.

    Args:
        history: The run.
        event: What happened to the loss.
        after: Last step of the sudden event before: what was announced up to it was announced for that one.
    """
    causes = causes_of(history, event)
    recovery = judge_recovery(history, event)
    ids = _ids(history, event, causes)
    table = table_near(history, event)
    blocks = unstable_blocks(history, event)
    roles = role_places(table, layer_types(history.run), blocks=blocks)
    found = Explanation(
        kind=event.kind,
        onset=event.onset,
        peak=event.peak,
        end=event.end,
        reference=event.reference,
        height=event.height if event.first_non_finite is None else math.inf,
        causes=causes,
        stages=stages_of(history, event),
        where=(*(role.words for role in roles), *places_of(history, event, blocks)),
        tensors=table,
        ids=ids,
        signals=signals_of(history, event, after=after),
        recovery=recovery,
        advice=(),
        missing=tuple(_missing(history, event, causes)),
    )
    said = advise([found], guarded=history.guarded)
    return replace(found, advice=(*said, *(role.advice for role in roles)))


def causes_of(history: History, event: LossEvent, *, without: Collection[Name] = ()) -> tuple[Cause, ...]:
    """Return the causes that the numbers speak for, the most certain first.

    Args:
        history: The run.
        event: What happened to the loss.
        without: Causes whose tests are left out, to see whether the others claim what is theirs.
    """
    jump = find_jump(history, event)
    if jump is not None and history.same_data(int(history.steps[jump.at])):
        jump = None  # the data of the step before: no batch can have done it
    found = [
        *overflows(history, event),
        lost_state(history, event),
        parameters_changed(history, event),
        options_changed(history, event),
        learning_rate(history, event, jump),
        batch_shape(history, event),
        bad_batch(history, event, jump),
        data_change(history, event, jump),
        *slow_causes(history, event, jump),
        gradient_noise(history, event, jump),
    ]
    causes = [cause for cause in found if cause is not None and cause.name not in without]
    if any(cause.name == "gradient noise" for cause in causes):
        # Past that edge other batches would have done it too.
        of_data = ("bad batch", "data change")
        causes = [replace(one, confidence=0.5) if one.name in of_data else one for one in causes]
    return tuple(sorted(causes, key=lambda cause: -cause.confidence))


def _ids(history: History, event: LossEvent, causes: tuple[Cause, ...]) -> tuple[int | str, ...]:
    wanted = {cause.step for cause in causes if cause.name in ("bad batch", "data change", "batch shape")}
    for row in history.rows("gradients", event.onset - 5, event.peak):
        ids = row.get("ids")
        if isinstance(ids, list) and (not wanted or row["step"] in wanted):
            return tuple(one for one in ids if isinstance(one, (int, str)))
    return ()


def _missing(history: History, event: LossEvent, causes: tuple[Cause, ...]) -> list[str]:
    found = []
    begins_lost = event.first_non_finite is not None and math.isnan(event.reference)
    if begins_lost:
        found.append("No loss before it was finite, so nothing could be measured.")
    elif not history.rows("curvature", event.onset - 300, event.peak) and not history.noisy:
        what = "pass loss_fn to Monitor, and a larger budget"
        if "imported_from" in history.run.meta:
            what = "the log was imported, and other tools measure none"
        elif history.failed_probe is not None:
            message = short_line(str(history.failed_probe.get("message") or ""))
            what = f"the probes failed: {message}".rstrip(".")
        found.append(f"No curvature was measured near the event: {what}.")
    if event.onset == int(history.steps[0]) and event.onset > 1:
        found.append(f"The log begins with it, at step {event.onset:,}: what was before is not in it.")
    apart = int(history.steps[history.at(event.onset)] - history.steps[max(history.at(event.onset) - 1, 0)])
    if apart > 1 and not causes:
        found.append(
            f"The log has every {apart}th step there: whether the loss rose within one step, as by a batch, "
            "can't be seen. Call observe at each step."
        )
    if history.run.earlier and event.onset - int(history.steps[0]) <= REACH:
        found.append(
            "The folder has an earlier run. If this one goes on from it, load the monitor's state or pass "
            "step= to observe: then what was before the resume counts."
        )
    named = {cause.name for cause in causes}
    if "preconditioner lag" in named:
        found.append(
            "Whether it would have come without the decay of v, a replay from a snapshot shows: foreshock "
            "explain … --model … --data …"
        )
    if named & {"bad batch", "data change"} and not _ids(history, event, causes):
        found.append("The batch can't be named: pass ids= to observe.")
    return found
