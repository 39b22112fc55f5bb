"""``foreshock report``, and what other commands print or write of a run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from foreshock.cli.console import (
    make_console,
    picture_file,
    print_table,
    printable_path,
    stopped,
    terminal_width,
)
from foreshock.cli.output import FailOnOption, fail, result_text, worst_among

if TYPE_CHECKING:
    from foreshock.explain import Comparison
    from foreshock.report import RunSummary, Verdict
    from foreshock.report.severity import Worst
    from foreshock.runlog import Run


class Format(StrEnum):
    """Forms of a report."""

    HTML = "html"
    MD = "md"
    JSON = "json"
    TEXT = "text"


@dataclass(frozen=True)
class Report:
    """The report on a run.

    Attributes:
        verdict: What happened, why, and what to do.
        worst: The worst that happened: ``none``, ``alarm``, ``spike`` or ``divergence``.
        notes: What a reader must know before believing the numbers, a sentence each.
        summary: The run in numbers.
    """

    verdict: Verdict
    worst: Worst
    notes: tuple[str, ...]
    summary: RunSummary


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or their .jsonl files.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="File to write; for html by default report.html in the first run."
        ),
    ] = None,
    form: Annotated[
        Format,
        typer.Option("--format", help="html: a page; md, json, text: printed, unless --output names a file."),
    ] = Format.HTML,
    text: Annotated[bool, typer.Option("--text", help="The same as --format text.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    picture: Annotated[
        Path | None,
        typer.Option(
            help="Also draw the first run into this .svg, .pdf or .png file.", callback=picture_file
        ),
    ] = None,
    fail_on: FailOnOption = None,
) -> None:
    """Make a report of one or more runs: by default one self-contained HTML page.

    `--format md` is for an issue or a pull request, `--format json` for scripts.
    """
    from foreshock.runlog import read_run
    from foreshock.runlog.labels import labels_of

    chosen = Format.TEXT if text else Format.JSON if as_json else form
    console = make_console(stderr=chosen is not Format.HTML)
    try:
        read = [read_run(run) for run in runs]
    except (OSError, ValueError) as error:
        raise stopped(error) from error
    if chosen is Format.HTML:
        first = runs[0] if runs[0].is_dir() else runs[0].parent
        write_page(console, read, output or first / "report.html")
        found = [_worst(run) for run in read] if fail_on else []
    else:
        reports = [report_of(run) for run in read]
        _print(console, chosen, reports, labels_of(read), output)
        found = [one.worst for one in reports]
    if picture is not None:
        write_run_picture(console, read[0], picture)
    fail(worst_among(found), fail_on)


def report_of(run: Run) -> Report:
    """Return the report on a run.

    Args:
        run: A run as read from its log.
    """
    from foreshock.report import notes, summarise, verdict
    from foreshock.report.severity import had_alarm, worst_of

    summary = summarise(run)
    kinds = [event.kind for event in (*summary.spikes, *summary.failures)]
    return Report(verdict(summary), worst_of(kinds, alarms=had_alarm(run)), notes(summary), summary)


def _worst(run: Run) -> Worst:
    from foreshock.report.severity import had_alarm, worst_of
    from foreshock.runlog.values import recorded_losses
    from foreshock.spikes import detect_events

    steps, losses = recorded_losses(run)
    kinds = [event.kind for event in detect_events(steps.tolist(), losses.tolist())]
    return worst_of(kinds, alarms=had_alarm(run))


def _print(
    console: Console, form: Format, reports: list[Report], labels: list[str], output: Path | None
) -> None:
    from foreshock.report import to_markdown, to_text
    from foreshock.report.placing import placed

    if form is Format.JSON:
        words = result_text("report", reports) + "\n"
    else:
        named = [replace(r.summary, name=label) for r, label in zip(reports, labels, strict=True)]
        width = terminal_width() if output is None else None
        texts = (to_markdown(one) if form is Format.MD else to_text(one, width=width) for one in named)
        words = "\n".join(texts)
    if output is None:
        typer.echo(words, nl=False)
        return
    try:
        with placed(output) as beside:
            beside.write_text(words, encoding="utf-8")
    except OSError as error:
        raise stopped(error, "name another file with --output") from error
    console.print(f"Report: {printable_path(output)}", soft_wrap=True)


def print_overview(console: Console, runs: list[Run]) -> None:
    """Print the verdict on each run – what happened, why, what to do – and the spikes of all as one table.

    Args:
        console: Where to.
        runs: The runs.
    """
    from foreshock.report import overview_table, summarise, verdict
    from foreshock.report.verdict import lines
    from foreshock.runlog.labels import labels_of

    summaries = [
        replace(summarise(run), name=label) for run, label in zip(runs, labels_of(runs), strict=True)
    ]
    for summary in summaries:
        found = verdict(summary)
        console.print()
        console.print(f"[bold]{escape(summary.name)}[/]: {escape(found.happened)}.", soft_wrap=True)
        for line in lines(found):
            console.print(escape(line), soft_wrap=True)
    console.print()
    print_table(console, overview_table(summaries))


def write_page(console: Console, runs: list[Run], path: Path, *, compared: Comparison | None = None) -> None:
    """Write the HTML page of some runs, and say where it is.

    Args:
        console: Where to say it.
        runs: The runs.
        path: The page.
        compared: What comparing them found, which comes first; None for no comparison.
    """
    from foreshock.report import write_html

    try:
        written = write_html(runs, path, compared=compared)
    except ImportError as error:
        raise stopped(error) from error
    except OSError as error:
        raise stopped(error, "name another file with --output") from error
    console.print(f"Report: {printable_path(written)}", soft_wrap=True)


def write_run_picture(console: Console, run: Run, path: Path) -> None:
    """Draw a run into a file, and say where it is.

    Args:
        console: Where to say it.
        run: The run.
        path: The file, ``.svg``, ``.pdf`` or ``.png``.
    """
    from foreshock.report import write_picture

    try:
        written = write_picture(run, path)
    except (ImportError, ValueError) as error:
        raise stopped(error) from error
    except OSError as error:
        raise stopped(error, "name another file with --picture") from error
    console.print(f"Picture: {printable_path(written)}", soft_wrap=True)
