"""``foreshock compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from foreshock.cli.console import make_console, print_note, print_table, stopped
from foreshock.cli.output import AsJson, print_result


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or their .jsonl files: two or more.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Also write a page: charts of all runs, aligned at the spike, then each run.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say which of several runs spiked, and what was different in the others before.

    Settings, lag, ratio and gradients are compared at the step of the first spike.
    """
    from foreshock.cli.report import write_page
    from foreshock.explain import compare_runs
    from foreshock.report.comparison import comparison_tables
    from foreshock.report.text import unreadable
    from foreshock.runlog import read_run

    console = make_console()
    try:
        read = [read_run(run) for run in runs]
        found = compare_runs(read)
    except (OSError, ValueError) as error:
        raise stopped(error) from error
    for one, compared in zip(read, found.runs, strict=True):
        print_note(unreadable(one.skipped), of=compared.name, stderr=True)
    if as_json:
        print_result("compare", found)
        if output is not None:
            write_page(make_console(stderr=True), read, output, compared=found)
        return
    for finding in found.findings:
        console.print(escape(finding), soft_wrap=True)
    console.print()

    for table in comparison_tables(found):
        print_table(console, table)
    if output is not None:
        write_page(console, read, output, compared=found)
