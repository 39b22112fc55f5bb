"""A run as plain text: the verdict, what is behind it, and what weakens it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foreshock.report.tables import Table, tables_of
from foreshock.report.verdict import lines, verdict
from foreshock.report.words import count, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foreshock.report.summary import RunEvent, RunSummary

_EVENTS_SHOWN = 40


def notes(summary: RunSummary) -> tuple[str, ...]:
    """Return what a reader must know before believing the numbers, one sentence each.

    Args:
        summary: The run in numbers.
    """
    found = [*_of_the_log(summary), *_of_the_probes(summary)]
    if summary.non_finite_losses:
        lost = count(summary.non_finite_losses, "loss was", "losses were")
        found.append(f"{lost} NaN or infinite: from the first to the last in a row they are one event.")
    return tuple(found)


def unreadable(skipped: int) -> str:
    """Return that lines of a log could not be read, in one sentence; nothing if all could.

    Args:
        skipped: Number of such lines.

    Example:
        >>> unreadable(1)
        '1 line of the log could not be read and was left out.'
    """
    if not skipped:
        return ""
    were = "was" if skipped == 1 else "were"
    return f"{count(skipped, 'line')} of the log could not be read and {were} left out."


def to_text(summary: RunSummary, *, width: int | None = None) -> str:
    """Return the report as plain text, for a terminal or a log.

    Args:
        summary: The run in numbers.
        width: Columns of the terminal: a table that is wider is written row by row, a line for each cell.
            None for any width.
    """
    found = verdict(summary)
    parts = [f"{summary.name}: {found.happened}.", *lines(found)]
    if summary.steps:
        parts += ["", counts(summary)]
    if summary.guard is not None:
        policy, steps = summary.guard
        parts.append(f"The guard {policy!r} acted on {count(steps, 'step')}.")
    for table in tables_of(summary):
        if table.rows:
            aligned = _aligned(table)
            wide = width is not None and max(map(len, aligned)) > width
            parts += ["", table.title, *(_by_rows(table) if wide else aligned)]
    parts += _events(summary.events)
    remarks = notes(summary)
    if remarks:
        parts += ["", *(f"Note: {remark}" for remark in remarks)]
    return "\n".join(parts) + "\n"


def counts(summary: RunSummary) -> str:
    """Return how long a run was and what was measured, in one sentence.

    Args:
        summary: The run in numbers.
    """
    probes, age = summary.probes, summary.coverage.age
    words = f"{summary.steps:,} steps, loss {number(summary.first_loss)} → {number(summary.last_loss)}"
    words += "" if summary.ranks is None else f"; {summary.ranks}"
    made = [count(probes.count, "probe")] if probes.count or not probes.noise else []
    made += [count(probes.noise, "measurement") + " of noise"] if probes.noise else []
    words += f"; {', '.join(made)}"
    # NaN, where no age was logged, is not above zero.
    if not age >= 0:
        return f"{words}."
    return f"{words}; readings {number(age)} steps old on average, {number(summary.coverage.oldest)} at most."


def _of_the_log(summary: RunSummary) -> list[str]:
    found = []
    if summary.earlier:
        runs = count(len(summary.earlier), "earlier run")
        found.append(f"The folder also holds {runs}, not shown here: foreshock report {summary.earlier[0]}")
    if summary.skipped:
        found.append(unreadable(summary.skipped))
    if summary.obsolete:
        left = count(summary.obsolete, "record was", "records were")
        found.append(f"{left} left out: the run was resumed at an earlier step, and did them again.")
    if not summary.steps:
        found.append("The log has no losses: there is nothing to find spikes in.")
    elif summary.steps <= summary.definition.fewest:
        found.append(
            f"Only {summary.steps} losses were recorded; a spike needs {summary.definition.fewest} "
            "before it to be compared with."
        )
    return found


def _of_the_probes(summary: RunSummary) -> list[str]:
    probes, found = summary.probes, []
    if not probes.count + probes.noise:
        if probes.failed:
            failed = count(probes.failed, "probe")
            found.append(f"No curvature was measured: {failed} failed.")
        elif summary.imported:
            found.append(f"No curvature: the log was imported from {summary.imported}, which has none.")
        elif summary.non_finite_losses == summary.steps:
            found.append("No curvature was measured: no loss was finite.")
        else:
            found.append(
                "No curvature was measured, and no probe tried: give the monitor a loss_fn to get forecasts."
            )
    elif not summary.forecasts:
        found.append("The log has curvature but no forecasts.")
    if probes.failed and probes.count + probes.noise:
        found.append(f"{count(probes.failed, 'probe')} gave no finite stability ratio.")
    if probes.unconverged:
        found.append(
            f"{count(probes.unconverged, 'probe')} of {probes.count + probes.failed} did not "
            "converge: the true ratio may be higher than shown."
        )
    return found


def _events(events: Sequence[RunEvent]) -> list[str]:
    if not events:
        return []
    shown = [f"  {event.when}  {event.name}: {event.message}" for event in events[:_EVENTS_SHOWN]]
    if len(events) > _EVENTS_SHOWN:
        shown.append(f"  and {len(events) - _EVENTS_SHOWN:,} more")
    return ["", "Events", *shown]


def _by_rows(table: Table) -> Sequence[str]:
    found = []
    for row in table.rows:
        pairs = zip(table.headers, row, strict=True)
        said = [f"{header}: {cell}" for header, cell in pairs if cell not in ("", "–")]
        found += ["", *(f"  {line}" for line in said)]
    return found[1:]


def _aligned(table: Table) -> Sequence[str]:
    rows = (table.headers, *table.rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.headers))]
    return [
        ("  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]
