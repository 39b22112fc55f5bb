"""A run in words: the verdict, the table of spikes, and both as plain text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foreshock.report.summary import RunSummary
    from foreshock.spikes import FalseAlarm, LossEvent, SpikeOutcome

_NOTHING = "–"
_FAILURES_SHOWN = 3


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


def verdict(summary: RunSummary) -> str:
    """Return the run in one sentence.

    Args:
        summary: The run in numbers.
    """
    if not summary.steps:
        return "No losses were recorded"
    failed = "".join(f"{failure(event, summary)}; " for event in summary.failures[:_FAILURES_SHOWN])
    if len(summary.failures) > _FAILURES_SHOWN:
        failed += f"and {_count(len(summary.failures) - _FAILURES_SHOWN, 'more such event')}; "
    return failed + _counted(summary)


def failure(event: LossEvent, summary: RunSummary) -> str:
    """Return in words what went wrong with the loss, without a full stop.

    Args:
        event: A divergence, a slow climb, or losses that are not finite.
        summary: The run in numbers.
    """
    if event.first_non_finite is not None:
        first = f"{event.first_non_finite:,}"
        on = f"from step {first} on" if event.end == summary.last_step else f"at step {first}"
        return f"The loss was NaN or infinite {on}"
    levels = f"from {event.reference:.3g} to {event.reference + event.rise:.3g}"
    if event.kind == "climb":
        return f"The loss climbed {levels} between steps {event.onset:,} and {event.end:,}"
    return f"The loss rose {levels} at step {event.onset:,} and did not come back"


def _counted(summary: RunSummary) -> str:
    spikes = len(summary.outcomes)
    alarms = len(summary.false_alarms)
    if not summary.forecasts:
        why = "no curvature was measured" if not summary.probes.count else "no forecasts were made"
        return f"{_count(spikes, 'spike')}; {why}, so nothing was announced"
    false = _count(alarms, "false alarm")
    if not spikes:
        besides = "no spikes besides" if summary.failures else f"No spikes in {summary.steps:,} steps"
        return f"{besides}; {false}"
    lead = f", median {number(summary.median_lead)} steps ahead" if summary.announced else ""
    if summary.announced and not summary.median_lead:
        lead = ", at their onset"
    return f"{_count(spikes, 'spike')}, {summary.announced} announced{lead}; {false}"


def spike_table(summary: RunSummary) -> Table:
    """Return the spikes, one a row, with what was known before each.

    Args:
        summary: The run in numbers.
    """
    headers = (
        "Spike at step",
        "Height",
        "Announced",
        "λ_max(Ĥ) above 2/η",
        "Gradient direction above 2/η",
        "Unstable direction mostly in",
    )
    rows = tuple(
        (*_spike_row(outcome, summary), _place(sharpest))
        for outcome, sharpest in zip(summary.outcomes, summary.sharpest, strict=True)
    )
    return Table("Spikes", headers, rows)


def false_alarm_table(summary: RunSummary) -> Table:
    """Return the announcements that no spike followed, one a row.

    Args:
        summary: The run in numbers.
    """
    rows = tuple(
        (
            f"{alarm.start:,}" if alarm.start == alarm.end else f"{alarm.start:,}–{alarm.end:,}",
            f"{alarm.highest:.3f}" if math.isfinite(alarm.highest) else _NOTHING,
            _outcome(alarm),
        )
        for alarm in summary.false_alarms
    )
    return Table("False alarms", ("Steps", "Highest ratio", "Outcome"), rows)


def overview_table(summaries: Sequence[RunSummary]) -> Table:
    """Return the spikes and the false alarms of several runs in one table, a row each.

    Args:
        summaries: The runs in numbers.
    """
    rows = []
    for summary in summaries:
        found = [(outcome.spike.onset, _overview_row(outcome, summary)) for outcome in summary.outcomes]
        for alarm, (steps, ratio, _) in zip(
            summary.false_alarms, false_alarm_table(summary).rows, strict=True
        ):
            highest = f"max {ratio}×" if math.isfinite(alarm.highest) else _NOTHING
            found.append((alarm.start, (steps, _NOTHING, "false alarm", highest, _NOTHING)))
        rows += [(summary.name, *row) for _, row in sorted(found)]
    headers = ("Run", "Spike at", "Height", "Announced", "λ_max(Ĥ) > 2/η", "Gradient > 2/η")
    title = "Spikes and false alarms (in brackets: steps from the spike's onset)"
    return Table(title, headers, tuple(rows))


def notes(summary: RunSummary) -> tuple[str, ...]:
    """Return what a reader must know before believing the numbers, one sentence each.

    Args:
        summary: The run in numbers.
    """
    probes = summary.probes
    found = []
    if summary.skipped:
        lines = _count(summary.skipped, "line")
        found.append(f"{lines} of the log could not be read and left out.")
    if summary.obsolete:
        records = _count(summary.obsolete, "record")
        found.append(f"{records} left out: the run was resumed at an earlier step, and did them again.")
    if summary.earlier:
        found.append(
            "The folder has other runs too, which are not in this report: "
            f"{', '.join(summary.earlier[-_FAILURES_SHOWN:])}; name one to see it."
        )
    if not summary.steps:
        found.append("The log has no losses: there is nothing to find spikes in.")
    elif summary.steps <= summary.definition.window:
        found.append(
            f"Only {summary.steps} losses were recorded; a spike needs {summary.definition.window} "
            "before it to be compared with."
        )
    if not probes.count:
        found.append("No curvature was measured: give the monitor a loss_fn to get forecasts.")
    elif not summary.forecasts:
        found.append("The log has curvature but no forecasts.")
    if probes.failed:
        found.append(f"{_count(probes.failed, 'probe')} gave no finite stability ratio.")
    if probes.unconverged:
        found.append(
            f"{_count(probes.unconverged, 'probe')} of {probes.count + probes.failed} did not "
            "converge: the true ratio may be higher than shown."
        )
    if summary.non_finite_losses:
        found.append(
            f"{_count(summary.non_finite_losses, 'loss', 'losses')} NaN or infinite: counted as "
            "infinitely high."
        )
    return tuple(found)


def to_text(summary: RunSummary) -> str:
    """Return the report as plain text, for a terminal or a log.

    Args:
        summary: The run in numbers.
    """
    parts = [f"{summary.name}: {verdict(summary)}."]
    if summary.steps:
        parts.append(
            f"{summary.steps:,} steps, loss {number(summary.first_loss)} → "
            f"{number(summary.last_loss)}; {_count(summary.probes.count, 'probe')}."
        )
    if summary.guard is not None:
        policy, steps = summary.guard
        parts.append(f"The guard {policy!r} acted on {_count(steps, 'step')}.")
    for table in (spike_table(summary), false_alarm_table(summary)):
        if table.rows:
            parts += ["", table.title, *_aligned(table)]
    if summary.events:
        parts += ["", "Events"]
        parts += [f"  step {e.step:,}  {e.name}: {e.message}" for e in summary.events]
    remarks = notes(summary)
    if remarks:
        parts += ["", *(f"Note: {remark}" for remark in remarks)]
    return "\n".join(parts) + "\n"


def number(value: float) -> str:
    """Return a number of three significant digits, as people write it.

    Args:
        value: Any float.

    Example:
        >>> number(1234.5), number(0.04567), number(2e-9), number(38.0)
        ('1,234', '0.0457', '2e-9', '38')
    """
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "-∞"
    if 1000 <= abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e")


def height(outcome: SpikeOutcome) -> str:
    """Return the height of a spike: ``38×``.

    Args:
        outcome: The spike.
    """
    high = outcome.spike.height
    if not math.isfinite(high):
        return "not finite"
    return f"{high:.1f}×" if high < 10 else f"{number(round(high))}×"


def _spike_row(outcome: SpikeOutcome, summary: RunSummary) -> tuple[str, ...]:
    onset = outcome.spike.onset
    crossings = (
        _crossing(step, onset, measured=summary.probes.count > 0)
        for step in (outcome.curvature_crossed, outcome.gradient_crossed)
    )
    return (f"{onset:,}", height(outcome), _announcement(outcome, summary), *crossings)


def _place(sharpest: tuple[str, float] | None) -> str:
    return _NOTHING if sharpest is None else f"{sharpest[0]} ({sharpest[1]:.0%})"


def _overview_row(outcome: SpikeOutcome, summary: RunSummary) -> tuple[str, ...]:
    onset = outcome.spike.onset
    crossings = (
        "not seen" if step is None else f"{step:,} ({step - onset:+,})"
        for step in (outcome.curvature_crossed, outcome.gradient_crossed)
    )
    announcement = _announcement(outcome, summary).replace("steps ", "")
    return (f"{onset:,}", height(outcome), announcement, *crossings)


def _announcement(outcome: SpikeOutcome, summary: RunSummary) -> str:
    if not summary.forecasts:
        return "no forecast"
    if outcome.lead is None:
        return "missed"
    return f"{_count(outcome.lead, 'step')} ahead" if outcome.lead else "at its onset"


def _crossing(step: int | None, onset: int, *, measured: bool) -> str:
    if step is None:
        return "not seen" if measured else _NOTHING
    return f"step {step:,}, {_relative(step, onset)}"


def _relative(step: int, onset: int) -> str:
    if step == onset:
        return "at its onset"
    return f"{onset - step:,} ahead" if step < onset else f"{step - onset:,} after"


def _count(n: int, one: str, many: str | None = None) -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def _aligned(table: Table) -> Sequence[str]:
    lines = (table.headers, *table.rows)
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.headers))]
    return [
        ("  " + "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True))).rstrip()
        for line in lines
    ]


def _outcome(alarm: FalseAlarm) -> str:
    if not math.isfinite(alarm.highest):
        return "no spike (by the noise of batches)"
    return "unstable, but no spike" if alarm.crossed else "threshold not reached"
