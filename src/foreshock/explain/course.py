"""The course of an event: its stages with their steps, what was visible when, and where."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from foreshock.dynamics import StageTracker
from foreshock.explain.history import History, quotient
from foreshock.explain.layers import layer_name, layer_types
from foreshock.explain.record import Signal, StageSpan
from foreshock.explain.tensors import TensorTable
from foreshock.forecast import NOISY_EDGE
from foreshock.representation import short_line
from foreshock.runlog.numbers import as_number
from foreshock.spikes.scoring import announced_at, episode_gap, signs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from foreshock.spikes import LossEvent

_BEFORE, _AFTER = 300, 60  # steps around an event
_HELD = 1000  # steps for which a ratio is held
_LAG, _BURST = 3.0, 3.0
_SHOWN = 3
_NEAR = 60  # steps of a table or a probe from the event that it says something about


def stages_of(history: History, event: LossEvent) -> tuple[StageSpan, ...]:
    """Return the stages of the cycle around an event; empty where no decay of v was logged.

    Args:
        history: The run.
        event: What happened to the loss.
    """
    first, last = history.at(event.onset - _BEFORE), history.at(event.end + _AFTER)
    tracker = StageTracker()
    ratios = _edge_ratios(history, first, last)
    spans: list[StageSpan] = []
    known = True  # whether the step before had a stage to go on
    for i in range(first, min(last + 1, len(history.steps))):
        if not math.isfinite(history.loss[i]):
            known = False  # a run that has failed is in no stage
            continue
        tracker.update(
            loss=float(history.loss[i]),
            instant_lag=float(history.lag[i]),
            decay_exponent=float(history.exponent[i]),
            stability_ratio=float(ratios[i - first]),
        )
        step = int(history.steps[i])
        if known and tracker.stage and spans and spans[-1].stage == tracker.stage:
            spans[-1] = StageSpan(tracker.stage, spans[-1].first, step)
        elif tracker.stage:
            spans.append(StageSpan(tracker.stage, step, step))
        known = True
    # What is over long before the event, and began before it was looked at, has no beginning.
    return tuple(span for span in spans if span.last >= event.onset - _BEFORE / 2)


def signals_of(history: History, event: LossEvent, *, after: float = -math.inf) -> tuple[Signal, ...]:
    """Return what was visible when, in order.

    Args:
        history: The run.
        event: What happened to the loss.
        after: Last step of the event before.
    """
    found = [*_announcements(history, event, after), *_measured(history, event), *_free(history, event)]
    return tuple(sorted(found, key=lambda signal: signal.step))


def table_near(history: History, event: LossEvent) -> TensorTable | None:
    """Return the table of tensors nearest to the peak of an event; None if there is none.

    Args:
        history: The run.
        event: What happened to the loss.
    """
    rows = history.rows("tensors", event.onset - _NEAR, event.end + _NEAR)
    if not rows:
        return None
    return TensorTable.from_record(min(rows, key=lambda row: abs(row["step"] - event.peak)))


def places_of(history: History, event: LossEvent, blocks: Mapping[str, float]) -> tuple[str, ...]:
    """Return where it happened: the tensors whose gradients jumped, and where the unstable direction lies.

    Args:
        history: The run.
        event: What happened to the loss.
        blocks: What `unstable_blocks` returned of it.
    """
    types = layer_types(history.run)
    found: list[str] = []
    for row in history.rows("gradients", event.onset - 5, event.peak)[:1]:
        lost = row.get("non_finite")
        if isinstance(lost, list) and lost:
            found.append(f"gradient not finite: {', '.join(short_line(str(one)) for one in lost[:_SHOWN])}")
        found += _jumped(row)[:_SHOWN]
    for name, share in list(blocks.items())[:_SHOWN]:
        if share >= 0.1:
            found.append(f"{layer_name(name, types)}: {100 * share:.0f} % of the unstable direction")
    return tuple(found)


def unstable_blocks(history: History, event: LossEvent) -> dict[str, float]:
    """Return the modules with their shares of the unstable direction, as last measured before the onset.

    Where nothing was measured before it, what was until the peak: by then the weights are elsewhere already.

    Args:
        history: The run.
        event: What happened to the loss.
    """
    probes = [
        row for row in history.rows("curvature", event.onset - 2 * _NEAR, event.peak) if row.get("blocks")
    ]
    probes = [row for row in probes if row["step"] <= event.onset] or probes
    found: dict[str, float] = {}
    for block in probes[-1]["blocks"] if probes else ():
        found[short_line(str(block["name"]))] = as_number(block["share"])
    return found


def _jumped(row: dict[str, object]) -> list[str]:
    rows = row.get("rows")
    found = []
    for one in rows if isinstance(rows, list) else ():
        norm, usual = (
            (as_number(one.get(name)) for name in ("norm", "usual")) if isinstance(one, dict) else (0, 0)
        )
        if quotient(norm, usual) > 2:
            found.append(
                f"{short_line(str(one.get('name')))}: gradient {quotient(norm, usual):.0f} × its usual size"
            )
    return found


def _edge_ratios(history: History, first: int, last: int) -> NDArray[np.float64]:
    """Return, for each step, the last known ratio whose edge is one, if it is not too old."""
    if history.noisy:
        steps, values = history.steps_of("forecast"), history.typical_ratios / NOISY_EDGE
    else:
        steps, values = history.ratio_steps, history.ratios
    wanted = history.steps[first : last + 1]
    if not len(wanted):
        return np.empty(0)
    near = slice(*np.searchsorted(steps, (wanted[0] - _HELD, wanted[-1] + 1)).tolist())
    steps, values = steps[near], values[near]
    known = np.isfinite(values)
    steps, values = steps[known], values[known]
    if not steps.size:
        return np.full(len(wanted), math.nan)
    at = np.searchsorted(steps, wanted, side="right") - 1
    return np.where(at >= 0, values[np.maximum(at, 0)], math.nan)


def _signal(words: str, step: int, event: LossEvent, value: float) -> Signal:
    return Signal(words, step, event.onset - step, value)


def _announcements(history: History, event: LossEvent, after: float) -> Iterator[Signal]:
    """Yield when the watch and the alarm began that were on before the event, as the report counts them."""
    steps = history.steps_of("forecast")
    gap = episode_gap(steps)
    first, last = np.searchsorted(steps, [after, event.onset], side="right")
    steps, states, levels = steps[first:last], history.states[first:last], history.levels[first:last]
    watched = ["alarm" if level == "watch" else level for level in levels]
    for name, given in (("watch", watched), ("alarm", levels)):
        began = announced_at(event.onset, steps, signs([str(one) for one in states], given), gap=gap)
        if began is not None and (name == "alarm" or any(given)):
            at = first + int(np.searchsorted(steps, began))
            chance = as_number(history.run.records["forecast"][at].get("probability"))
            yield _signal(f"{name} begins", began, event, chance)


def _measured(history: History, event: LossEvent) -> Iterator[Signal]:
    steps, ratios = history.ratio_steps, history.ratios
    near = _near(steps, event)
    steps, ratios = steps[near], ratios[near]
    at = _began(steps, ratios >= 1, event)
    if at is not None:
        yield _signal("stability ratio past 1", int(steps[at]), event, float(ratios[at]))
    probes = history.steps_of("curvature")
    near = _near(probes, event)
    probes, along = probes[near], history.gradient_ratios[near]
    at = _began(probes, along >= 1, event)
    if at is not None:
        yield _signal("curvature along the gradient past 1", int(probes[at]), event, float(along[at]))


def _free(history: History, event: LossEvent) -> Iterator[Signal]:
    near = _near(history.steps, event)
    steps, lag = history.steps[near], history.lag[near]
    at = _began(steps, lag >= _LAG, event, gap=10)
    if at is not None:
        yield _signal(f"v more than {_LAG:g} × above g²", int(steps[at]), event, float(lag[at]))
    onset, peak = history.at(event.onset), history.at(event.peak)
    usual = history.usual(history.norm, max(onset - 10, 0))
    if usual is not None:
        high = np.flatnonzero(history.norm[max(onset - 30, 0) : peak + 1] > _BURST * usual.median)
        if high.size:
            i = max(onset - 30, 0) + int(high[0])
            value = quotient(float(history.norm[i]), usual.median)
            yield _signal(f"gradient above {_BURST:g} × its median", int(history.steps[i]), event, value)
    loss = float(history.loss[onset])
    words = "loss off its level" if math.isfinite(loss) else "loss not finite"
    yield _signal(words, event.onset, event, loss)


def _near(steps: NDArray[np.int64], event: LossEvent) -> slice:
    """Return the part of ordered steps that is near an event: of a long log no more is looked at."""
    return slice(*np.searchsorted(steps, (event.onset - _BEFORE, event.peak + 1)).tolist())


def _began(steps: NDArray[np.int64], on: NDArray[np.bool_], event: LossEvent, *, gap: int = 0) -> int | None:
    """Return the index at which the last spell of a condition before the peak began; None without one.

    One that ended long before the event was no sign of it.
    """
    near = np.flatnonzero(on & (steps >= event.onset - _BEFORE) & (steps <= event.peak))
    if not near.size:
        return None
    after = int(near[-1]) + 1
    if after < len(steps) and steps[after] < event.onset - _NEAR:
        return None
    breaks = np.flatnonzero(np.diff(near) > 1 + gap)
    return int(near[breaks[-1] + 1]) if breaks.size else int(near[0])
