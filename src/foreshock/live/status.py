"""How a run is doing, in numbers: what one screen of a terminal shows, and what a script asks."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from foreshock.forecast import NOISY_EDGE
from foreshock.live.headline import State
from foreshock.report.ranks import Departure, compare_ranks
from foreshock.report.severity import Worst, worst_of
from foreshock.representation import printable, short_line
from foreshock.runlog.folders import rank_files, rank_of
from foreshock.runlog.numbers import as_number, as_share
from foreshock.runlog.ranks import rank_logs
from foreshock.runlog.reader import read_run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from foreshock.live.run import LiveRun

NEEDED = ("loss",)
"""Fields of step records that a status is made of: whoever shows nothing else need not read the others."""

_BEHIND = 20  # steps: each rank writes what it has every ten steps or so
_MEAN_SQUARE, _STABILITY = "typical mean-square ratio", "stability ratio"


@dataclass(frozen=True)
class RunStatus:
    """How a run is doing; a number that is not known is NaN, null in JSON.

    Attributes:
        name: Name of the run.
        place: Where it is: its folder below the one that was named, or that of the log.
        log: Path of the log.
        state: ``waiting`` for the first step, ``unreadable``, ``diverged``, ``spiked``, ``danger``,
            ``rising``, ``departing`` where it would be calm but for ranks that depart from the others,
            ``recovering``, ``calm``, or ``unknown``, which is not calm.
        words: The state in one sentence without a full stop, with its numbers.
        advice: What to do, in a sentence or two; empty where that is plain.
        worst: The worst that happened: ``none``, ``alarm``, ``spike`` or ``divergence``; the last also stands
            for a slow climb, and for a loss that was NaN or infinite.
        step: Last step with a record; null before the first.
        steps: Planned number of steps; null if the header doesn't say it.
        loss: Last loss.
        lowest_loss: Lowest finite loss.
        probability: Probability that a spike begins within `horizon` steps, from 0 to 1.
        horizon: Steps that the probability is for.
        alarm_at: Probability from which on there is an alarm.
        level: ``alarm`` or ``watch`` while the last forecast is one, else empty.
        ratio: Last ratio: 1 or more times `edge` is unstable.
        ratio_name: Which ratio: ``stability ratio``, or where batches differ ``typical mean-square ratio``.
        edge: Where its edge lies.
        ratio_step: Step at which it was measured; null if unknown.
        edge_at: Step at which the edge is expected; infinity for never.
        edge_low: Lower end of the 80 % interval of that step.
        edge_high: Upper end of it; infinity where it is open.
        alarms: Number of alarms.
        watches: Number of watches, the level below an alarm.
        last_alarm: Step of the last alarm; null without one.
        spikes: Number of spikes.
        highest: Height of the highest spike, a multiple of the level before; NaN without one, and where a
            level is not positive, so that there is no such multiple.
        highest_rise: There the largest rise of a spike above its level; else NaN.
        last_spike: First step of the last spike; null without one.
        lead: Steps from the beginning of the alarm that was on before the last spike to its onset; null if it
            was not announced.
        failures: Number of divergences, climbs, and stretches of losses that were NaN or infinite.
        guard: Name of the guard's policy; empty without a guard.
        guard_steps: Number of steps on which the guard changed something.
        last_guard_step: Last of them; null without one.
        misuse: What is wrong with how Foreshock is used, a sentence each.
        skipped: Lines of the log that could not be read.
        probes: Number of measurements of the curvature and of its noise.
        probe_seconds: Time that they took, seconds.
        products_per_step: Hessian products a step; each costs about as much as 2.5 training steps' gradients.
        overhead: Share of the run's wall time that went into measurements, from 0 to 1; NaN where the run was
            resumed, as the time in between is not known.
        steps_a_second: Steps a second, while the log is watched; NaN where it is only read.
        created: When the run began, ISO 8601; empty if unknown.
        idle_seconds: Seconds since the log was last written.
        ranks: Number of ranks; null for a run of one process.
        ranks_behind: Ranks without a log, or whose log ends over 20 steps before that of another.
        departures: In what ranks depart from the others, a sentence each as in the report; null where that
            was not looked at, as in lists of runs.
    """

    name: str
    place: str
    log: str
    state: State
    words: str
    advice: str
    worst: Worst
    step: int | None
    steps: int | None
    loss: float
    lowest_loss: float
    probability: float
    horizon: int | None
    alarm_at: float
    level: str
    ratio: float
    ratio_name: str
    edge: float
    ratio_step: int | None
    edge_at: float
    edge_low: float
    edge_high: float
    alarms: int
    watches: int
    last_alarm: int | None
    spikes: int
    highest: float
    highest_rise: float
    last_spike: int | None
    lead: int | None
    failures: int
    guard: str
    guard_steps: int
    last_guard_step: int | None
    misuse: tuple[str, ...]
    skipped: int
    probes: int
    probe_seconds: float
    products_per_step: float
    overhead: float
    steps_a_second: float
    created: str
    idle_seconds: float
    ranks: int | None
    ranks_behind: tuple[int, ...]
    departures: tuple[str, ...] | None = None


def status_of(
    run: LiveRun, *, last: int | None = None, departures: Sequence[Departure] | None = None
) -> RunStatus:
    """Return how a run is doing, as far as its log was read.

    Args:
        run: The run.
        last: Of alarms, spikes and failures only those of so many last steps count; None for all.
        departures: In what ranks depart from the others; see `departures_in`.
    """
    ranks = _ranks(run)  # reads the ends of other logs, for which those who follow this one need not wait
    with run.lock:
        if departures is not None:
            run.note_departing(departures)
        words, step = run.headline(), run.reached
        from_step = -1 if last is None or step is None else step - last
        return RunStatus(
            name=run.name,
            place=run.place,
            log=printable(str(run.path)),
            state=words.state,
            words=words.words,
            advice=words.advice,
            step=step,
            steps=_whole(as_number(run.meta.get("steps"))),
            **_losses(run),
            **_forecast(run.log.forecast or {}, alarm_at=as_number(run.meta.get("alarm_at"))),
            **_happened(run, from_step),
            **_guarded(run),
            misuse=_misuse(run),
            skipped=run.skipped,
            **_cost(run),
            steps_a_second=run.steps_a_second,
            created=run.created,
            idle_seconds=max(time.time() - run.written, 0.0) if run.written else math.nan,
            **ranks,
            departures=None if departures is None else tuple(map(str, departures)),
        )


def departures_in(path: Path) -> tuple[Departure, ...] | None:
    """Return in what ranks depart from the others, as the report has it; None for a run of one process.

    The logs of all ranks are read.

    Args:
        path: The log of one of them.

    Raises:
        OSError: If it can't be read.
        ValueError: If it is no run log.
    """
    if rank_of(path) is None or len(rank_files(path.parent)) < 2:
        return None
    found = compare_ranks(read_run(path))
    return None if found is None else found.departures


def _ranks(run: LiveRun) -> dict[str, Any]:
    logs = rank_logs(run.path, run.meta)
    if logs is None or len(logs.paths) < 2:
        return {"ranks": None, "ranks_behind": ()}
    return {"ranks": logs.size, "ranks_behind": tuple(sorted((*logs.missing, *logs.behind(_BEHIND))))}


def _losses(run: LiveRun) -> dict[str, Any]:
    curve = run.curves["step"]
    losses = curve.column("loss")[curve.column("measured").astype(bool)]
    finite = losses[np.isfinite(losses)]
    return {
        "loss": float(losses[-1]) if len(losses) else math.nan,
        "lowest_loss": float(finite.min()) if len(finite) else math.nan,
    }


def _forecast(forecast: Mapping[str, Any], *, alarm_at: float) -> dict[str, Any]:
    typical = as_number(forecast.get("typical_mean_square_ratio"))
    noisy = math.isfinite(typical)
    level = forecast.get("level")
    step = as_number(forecast.get("step"))
    ahead, low, high = (
        step + as_number(forecast.get(name))
        for name in ("steps_to_instability", "interval_low", "interval_high")
    )
    return {
        "probability": as_share(forecast.get("probability")),
        "horizon": _whole(as_number(forecast.get("horizon"))),
        "alarm_at": alarm_at,
        "level": level if level in ("alarm", "watch") else "",
        "ratio": typical if noisy else as_number(forecast.get("stability_ratio")),
        "ratio_name": _MEAN_SQUARE if noisy else _STABILITY,
        "edge": NOISY_EDGE if noisy else 1.0,
        "ratio_step": _whole(as_number(forecast.get("measured"))),
        "edge_at": ahead,
        "edge_low": low,
        "edge_high": high,
    }


def _happened(run: LiveRun, from_step: int) -> dict[str, Any]:
    events = [event for event in run.events_by_now() if event.end >= from_step]
    spikes = [event for event in events if event.kind == "spike"]
    # Older logs have other levels: what is no watch counts.
    recent = [row for row in run.log.alarms if row["step"] >= from_step]
    alarms = [row["step"] for row in recent if row.get("level") != "watch"]
    # One that has no multiple may be the highest of all: then all are compared by their rise.
    measurable = all(math.isfinite(event.height) for event in spikes)
    rises = [event.rise for event in spikes if math.isfinite(event.rise)]
    return {
        "worst": worst_of((event.kind for event in events), alarms=bool(alarms)),
        "alarms": len(alarms),
        "watches": len(recent) - len(alarms),
        "last_alarm": max(alarms, default=None),
        "spikes": len(spikes),
        "highest": max((event.height for event in spikes), default=math.nan) if measurable else math.nan,
        "highest_rise": math.nan if measurable else max(rises, default=math.nan),
        "last_spike": spikes[-1].onset if spikes else None,
        "lead": run.lead_of(spikes[-1]) if spikes else None,
        "failures": len(events) - len(spikes),
    }


def _guarded(run: LiveRun) -> dict[str, Any]:
    actions = run.log.actions
    policy = actions[-1].get("policy") if actions else run.meta.get("guard")
    steps = {row["step"] for row in actions}
    return {
        "guard": short_line(str(policy or "")),
        "guard_steps": len(steps),
        "last_guard_step": max(steps, default=None),
    }


def _misuse(run: LiveRun) -> tuple[str, ...]:
    rows = [row for row in run.log.events if str(row.get("name") or "").startswith("misuse")]
    return tuple(dict.fromkeys(short_line(str(row.get("message") or row.get("name"))) for row in rows))


def _cost(run: LiveRun) -> dict[str, Any]:
    measured = [run.records[kind] for kind in ("curvature", "noise") if kind in run.records]
    seconds = _total([rows.numbers_or_nan("seconds") for rows in measured])
    products = _total([rows.numbers_or_nan("products") for rows in measured])
    steps = len(run.curves["step"])
    try:
        began = datetime.fromisoformat(run.created).timestamp()
    except (ValueError, OverflowError):
        began = math.nan
    passed = run.written - began
    known = run.starts == 1 and passed >= max(seconds, 1.0)  # whole seconds are kept of when it began
    return {
        "probes": sum(map(len, measured)),
        "probe_seconds": seconds,
        "products_per_step": products / steps if steps else math.nan,
        "overhead": seconds / passed if known else math.nan,
    }


def _total(columns: Sequence[Any]) -> float:
    values = np.concatenate(columns) if columns else np.empty(0)
    finite = values[np.isfinite(values)]
    return float(finite.sum()) if len(finite) else math.nan


def _whole(value: float) -> int | None:
    return int(value) if 0 <= value < 2**53 else None
