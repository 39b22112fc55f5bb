"""``foreshock compare``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from foreshock.cli.console import make_console, print_table, stopped
from foreshock.cli.output import AsJson, print_result

if TYPE_CHECKING:
    from foreshock.runlog import Run


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or their .jsonl files: two or more.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Also write the page of all runs, one below the other."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say which of several runs spiked, and what was different in the others before.

    Settings, lag, ratio and gradients are compared at the step of the first spike.
    """
    from foreshock.explain import compare_runs
    from foreshock.report.tables import Table
    from foreshock.report.words import number
    from foreshock.runlog import read_run

    console = make_console()
    try:
        read = [read_run(run) for run in runs]
        found = compare_runs(read)
    except (OSError, ValueError) as error:
        raise stopped(error) from error
    if as_json:
        print_result("compare", found)
        if output is not None:
            _write(read, output)
        return
    for finding in found.findings:
        console.print(escape(finding), soft_wrap=True)
    console.print()

    def words(value: float) -> str:
        return "–" if math.isnan(value) else number(value)

    headers = ("Run", "Spikes", "Highest", "Loss", "Rate", "‖g‖", "v/g²", "Ratio", "Alarms")
    rows = tuple(
        (
            one.name,
            str(one.spikes),
            words(one.highest),
            *map(words, (one.loss, one.learning_rate, one.gradient_norm, one.lag, one.ratio)),
            str(one.alarms),
        )
        for one in found.runs
    )
    print_table(console, Table(f"Before step {found.step:,}", headers, rows))
    names = tuple(one.name for one in found.runs)
    settings = tuple((name, *values) for name, values in found.settings.items())
    print_table(console, Table("Settings that differ", ("Setting", *names), settings))
    if output is not None:
        _write(read, output)


def _write(runs: list[Run], path: Path) -> None:
    from foreshock.cli.report import write_page

    write_page(make_console(stderr=True), runs, path)
