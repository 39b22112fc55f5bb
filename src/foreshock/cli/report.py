"""``foreshock report``, and what other commands print or write of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from foreshock.cli.console import make_console, print_table, printable_path, stopped

if TYPE_CHECKING:
    from foreshock.runlog import Run


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or their .jsonl files.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The page; by default report.html in the first run."),
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="Print the report, write no page.")] = False,
    picture: Annotated[
        Path | None, typer.Option(help="Also draw the first run into this .svg or .png file.")
    ] = None,
) -> None:
    """Make one self-contained HTML page of one or more runs."""
    from foreshock.report import summarise, to_text
    from foreshock.runlog import read_run

    console = make_console()
    try:
        read = [read_run(run) for run in runs]
    except (OSError, ValueError) as error:
        raise stopped(error) from error
    if text:
        for run in read:
            typer.echo(to_text(summarise(run)))
    else:
        first = runs[0] if runs[0].is_dir() else runs[0].parent
        write_page(console, read, output or first / "report.html")
    if picture is not None:
        write_run_picture(console, read[0], picture)


def print_overview(console: Console, runs: list[Run]) -> None:
    """Print the verdict on each run – what happened, why, what to do – and the spikes of all as one table.

    Args:
        console: Where to.
        runs: The runs.
    """
    from foreshock.report import overview_table, summarise, verdict
    from foreshock.report.verdict import lines

    summaries = [summarise(run) for run in runs]
    for summary in summaries:
        found = verdict(summary)
        console.print()
        console.print(f"[bold]{escape(summary.name)}[/]: {escape(found.happened)}.", soft_wrap=True)
        for line in lines(found):
            console.print(escape(line), soft_wrap=True)
    console.print()
    print_table(console, overview_table(summaries))


def write_page(console: Console, runs: list[Run], path: Path) -> None:
    """Write the HTML page of some runs, and say where it is.

    Args:
        console: Where to say it.
        runs: The runs.
        path: The page.
    """
    from foreshock.report import write_html

    try:
        written = write_html(runs, path)
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
        path: The file, ``.svg`` or ``.png``.
    """
    from foreshock.report import write_picture

    try:
        written = write_picture(run, path)
    except (ImportError, ValueError) as error:
        raise stopped(error) from error
    except OSError as error:
        raise stopped(error, "name another file with --picture") from error
    console.print(f"Picture: {printable_path(written)}", soft_wrap=True)
