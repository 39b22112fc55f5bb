"""A run in numbers: its spikes, what was known before each, and the probes behind that knowledge."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from foreshock.representation import printable, short_line
from foreshock.spikes import (
    FalseAlarm,
    LossEvent,
    Readings,
    SpikeDefinition,
    SpikeOutcome,
    announcing,
    detect_events,
    detect_spikes,
    episode_gap,
    score,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from foreshock.runlog import Run

_COOLDOWN = "cooldown"
# Events that are listed, from the beginning and from the end: a page of any number could not be opened.
_EVENTS = 500


@dataclass(frozen=True)
class RunEvent:
    """Something that happened in a run.

    Attributes:
        name: Type of the event, such as ``probe failed``.
        message: What happened, in words.
        step: Step at which it happened.
    """

    name: str
    message: str
    step: int


@dataclass(frozen=True)
class Probes:
    """What the curvature readings of a run rest on.

    Attributes:
        count: Number of curvature readings with a finite stability ratio.
        failed: Number of readings without one.
        products: Median number of Hessian products per reading; NaN if not recorded.
        relative_error: Median of error bound ÷ ratio; NaN if not recorded.
        unconverged: Readings whose eigenvalue did not converge.
        seconds: Total time of the readings; NaN if not recorded.
        backends: Names of the Hessian products' backends, sorted.
    """

    count: int
    failed: int
    products: float
    relative_error: float
    unconverged: int
    seconds: float
    backends: tuple[str, ...]


@dataclass(frozen=True)
class RunSummary:
    """A run in numbers.

    Attributes:
        name: Name of the run; by default that of its folder.
        description: What the run is, in the words of the person who started it; may be empty.
        source: The log the numbers come from.
        version: Version of Foreshock that wrote it, and the log's schema.
        starts: Number of sessions that wrote it.
        created: Time of the first header, ISO 8601; may be empty.
        steps: Number of step records with a loss.
        first_step: First of them; None without any.
        last_step: Last of them; None without any.
        first_loss: Loss of the first of them; NaN without any.
        last_loss: Loss of the last of them; NaN without any.
        lowest_loss: Lowest finite loss; NaN without any.
        non_finite_losses: Number of losses that were NaN or infinite.
        outcomes: Spikes with what was known before each, in order.
        sharpest: For each of them the module with the largest share of the top eigenvector at the last
            reading before its onset, with that share; None where it was not recorded.
        false_alarms: Announcements that no spike followed, in order.
        forecasts: Number of forecasts.
        probes: What the curvature readings rest on.
        events: What else happened, in order; of more than a thousand the first and the last ones.
        skipped: Lines of the log that could not be read.
        definition: What counted as a spike.
        meta: The header's description of the run.
        failures: Where the loss was not finite, rose and did not come back, or climbed slowly, in order: see
            `foreshock.spikes.detect_events`.
        guard: Name of the guard's policy, and the number of steps on which it changed something; None if it
            there was none.
        obsolete: Records that are left out because a resumed session did their steps again.
        earlier: Logs of the other runs in the same folder.
    """

    name: str
    description: str
    source: str
    version: str
    starts: int
    created: str
    steps: int
    first_step: int | None
    last_step: int | None
    first_loss: float
    last_loss: float
    lowest_loss: float
    non_finite_losses: int
    outcomes: tuple[SpikeOutcome, ...]
    sharpest: tuple[tuple[str, float] | None, ...]
    false_alarms: tuple[FalseAlarm, ...]
    forecasts: int
    probes: Probes
    events: tuple[RunEvent, ...]
    skipped: int
    definition: SpikeDefinition
    meta: Mapping[str, Any]
    failures: tuple[LossEvent, ...] = ()
    guard: tuple[str, int] | None = None
    obsolete: int = 0
    earlier: tuple[str, ...] = ()

    @property
    def leads(self) -> tuple[int, ...]:
        """Steps from announcement to onset, of the spikes that were announced."""
        return tuple(outcome.lead for outcome in self.outcomes if outcome.lead is not None)

    @property
    def announced(self) -> int:
        """Number of spikes that were announced."""
        return len(self.leads)

    @property
    def median_lead(self) -> float:
        """Median of `leads`; NaN if no spike was announced."""
        return float(np.median(self.leads)) if self.leads else math.nan


def summarise(run: Run, definition: SpikeDefinition | None = None) -> RunSummary:
    """Return a run in numbers.

    Args:
        run: A run as read from its log.
        definition: What counts as a spike; by default above 3 × the median of 100 steps.
    """
    definition = definition or SpikeDefinition()
    steps, losses = recorded_losses(run)
    finite = losses[np.isfinite(losses)]
    spikes = detect_spikes(steps.tolist(), losses.tolist(), definition)
    # Before the window is full no spike can be detected, and no announcement be called false.
    judged_from = int(steps[min(definition.window, len(steps) - 1)]) if len(steps) else 0
    result = score(spikes, readings_of(run), gap=episode_gap(run.steps("forecast")), judged_from=judged_from)
    return RunSummary(
        name=short_line(run.name),
        description=short_line(str(run.meta.get("description") or "")),
        source=printable(str(run.path)),
        version=short_line(f"{run.version or 'an unknown version'} (schema {run.schema})"),
        starts=run.starts,
        created=short_line(run.created),
        steps=len(steps),
        first_step=int(steps[0]) if len(steps) else None,
        last_step=int(steps[-1]) if len(steps) else None,
        first_loss=float(losses[0]) if len(losses) else math.nan,
        last_loss=float(losses[-1]) if len(losses) else math.nan,
        lowest_loss=float(finite.min()) if len(finite) else math.nan,
        non_finite_losses=len(losses) - len(finite),
        outcomes=result.outcomes,
        sharpest=tuple(_sharpest(run, outcome.spike.onset) for outcome in result.outcomes),
        false_alarms=result.false_alarms,
        forecasts=len(run.records.get("forecast", [])),
        probes=_probes(run),
        events=tuple(_events(run)),
        skipped=run.skipped,
        definition=definition,
        meta=run.meta,
        failures=tuple(
            event for event in detect_events(steps.tolist(), losses.tolist()) if event.kind != "spike"
        ),
        guard=_guard(run),
        obsolete=run.obsolete,
        earlier=tuple(printable(str(path)) for path in run.earlier),
    )


def _guard(run: Run) -> tuple[str, int] | None:
    rows = run.records.get("guard", [])
    # Steps, not actions: one step may be raised and clipped.
    changed = {row["step"] for row in rows if row.get("remedy") not in ("none", _COOLDOWN)}
    policy = rows[-1].get("policy") if rows else run.meta.get("guard")
    return None if policy is None else (short_line(str(policy)), len(changed))


def _sharpest(run: Run, onset: int) -> tuple[str, float] | None:
    before = [row for row in run.records.get("curvature", []) if row["step"] <= onset and row.get("blocks")]
    if not before:
        return None
    block = before[-1]["blocks"][0]
    return short_line(str(block["name"])), _number(block["share"])


def recorded_losses(run: Run) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the steps whose loss was recorded and these losses, each of shape (n,).

    A loss that is null was not measured and is left out; one that is NaN was, and stays. Of two
    records of the same step the later counts.
    """
    rows = run.records.get("step", [])
    steps, losses = run.steps("step"), run.column("step", "loss")
    kept = np.isfinite(losses)
    kept[[i for i in np.flatnonzero(~kept).tolist() if rows[i].get("loss") is not None]] = True
    steps, losses = steps[kept], losses[kept]
    order = np.argsort(steps, kind="stable")
    steps, losses = steps[order], losses[order]
    last = np.append(steps[1:] != steps[:-1], np.ones(min(len(steps), 1), dtype=np.bool_))
    return steps[last], losses[last]


def readings_of(run: Run) -> Readings:
    """Return what was measured and announced, a row per step with a reading or an announcement."""
    nan = math.nan
    curvature = {row["step"]: row for row in run.records.get("curvature", [])}
    forecasts = run.records.get("forecast", [])
    announcements = announcing([str(row.get("state")) for row in forecasts])
    announced = {row["step"]: row for row, on in zip(forecasts, announcements, strict=True) if on}
    ratio = {step: _number(row.get("stability_ratio")) for step, row in (announced | curvature).items()}
    steps = sorted(step for step in ratio if math.isfinite(ratio[step]) or step in announced)
    gradient = [
        _number(curvature[step].get("gradient_stability_ratio")) if step in curvature else nan
        for step in steps
    ]
    return Readings(
        steps=np.array(steps, dtype=np.int64),
        announces=np.array([step in announced for step in steps], dtype=np.bool_),
        stability_ratio=np.array([ratio[step] for step in steps], dtype=np.float64),
        gradient_stability_ratio=np.array(gradient, dtype=np.float64),
    )


def _probes(run: Run) -> Probes:
    rows = run.records.get("curvature", [])
    ratio = run.column("curvature", "stability_ratio")
    seconds = _finite(run.column("curvature", "seconds"))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # a file may have any number
        total = float(seconds.sum()) if len(seconds) else math.nan
        relative = run.column("curvature", "error_bound") / np.abs(ratio)
    good = int(np.isfinite(ratio).sum())
    return Probes(
        count=good,
        failed=len(rows) - good,
        products=_median(run.column("curvature", "products")),
        relative_error=_median(relative),
        unconverged=sum(row.get("converged") is False for row in rows),
        seconds=total,
        backends=tuple(sorted({short_line(str(row["backend"])) for row in rows if row.get("backend")})),
    )


def _events(run: Run) -> list[RunEvent]:
    rows = _once(run.records.get("event", []))
    events = [
        RunEvent(short_line(str(row.get("name") or "")), _message(row), row["step"])
        for row in (rows if len(rows) <= 2 * _EVENTS else rows[:_EVENTS] + rows[-_EVENTS:])
    ]
    if len(rows) > len(events):
        left = len(rows) - len(events)
        events.insert(_EVENTS, RunEvent("…", f"{left:,} more events, in the log", rows[_EVENTS]["step"]))
    paused = [
        RunEvent("guard cooldown", short_line(str(row.get("reason") or "")), row["step"])
        for row in run.records.get("guard", [])
        if row.get("remedy") == _COOLDOWN
    ]
    return sorted([*events, *paused], key=lambda event: event.step) if paused else events


def _once(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return events with what repeats at one step after the other in one row, of `count` until a step."""
    found: list[dict[str, Any]] = []
    last: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        key = (str(row.get("name")), str(row.get("message")))
        one = {"count": 1, "until": row["step"], **row}
        before = last.get(key)
        if before is not None and one["step"] == before["until"] + 1:
            before["count"], before["until"] = before["count"] + one["count"], one["until"]
        else:
            found.append(one)
            last[key] = one
    return found


def _message(row: Mapping[str, Any]) -> str:
    words = short_line(str(row.get("message") or ""))
    return words if row["count"] == 1 else f"{words} ({row['count']:,} times, until step {row['until']:,})"


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[np.isfinite(values)]


def _median(values: NDArray[np.float64]) -> float:
    finite = _finite(values)
    with np.errstate(over="ignore"):
        return float(np.median(finite)) if len(finite) else math.nan
