"""A run in numbers: its spikes, what was known before each, and the probes behind that knowledge."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from foreshock.explain import Explanation
from foreshock.explain.events import explain_events
from foreshock.forecast import FLAT
from foreshock.report.evidence import Evidence, EvidenceReader, age_limit
from foreshock.report.ranks import Ranks, compare_ranks
from foreshock.report.readings import (
    COOLDOWN,
    PROBE_FAILED,
    Coverage,
    coverage,
    guard_steps,
    readings_of,
    times,
    until,
)
from foreshock.report.tradeoff import Tradeoff, tradeoffs
from foreshock.representation import printable, short_line
from foreshock.runlog.values import recorded_losses
from foreshock.spikes import (
    Episode,
    EventDefinition,
    LossEvent,
    SpikeOutcome,
    detect_events,
    episode_gap,
    score,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from foreshock.runlog import Run

_MISUSE = "misuse"
_OF_COOLDOWN = "guard cooldown"
_EVENTS = 500  # listed from the beginning and from the end: a page of any number could not be opened


@dataclass(frozen=True)
class RunEvent:
    """Something that happened in a run, once or several times in the same words.

    Attributes:
        name: Type of the event, such as ``probe failed``.
        message: What happened, in words.
        step: Step at which it happened first.
        last: Step at which it happened last.
        count: How often.
    """

    name: str
    message: str
    step: int
    last: int
    count: int = 1

    @property
    def is_misuse(self) -> bool:
        """Whether it says that Foreshock was not used as it must be: its name begins with ``misuse``."""
        return self.name.startswith(_MISUSE)

    @property
    def is_cooldown(self) -> bool:
        """Whether it says that the guard found the learning rate too high in itself."""
        return self.name == _OF_COOLDOWN

    @property
    def when(self) -> str:
        """The step, or the first and the last with how often."""
        if self.count == 1:
            return f"step {self.step:,}"
        return f"steps {self.step:,}–{self.last:,}, {self.count:,} ×"


@dataclass(frozen=True)
class Probes:
    """What the curvature readings of a run rest on.

    Attributes:
        count: Number of curvature readings with a finite stability ratio.
        failed: Number of readings without one, and of probes that failed with an error.
        products: Median number of Hessian products per reading; NaN if not recorded.
        relative_error: Median of error bound ÷ ratio; NaN if not recorded.
        unconverged: Readings whose eigenvalue did not converge.
        seconds: Total time of the readings; NaN if not recorded.
        backends: Names of the Hessian products' backends, sorted.
        noise: Number of measurements of the noise between batches.
        last_error: What the last failed probe said; empty if none failed.
    """

    count: int
    failed: int
    products: float
    relative_error: float
    unconverged: int
    seconds: float
    backends: tuple[str, ...]
    noise: int = 0
    last_error: str = ""


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
        outcomes: Spikes, divergences and losses that were not finite, with what was announced, in order; see
            `foreshock.spikes.detect_events`.
        evidence: For each of them what was measured before it.
        climbs: Where the level of the loss rose without a single high step, in order: nothing sudden that
            could be announced.
        false_alarms: Announcements that no such event followed, in order.
        answered: Those of them in which a guard acted, in order; they are not among the false alarms.
        coverage: How much of the run was in alarm, and of how much nothing was known.
        forecasts: Number of forecasts.
        probes: What the curvature readings rest on.
        events: What else happened, in order of its first step; the same words are one event. Of more than a
            thousand the first and the last are kept.
        skipped: Lines of the log that could not be read.
        definition: What counted as an event of the loss.
        age_limit: Steps before an event from which a reading is no evidence for it.
        meta: The header's description of the run.
        guard: Name of the guard's policy, and the number of steps on which it changed something; None if
            there was none.
        obsolete: Records that are left out because a resumed session did their steps again.
        earlier: Logs of earlier runs in the same folder, which this report leaves out.
        explanations: What happened at each event of the loss, in order; see ``foreshock.explain``.
        tradeoffs: What other thresholds of alarm would have done; empty with fewer than five spikes.
        flat: Whether the last measurement found no curvature, so that there was nothing to forecast.
        ranks: The other ranks of the run, and which of them departs; None for a run of one process, or
            if they were not to be read.
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
    outcomes: tuple[SpikeOutcome[LossEvent], ...]
    evidence: tuple[Evidence, ...]
    climbs: tuple[LossEvent, ...]
    false_alarms: tuple[Episode, ...]
    answered: tuple[Episode, ...]
    coverage: Coverage
    forecasts: int
    probes: Probes
    events: tuple[RunEvent, ...]
    skipped: int
    definition: EventDefinition
    age_limit: int
    meta: Mapping[str, Any]
    guard: tuple[str, int] | None = None
    obsolete: int = 0
    earlier: tuple[str, ...] = ()
    explanations: tuple[Explanation, ...] = ()
    tradeoffs: tuple[Tradeoff, ...] = ()
    flat: bool = False
    ranks: Ranks | None = None

    @property
    def imported(self) -> str:
        """The file of another tool that the log was made from; empty if a monitor wrote it."""
        return short_line(str(self.meta.get("imported_from") or ""))

    @property
    def spikes(self) -> tuple[LossEvent, ...]:
        """The events that were high and came back, in order."""
        return tuple(outcome.spike for outcome in self.outcomes if outcome.spike.kind == "spike")

    def explanation_of(self, event: LossEvent) -> Explanation | None:
        """Return why something happened to the loss; None if that was not looked into.

        Args:
            event: One of the outcomes or climbs.
        """
        wanted = event.kind, event.onset
        return next((one for one in self.explanations if (one.kind, one.onset) == wanted), None)

    @property
    def highest(self) -> float:
        """Height of the highest spike, as a multiple of its level; infinity if one has no such height."""
        heights = (event.height for event in self.spikes)
        return max((math.inf if math.isnan(height) else height for height in heights), default=math.nan)

    @property
    def failures(self) -> tuple[LossEvent, ...]:
        """The events that were not spikes – not finite, diverged, climbed – in order."""
        sudden = [outcome.spike for outcome in self.outcomes if outcome.spike.kind != "spike"]
        return tuple(sorted([*sudden, *self.climbs], key=lambda event: event.onset))

    @property
    def leads(self) -> tuple[int, ...]:
        """Steps from announcement to onset, of the events that were announced."""
        return tuple(outcome.lead for outcome in self.outcomes if outcome.lead is not None)

    @property
    def announced(self) -> int:
        """Number of events that were announced."""
        return len(self.leads)

    @property
    def median_lead(self) -> float:
        """Median of `leads`; NaN if none was announced."""
        return float(np.median(self.leads)) if self.leads else math.nan


def summarise(
    run: Run,
    definition: EventDefinition | None = None,
    *,
    with_ranks: bool = True,
    ranks: Ranks | None = None,
) -> RunSummary:
    """Return a run in numbers.

    Args:
        run: A run as read from its log.
        definition: What counts as an event of the loss; by default that of `foreshock.spikes.detect_events`.
        with_ranks: Whether to read the logs of the other ranks too, and compare them: with several, that is
            most of the time it takes.
        ranks: What an earlier comparison found, where the logs are not read again.
    """
    definition = definition or EventDefinition()
    steps, losses = recorded_losses(run)
    finite = losses[np.isfinite(losses)]
    found = detect_events(steps.tolist(), losses.tolist(), definition)
    limit, reader = age_limit(run), EvidenceReader(run)
    ranks = compare_ranks(run) if with_ranks else ranks
    sudden = [event for event in found if event.kind != "climb"]
    result = score(
        sudden,
        readings_of(run, [event.end for event in sudden]),
        gap=episode_gap(run.steps("forecast")),
        # Until the level rests on so many steps, no announcement is called false.
        judged_from=int(steps[min(definition.window, len(steps) - 1)]) if len(steps) else 0,
        actions=guard_steps(run),
        oldest=limit,
        last=int(steps[-1]) if len(steps) else None,
    )
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
        evidence=tuple(reader.of(outcome.spike) for outcome in result.outcomes),
        climbs=tuple(event for event in found if event.kind == "climb"),
        false_alarms=result.false_alarms,
        answered=result.answered,
        coverage=coverage(run),
        forecasts=len(run.records.get("forecast", [])),
        probes=_probes(run),
        events=_events(run, ranks),
        skipped=run.skipped,
        definition=definition,
        age_limit=limit,
        meta=run.meta,
        guard=_guard(run),
        obsolete=run.obsolete,
        earlier=tuple(printable(str(path)) for path in run.earlier),
        explanations=explain_events(run, found),
        tradeoffs=tuple(tradeoffs(run, [one.spike for one in result.outcomes if one.spike.kind == "spike"])),
        flat=_flat(run),
        ranks=ranks,
    )


def _flat(run: Run) -> bool:
    rows = run.records.get("forecast", [])
    return bool(rows) and FLAT in str(rows[-1].get("basis") or "")


def _guard(run: Run) -> tuple[str, int] | None:
    rows = run.records.get("guard", [])
    policy = rows[-1].get("policy") if rows else run.meta.get("guard")
    return None if policy is None else (short_line(str(policy)), len(guard_steps(run)))


def _probes(run: Run) -> Probes:
    rows = run.records.get("curvature", [])
    ratio = run.column("curvature", "stability_ratio")
    seconds = _finite(run.column("curvature", "seconds"))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # a file may have any number
        total = float(seconds.sum()) if len(seconds) else math.nan
        relative = run.column("curvature", "error_bound") / np.abs(ratio)
    good = int(np.isfinite(ratio).sum())
    errors = [row for row in run.records.get("event", []) if row.get("name") == PROBE_FAILED]
    return Probes(
        count=good,
        failed=len(rows) - good + sum(times(row) for row in errors),
        products=_median(run.column("curvature", "products")),
        relative_error=_median(relative),
        unconverged=sum(
            row.get("converged") is False and row.get("complete", True) is not False for row in rows
        ),
        seconds=total,
        backends=tuple(sorted({short_line(str(row["backend"])) for row in rows if row.get("backend")})),
        noise=len(run.records.get("noise", [])),
        last_error=short_line(str(errors[-1].get("message") or "")) if errors else "",
    )


def _events(run: Run, ranks: Ranks | None) -> tuple[RunEvent, ...]:
    """Return the events, those of the same words as one: a run that died says so at each of its steps."""
    # What came again at each of the steps after it was counted when it was written.
    rows = [
        (row["step"], until(row), times(row), row.get("name"), row.get("message"))
        for row in run.records.get("event", [])
    ]
    rows += [
        (row["step"], row["step"], 1, _OF_COOLDOWN, row.get("reason"))
        for row in run.records.get("guard", [])
        if row.get("remedy") == COOLDOWN
    ]
    rows += [
        (step, step, 1, name, f"rank {rank}: {message}")
        for rank, step, name, message in (() if ranks is None else ranks.events)
    ]
    found: dict[tuple[str, str], list[int]] = {}
    for step, end, count, name, message in rows:
        words = (short_line(str(name or "")), short_line(str(message or "")))
        first, last, before = found.get(words, (step, step, 0))
        found[words] = [min(first, step), max(last, end), before + count]
    events = [RunEvent(*words, *span) for words, span in found.items()]
    events.sort(key=lambda event: event.step)
    return tuple(events if len(events) <= 2 * _EVENTS else events[:_EVENTS] + events[-_EVENTS:])


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[np.isfinite(values)]


def _median(values: NDArray[np.float64]) -> float:
    finite = _finite(values)
    with np.errstate(over="ignore"):
        return float(np.median(finite)) if len(finite) else math.nan
