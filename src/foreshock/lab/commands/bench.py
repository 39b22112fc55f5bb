"""The ``bench`` commands: they parse, call and print. Showing help imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from foreshock.lab.commands.errors import stopped
from foreshock.lab.commands.progress import counter, print_places, resumable
from foreshock.lab.commands.rates import rates

if TYPE_CHECKING:
    from foreshock.explain import Name

bench = typer.Typer(help="Reproduce the benchmarks.", no_args_is_help=True)


_SUITES = "quick: some minutes; full: hours, resumable; test: the test split."


class Suite(StrEnum):
    """Sizes of a suite."""

    QUICK = "quick"
    FULL = "full"
    TEST = "test"


class GuardSuite(StrEnum):
    """Suites of GuardBench."""

    QUICK = "quick"
    FULL = "full"
    NORMALISED = "normalised"


class GuardGroup(StrEnum):
    """Groups of GuardBench's trainings that can be chosen."""

    FULL = "full"
    MINI = "mini"
    LANGUAGE = "language"
    DISTURBED = "disturbed"
    CONTROLS = "controls"


@bench.callback()
def _group() -> None:
    """Reproduce the benchmarks."""


@bench.command()
def forecast(
    suite: Annotated[Suite, typer.Option(help=_SUITES)] = Suite.QUICK,
    out: Annotated[Path, typer.Option(help="Folder for traces, scores, tables and figures.")] = Path(
        "runs/spikebench"
    ),
    jobs: Annotated[int, typer.Option(min=1, help="Processes, one thread each.")] = 2,
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


@bench.command()
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
    jobs: Annotated[int, typer.Option(min=1, help="Processes, one thread each.")] = 2,
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


@bench.command()
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
    jobs: Annotated[int, typer.Option(min=1, help="Processes, one thread each.")] = 2,
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


@bench.command()
def guard(
    suite: Annotated[
        GuardSuite,
        typer.Option(help="quick: minutes; full: hours, resumable; normalised: with BatchNorm, an hour."),
    ] = GuardSuite.QUICK,
    out: Annotated[Path, typer.Option(help="Folder for results, scores, tables and figures.")] = Path(
        "runs/guardbench"
    ),
    jobs: Annotated[int, typer.Option(min=1, help="Processes, one thread each.")] = 2,
    release: Annotated[
        bool,
        typer.Option("--release", help="Run the held-out half too: not while a guard is tuned."),
    ] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Train nothing; score the results that are there.")
    ] = False,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            metavar="NAME",
            help="Only this method, beside plain Adam; can be repeated. Times are left out.",
        ),
    ] = None,
    group: Annotated[
        list[GuardGroup] | None,
        typer.Option("--group", help="Only these trainings; can be repeated. By default all."),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, max=3, help="How many seeds. By default 3; 1 of the quick suite."),
    ] = None,
    starts: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Perturbed starts of each seed, of Adam and the guards. By default 3 of suite full, else 0.",
        ),
    ] = None,
) -> None:
    """Compare Foreshock's guards with other methods against loss spikes (GuardBench).

    Every method trains the same tasks, Adam and the guards also from weights × (1 + 1e-6 ε).
    An interrupted command resumes where it stopped, and what is there can be scored with --partial.
    """
    from foreshock.lab.guardbench.comparison import compare
    from foreshock.lab.guardbench.cost import saved_costs
    from foreshock.lab.guardbench.methods import chosen_methods
    from foreshock.lab.guardbench.publication import page_of, summary, write_pages
    from foreshock.lab.guardbench.run import is_done, left_out, load_result, result_path, run_suite, trials_of
    from foreshock.lab.jobs import write_json

    console = Console(highlight=False)
    split = None if release else "development"
    started = (3 if suite is GuardSuite.FULL else 0) if starts is None else starts
    try:
        trials = trials_of(
            suite.value,
            split=split,
            methods=chosen_methods(method or ()),
            sections=[one.value for one in group or ()],
            seeds=seeds,
            starts=started,
        )
    except ValueError as error:
        raise stopped(error) from error
    folder = out / "results"
    missing = [trial for trial in trials if not is_done(folder, trial)]
    for name in left_out(suite.value, split=split):
        console.print(f"{name} is left out: its data set is not on this machine")
    try:
        if partial:
            trials = [trial for trial in trials if trial not in missing]
        elif missing:
            console.print(f"{len(missing)} of {len(trials)} trainings to run, {jobs} at a time")
            with resumable(folder):
                run_suite(trials, folder, jobs=jobs, on_done=counter(console, len(missing)))
        scores = compare(load_result(result_path(folder, trial)) for trial in trials)
        scores["costs"] = saved_costs(out / "costs.json", measure=not (partial or method))
        path = write_json(scores, out / "scores.json")
        command = f"foreshock bench guard --suite {suite.value}{' --release' if release else ''}"
        command += "".join(f" --method {name}" for name in method or ())
        command += "".join(f" --group {one.value}" for one in group or ())
        command += "" if seeds is None else f" --seeds {seeds}"
        command += "" if starts is None else f" --starts {starts}"
        pages = write_pages(scores, out / "pages", command=command, name=page_of(suite.value))
    except (ImportError, OSError, ValueError) as error:
        raise stopped(error) from error
    for half in scores["scores"]:
        typer.echo(f"\n## {half}\n\n{summary(scores, half)}")
    print_places(console, path, pages)


bench.command()(rates)


@bench.command()
def causes(
    out: Annotated[Path, typer.Option(help="Folder for logs and scores.")] = Path("runs/causes"),
    count: Annotated[int, typer.Option(min=2, help="Spikes of each cause; every second is held out.")] = 20,
    jobs: Annotated[int, typer.Option(min=1, help="Processes, one thread each.")] = 2,
    release: Annotated[
        bool, typer.Option("--release", help="Score the held-out half too: not while a test is tuned.")
    ] = False,
) -> None:
    """Score `foreshock explain` on spikes whose cause is known.

    Each is a small training, a second or a few; an interrupted command resumes where it stopped.
    """
    from foreshock.lab.causes.scoring import confusion_table, right, score_spikes
    from foreshock.lab.causes.training import half_of_spikes, record_spike
    from foreshock.lab.jobs import finished, write_json

    console = Console(highlight=False)
    splits = ("development", "held-out") if release else ("development",)
    wanted = [one for split in reversed(splits) for one in half_of_spikes(count, split)]
    missing = [
        one for one in wanted if not (out / f"{one[0].replace(' ', '-')}-{one[1]}/truth.json").exists()
    ]
    done = counter(console, len(missing))
    try:
        with resumable(out):
            for path in finished(record_spike, [(*one, out) for one in missing], jobs=jobs):
                done(path.parent)
        scores = {split: score_spikes(out, split=split) for split in splits}
        path = write_json(scores, out / "scores.json")
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise stopped(error) from error
    for split, found in scores.items():
        named, honest, total = right(found)
        typer.echo(f"\n{split}: {named} of {total} rightly named, {honest} not explained without their test")
        headers, rows = confusion_table(found)
        for row in rows:
            pairs = zip(headers[1:-1], row[1:-1], strict=True)
            typer.echo(f"  {row[0]}: {', '.join(f'{name} {cell}' for name, cell in pairs if cell)}")
    console.print(f"Scores: {path.resolve()}", soft_wrap=True)


@bench.command()
def rewind(
    out: Annotated[Path, typer.Option(help="Folder for logs and results.")] = Path("runs/rewind"),
    spikes: Annotated[Path, typer.Option(help="Folder of `bench causes`.")] = Path("runs/causes"),
    count: Annotated[int, typer.Option(min=2, help="Spikes of each cause; every second is held out.")] = 10,
    starts: Annotated[int, typer.Option(min=1, help="Perturbed initial weights of each.")] = 3,
    jobs: Annotated[int, typer.Option(min=1, help="Processes, one thread each.")] = 2,
    release: Annotated[
        bool, typer.Option("--release", help="The held-out half instead: not while a ladder is tuned.")
    ] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Train nothing; count the results that are there.")
    ] = False,
) -> None:
    """Let runs that fail go on from a snapshot, and compare them with runs that never failed.

    The spikes are those of `bench causes`, recorded if they are not there; an interrupted command resumes.
    """
    from foreshock.lab.causes.rewinding import (
        HEADERS,
        drawn,
        is_recorded,
        record_recovery,
        result_file,
        results_of,
        tally,
    )
    from foreshock.lab.jobs import finished, write_json

    console = Console(highlight=False)
    chosen = drawn(count, release=release)
    wanted = [(*one, start) for start in range(starts) for one in chosen]
    try:
        with resumable(out):
            if not partial:
                _record_spikes(console, chosen, spikes, jobs)
                wanted = [one for one in wanted if is_recorded(*one[:2], spikes)]
                missing = [one for one in wanted if not result_file(*one, out).exists()]
                console.print(f"{len(missing)} of {len(wanted)} runs to train, {jobs} at a time")
                done = counter(console, len(missing))
                for path in finished(record_recovery, [(*one, spikes, out) for one in missing], jobs=jobs):
                    done(path)
        results = _some(results_of(wanted, out), out)
        split = "held-out" if release else "development"
        path = write_json({"split": split, "results": results}, out / f"{split}.json")
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise stopped(error) from error
    for row in tally(results):
        typer.echo("  " + "; ".join(f"{name} {cell}" for name, cell in zip(HEADERS, row, strict=True)))
    console.print(f"Results: {path.resolve()}", soft_wrap=True)


def _record_spikes(console: Console, chosen: Sequence[tuple[Name, int]], spikes: Path, jobs: int) -> None:
    from foreshock.lab.causes.rewinding import is_recorded
    from foreshock.lab.causes.training import NoSpikeError, record_spike
    from foreshock.lab.jobs import finished

    unknown = [(*one, spikes) for one in chosen if not is_recorded(*one, spikes)]
    done = counter(console, len(unknown))
    try:
        for path in finished(record_spike, unknown, jobs=jobs):
            done(path.parent)
    except NoSpikeError as error:  # after all others were recorded
        console.print(f"Left out: {error}")


@bench.command()
def advice(
    out: Annotated[Path, typer.Option(help="Folder for logs and results.")] = Path("runs/advice"),
    starts: Annotated[int, typer.Option(min=1, help="From how many starts advice is followed.")] = 3,
    jobs: Annotated[int, typer.Option(min=1, help="Processes, one thread each.")] = 2,
    partial: Annotated[
        bool, typer.Option("--partial", help="Train nothing; score the results that are there.")
    ] = False,
) -> None:
    """Score `foreshock advise`: trainings that spike, and what follows from the advice from their start on.

    An interrupted command resumes where it stopped.
    """
    from foreshock.lab.advice import results_of, score_advice
    from foreshock.lab.jobs import write_json

    console = Console(highlight=False)
    try:
        if not partial:
            with resumable(out):
                _train_advised(console, out, starts, jobs)
        results = _some(results_of(out), out)
        path = write_json({"score": score_advice(results), "results": results}, out / "results.json")
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise stopped(error) from error
    for name, value in score_advice(results).items():
        typer.echo(f"  {name.replace('_', ' ')}: {value}")
    console.print(f"Results: {path.resolve()}", soft_wrap=True)


def _train_advised(console: Console, out: Path, starts: int, jobs: int) -> None:
    from foreshock.lab.advice import advised_runs, is_complete, train_advised
    from foreshock.lab.jobs import finished

    wanted = advised_runs()
    calls = [(*one, starts, out) for one in wanted if not is_complete(*one, starts, out)]
    console.print(f"{len(calls)} of {len(wanted)} trainings to record, advise and follow, {jobs} at a time")
    done = counter(console, len(calls))
    for path in finished(train_advised, calls, jobs=jobs):
        done(path)


def _some(results: list[dict[str, Any]], out: Path) -> list[dict[str, Any]]:
    if not results:
        raise ValueError(f"there is no result in {out}: leave out --partial, or name another folder by --out")
    return results
