"""What a report lists: the events of the loss, and the alarms that none followed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foreshock.explain import NOT_EXPLAINED
from foreshock.report.words import ahead, count, height, number, percent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foreshock.explain import Explanation
    from foreshock.report.evidence import Evidence
    from foreshock.report.summary import RunSummary
    from foreshock.report.tradeoff import Tradeoff
    from foreshock.spikes import Episode, LossEvent, SpikeOutcome

_SHOWN_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
_NOTHING = "–"


@dataclass(frozen=True)
class Table:
    """A table of words, for whatever renders it.

    Attributes:
        title: What it shows.
        headers: Names of the columns.
        rows: Cells, as many a row as there are headers.
    """

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def spike_table(summary: RunSummary) -> Table:
    """Return the spikes and what else the loss did suddenly, one a row, with what was known before each.

    What was measured before none of them has no column.

    Args:
        summary: The run in numbers.
    """
    headers = (
        "At step",
        "What",
        "Announced",
        "Ratio before",
        "λ_max(Ĥ) > 2/η",
        "Gradient > 2/η",
        "Unstable direction in",
        "Why",
    )
    why = {(one.kind, one.onset): one.named for one in summary.explanations}
    rows = tuple(
        (
            f"{outcome.spike.onset:,}",
            _what(outcome.spike),
            _announcement(outcome, summary),
            _ratio(evidence, outcome.spike, summary),
            *(_crossing(step, outcome.spike.onset, summary, evidence) for step in _crossings(outcome)),
            f"{evidence.module}, {evidence.share:.0%}" if evidence.module else _NOTHING,
            why.get((outcome.spike.kind, outcome.spike.onset), NOT_EXPLAINED),
        )
        for outcome, evidence in zip(summary.outcomes, summary.evidence, strict=True)
    )
    title = "Spikes" if len(summary.spikes) == len(summary.outcomes) else "What happened to the loss"
    return _without_empty(Table(title, headers, rows))


def explanation_table(found: Sequence[Explanation]) -> Table:
    """Return what caused each event of the loss and what became of the run, one a row.

    Args:
        found: The explanations of a run.
    """
    headers = ("At step", "Cause", "Evidence", "Recovery", "Where")
    rows = tuple(
        (
            f"{one.onset:,}",
            one.named,
            "; ".join(cause.words for cause in one.causes) or _NOTHING,
            f"{one.recovery.outcome}: {one.recovery.words}",
            "; ".join(one.where[:2]) or _NOTHING,
        )
        for one in found
    )
    return _without_empty(Table("What caused it, and what became of it", headers, rows))


def alarm_table(summary: RunSummary) -> Table:
    """Return the announcements that no spike followed, one a row: false, or answered by the guard.

    Args:
        summary: The run in numbers.
    """
    title = "False alarms, and alarms that the guard answered" if summary.answered else "False alarms"
    rows = tuple((_span(one), _highest(one), outcome) for one, outcome in _quiet(summary))
    return Table(title, ("Steps", "Highest ratio", "Outcome"), rows)


def tradeoff_table(found: Sequence[Tradeoff]) -> Table:
    """Return the trade-off as a table, a threshold a row; without rows where there is none.

    Args:
        found: What `tradeoffs` returned.
    """
    rows = tuple(
        (f"{one.alarm_at:g}", f"{one.caught} of {one.spikes}", percent(one.in_alarm))
        for one in found
        if one.alarm_at in _SHOWN_THRESHOLDS
    )
    headers = ("alarm_at", "Spikes caught", "In alarm, outside spikes")
    return Table("What another alarm_at would have done", headers, rows)


def rank_table(summary: RunSummary) -> Table:
    """Return the ranks that depart from the others, one departure a row; without rows where none does.

    Args:
        summary: The run in numbers.
    """
    found = () if summary.ranks is None else summary.ranks.departures
    rows = tuple((f"{one.rank}", one.what, _steps(one.first, one.last), str(one)) for one in found)
    return _without_empty(
        Table("Ranks that depart from the others", ("Rank", "In what", "Steps", "How"), rows)
    )


def tables_of(summary: RunSummary) -> tuple[Table, ...]:
    """Return the tables of a report on one run, in order; some may have no rows.

    Args:
        summary: The run in numbers.
    """
    return (
        rank_table(summary),
        spike_table(summary),
        explanation_table(summary.explanations),
        alarm_table(summary),
        tradeoff_table(summary.tradeoffs),
    )


def _steps(first: int | None, last: int | None) -> str:
    if first is None or last is None:
        return _NOTHING
    return f"{first:,}" if first == last else f"{first:,}–{last:,}"


def overview_table(summaries: Sequence[RunSummary]) -> Table:
    """Return the spikes and the alarms without one of several runs in one table, a row each.

    Args:
        summaries: The runs in numbers.
    """
    rows = []
    for summary in summaries:
        pairs = zip(summary.outcomes, summary.evidence, strict=True)
        found = [(outcome.spike.onset, _overview_row(outcome, known, summary)) for outcome, known in pairs]
        for one, _ in _quiet(summary):
            what = "answered by the guard" if one in summary.answered else "false alarm"
            ratio = f"max {_highest(one)}" if math.isfinite(one.highest) else _NOTHING
            found.append((one.start, (_span(one), what, _NOTHING, ratio, _NOTHING, _NOTHING)))
        rows += [(summary.name, *row) for _, row in sorted(found)]
    headers = ("Run", "At step", "What", "Announced", "Ratio before", "λ_max(Ĥ) > 2/η", "Gradient > 2/η")
    title = "Spikes and alarms (in brackets: steps from the onset)"
    return _without_empty(Table(title, headers, tuple(rows)))


def _without_empty(table: Table) -> Table:
    """Return a table without the columns that say nothing in any row."""
    rows = table.rows
    kept = [i for i in range(len(table.headers)) if not rows or any(row[i] != _NOTHING for row in rows)]
    headers = tuple(table.headers[i] for i in kept)
    return Table(table.title, headers, tuple(tuple(row[i] for i in kept) for row in rows))


def _quiet(summary: RunSummary) -> list[tuple[Episode, str]]:
    """Return the episodes without a spike, in order, each with its outcome in words."""
    answered = [(one, "answered by the guard") for one in summary.answered]
    false = [(one, _outcome(one)) for one in summary.false_alarms]
    return sorted([*answered, *false], key=lambda pair: pair[0].start)


def _span(one: Episode) -> str:
    return _steps(one.start, one.end)


def _highest(one: Episode) -> str:
    return f"{one.highest:.3f}" if math.isfinite(one.highest) else _NOTHING


def _outcome(one: Episode) -> str:
    if not math.isfinite(one.highest):
        return "no spike (by the noise of batches)"
    return "unstable, but no spike" if one.crossed else "threshold not reached"


def _what(event: LossEvent) -> str:
    if event.first_non_finite is not None:
        return f"NaN or ∞ from step {event.first_non_finite:,}"
    return f"{event.kind} {height(event)}"


def _overview_row(
    outcome: SpikeOutcome[LossEvent], evidence: Evidence, summary: RunSummary
) -> tuple[str, ...]:
    onset = outcome.spike.onset
    crossings = (
        _unseen(evidence) if step is None else f"{step:,} ({step - onset:+,})" for step in _crossings(outcome)
    )
    ratio = _NOTHING
    if evidence.measured is not None:
        ratio = f"{number(evidence.ratio)} ({evidence.measured - onset:+,})"
    announcement = _announcement(outcome, summary).replace("steps ", "")
    return (f"{onset:,}", _what(outcome.spike), announcement, ratio, *crossings)


def _crossings(outcome: SpikeOutcome[LossEvent]) -> tuple[int | None, int | None]:
    return outcome.curvature_crossed, outcome.gradient_crossed


def _announcement(outcome: SpikeOutcome[LossEvent], summary: RunSummary) -> str:
    if not summary.forecasts:
        return "no forecast"
    if outcome.lead is None:
        return "missed"
    return ahead(outcome.lead)


def _ratio(evidence: Evidence, event: LossEvent, summary: RunSummary) -> str:
    """The last ratio with the step of its measurement: an old number is never shown as a new one."""
    if evidence.measured is None:
        tried = summary.probes.count + summary.probes.noise
        return f"no reading within {summary.age_limit:,} steps" if tried else _NOTHING
    age = event.onset - evidence.measured
    of = "mean-square " if evidence.noisy else ""
    old = f", {count(age, 'step')} old" if age else ""
    return f"{of}{number(evidence.ratio)} at step {evidence.measured:,}{old}"


def _crossing(step: int | None, onset: int, summary: RunSummary, evidence: Evidence) -> str:
    if step is None:
        return _unseen(evidence)
    if step == onset:
        return "at its onset"
    if step > onset:
        return f"{step - onset:,} after"
    # One that began longer ago still held, but its age says nothing of this spike.
    return f"{onset - step:,} ahead" if onset - step <= summary.age_limit else f"for {onset - step:,} steps"


def _unseen(evidence: Evidence) -> str:
    return "not seen" if evidence.probed else _NOTHING
