"""The commands `bench forecast`, `tapes` and `probability`: they parse, call, print. Help needs no torch."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from foreshock.lab.commands.errors import stopped
from foreshock.lab.commands.options import Jobs
from foreshock.lab.commands.progress import counter, print_places, resumable

_SUITES = "quick: some minutes; full: hours, resumable; test: the test split."


class Suite(StrEnum):
    """Sizes of a suite."""

    QUICK = "quick"
    FULL = "full"
    TEST = "test"


def forecast(
    suite: Annotated[Suite, typer.Option(help=_SUITES)] = Suite.QUICK,
    out: Annotated[Path, typer.Option(help="Folder for traces, scores, tables and figures.")] = Path(
        "runs/spikebench"
    ),
    jobs: Jobs = 2,
    release: Annotated[
        bool,
        typer.Option(
            "--release", help="Score the held-out half, or the test split: not while a rule is tuned."
        ),
    ] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Record nothing; score the traces that are there.")
    ] = False,
) -> None:
    """Score Foreshock's forecasts and the rules it must beat on spontaneous spikes (SpikeBench).

    Runs are trained and measured once; an interrupted command resumes where it stopped.
    """
    from foreshock.lab.spikebench.publication import save_scores, score, summary, write_pages
    from foreshock.lab.spikebench.run import is_recorded, record_suite, runs_of, trace_path
    from foreshock.lab.spikebench.trace import Trace

    console = Console(highlight=False)
    if suite is Suite.TEST and not release:
        raise stopped(
            ValueError("the test split is scored by --release alone, once nothing is tuned any more")
        )
    runs = runs_of(suite.value, split=None if release else "development")
    folder = out / "traces"
    missing = [run for run in runs if not is_recorded(folder, run)]
    if partial:
        runs = [run for run in runs if run not in missing]
    elif missing:
        console.print(f"{len(missing)} of {len(runs)} runs to record, {jobs} at a time")
        with resumable(folder):
            record_suite(runs, folder, jobs=jobs, on_done=counter(console, len(missing)))
    try:
        scores = score([Trace.load(trace_path(folder, run)) for run in runs])
        path = save_scores(scores, out / "scores.json")
        pages = write_pages(scores, out / "pages")
    except (ImportError, ValueError) as error:
        raise stopped(error) from error
    for split in scores["rules"]["scores"]:
        typer.echo(f"\n## {split}\n\n{summary(scores, split)}")
    print_places(console, path, pages)


def tapes(
    suite: Annotated[Suite, typer.Option(help=_SUITES)] = Suite.QUICK,
    out: Annotated[Path, typer.Option(help="Folder for the tapes.")] = Path("runs/spikebench/tapes"),
    budget: Annotated[
        list[float] | None,
        typer.Option(
            "--budget",
            metavar="PASSES",
            help="Passes a step; can be repeated. By default .02, .05, .2 and 1.",
        ),
    ] = None,
    jobs: Jobs = 2,
) -> None:
    """Record what a monitor with a budget sees of SpikeBench's runs.

    The probability of a spike is fitted to tapes and scored on them. Runs are trained once for each budget;
    an interrupted command resumes where it stopped.
    """
    from foreshock.lab.spikebench.run import runs_of
    from foreshock.lab.spikebench.tapes import BUDGETS, absent, record_tapes

    console = Console(highlight=False)
    runs, budgets = runs_of(suite.value), tuple(budget or BUDGETS)
    try:
        for one in budgets:
            if not 0 < one < float("inf"):
                raise ValueError(f"--budget is {one}; it is passes a step, above 0: 0.05 is usual")
        missing = absent([(run, one) for one in budgets for run in runs], out)
        console.print(f"{len(missing)} of {len(runs) * len(budgets)} tapes to record, {jobs} at a time")
        with resumable(out):
            record_tapes(runs, out, budgets=budgets, jobs=jobs, on_done=counter(console, len(missing)))
    except (ImportError, ValueError) as error:
        raise stopped(error) from error
    console.print(f"Tapes: {out.resolve()}", soft_wrap=True)


def probability(
    tapes: Annotated[
        list[Path] | None,
        typer.Option("--tapes", help="Folder of tapes, with one folder a budget in it; can be repeated."),
    ] = None,
    traces: Annotated[
        list[Path] | None,
        typer.Option("--traces", help="Folder of traces, for the rules and the oracle; can be repeated."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the scores and for what is kept.")] = Path(
        "runs/spikebench"
    ),
    jobs: Jobs = 2,
    release: Annotated[
        bool,
        typer.Option("--release", help="Score the test split: once, when nothing is tuned any more."),
    ] = False,
) -> None:
    """Score the probability of a spike at each budget, beside all rules and an oracle (SpikeBench).

    Without `--release` development runs are scored, each by points fitted without its configuration.
    """
    from foreshock.lab.spikebench.kept import score_folders
    from foreshock.lab.spikebench.probability_page import summary

    console = Console(highlight=False)
    split = "test" if release else "development"
    folders = (tapes or [out / "tapes"], traces or [out / "traces"])
    try:
        with resumable(out):
            path, scores = score_folders(*folders, out, split=split, jobs=jobs, note=console.print)
    except (OSError, ValueError) as error:
        raise stopped(error) from error
    typer.echo(f"\n{summary(scores)}")
    console.print(f"Scores: {path.resolve()}", soft_wrap=True)
