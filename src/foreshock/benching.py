"""The ``bench`` commands: they parse, call and print. Showing help imports no torch."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

bench = typer.Typer(help="Reproduce the benchmarks.", no_args_is_help=True)


class Suite(StrEnum):
    """Sizes of a suite."""

    QUICK = "quick"
    FULL = "full"


@bench.callback()
def _group() -> None:
    """Reproduce the benchmarks."""


@bench.command()
def forecast(
    suite: Annotated[Suite, typer.Option(help="quick: some minutes; full: hours, resumable.")] = Suite.QUICK,
    out: Annotated[Path, typer.Option(help="Folder for traces, scores, tables and figures.")] = Path(
        "runs/spikebench"
    ),
    jobs: Annotated[int, typer.Option(min=1, help="Processes, one thread each.")] = 2,
    release: Annotated[
        bool, typer.Option("--release", help="Score the held-out half too: not while a rule is tuned.")
    ] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Record nothing; score the traces that are there.")
    ] = False,
) -> None:
    """Score Foreshock's forecasts and the rules it must beat on spontaneous spikes (SpikeBench).

    Runs are trained and measured once; interrupted, the command goes on where it stopped.
    """
    from foreshock.spikebench.publication import save_scores, score, summary, write_pages
    from foreshock.spikebench.run import is_recorded, record_suite, runs_of, trace_path
    from foreshock.spikebench.trace import Trace

    console = Console(highlight=False)
    runs = runs_of(suite.value, split=None if release else "development")
    folder = out / "traces"
    missing = [run for run in runs if not is_recorded(folder, run)]
    if partial:
        runs = [run for run in runs if run not in missing]
    elif missing:
        console.print(f"{len(missing)} of {len(runs)} runs to record, {jobs} at a time")
        done = iter(range(1, len(missing) + 1))
        record_suite(
            runs,
            folder,
            jobs=jobs,
            on_done=lambda path: console.print(f"  {next(done)}/{len(missing)}  {path.stem}"),
        )
    try:
        scores = score([Trace.load(trace_path(folder, run)) for run in runs])
        path = save_scores(scores, out / "scores.json")
        pages = write_pages(scores, out / "pages")
    except (ImportError, ValueError) as error:
        Console(stderr=True, highlight=False).print(f"[bold red]error:[/] {error}", soft_wrap=True)
        raise typer.Exit(1) from error
    for split in scores["rules"]["scores"]:
        typer.echo(f"\n## {split}\n\n{summary(scores, split)}")
    console.print(f"Scores: {path.resolve()}", soft_wrap=True)
    console.print(f"Tables and figures: {pages[0].parent.resolve()}", soft_wrap=True)
