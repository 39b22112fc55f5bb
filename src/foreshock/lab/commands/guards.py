"""The commands `bench guard` and `bench rates`: they parse, call and print. Help imports no torch."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from foreshock.lab.commands.errors import stopped
from foreshock.lab.commands.options import Jobs
from foreshock.lab.commands.progress import counter, print_places, resumable

if TYPE_CHECKING:
    from foreshock.lab.guardbench.run import Trial

Release = Annotated[
    bool, typer.Option("--release", help="Run the held-out half too: not while a guard is tuned.")
]


class GuardSuite(StrEnum):
    """Suites of GuardBench."""

    QUICK = "quick"
    FULL = "full"
    NORMALISED = "normalised"
    DRAWN = "drawn"


class GuardGroup(StrEnum):
    """Groups of GuardBench's trainings that can be chosen."""

    FULL = "full"
    MINI = "mini"
    LANGUAGE = "language"
    DISTURBED = "disturbed"
    CONTROLS = "controls"


def guard(
    suite: Annotated[
        GuardSuite,
        typer.Option(
            help="quick: minutes; full: hours, resumable; normalised: with BatchNorm, an hour; drawn: tasks "
            "drawn at random, hours."
        ),
    ] = GuardSuite.QUICK,
    out: Annotated[Path, typer.Option(help="Folder for results, scores, tables and figures.")] = Path(
        "runs/guardbench"
    ),
    jobs: Jobs = 2,
    release: Release = False,
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
    from foreshock.lab.guardbench.run import left_out, load_result, result_path, trials_of
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
    for name in left_out(suite.value, split=split):
        console.print(f"{name} is left out: its data set is not on this machine")
    try:
        trials = _trained(console, trials, folder, partial=partial, jobs=jobs)
        scores = compare(load_result(result_path(folder, trial)) for trial in trials)
        scores["costs"] = saved_costs(out / "costs.json", measure=not (partial or method))
        command = f"foreshock bench guard --suite {suite.value}{' --release' if release else ''}"
        command += "".join(f" --method {name}" for name in method or ())
        command += "".join(f" --group {one.value}" for one in group or ())
        command += "" if seeds is None else f" --seeds {seeds}"
        command += "" if starts is None else f" --starts {starts}"
        path = write_json({**scores, "command": command}, out / "scores.json")
        pages = write_pages(scores, out / "pages", command=command, name=page_of(suite.value))
    except (ImportError, OSError, ValueError) as error:
        raise stopped(error) from error
    for half in scores["scores"]:
        typer.echo(f"\n## {half}\n\n{summary(scores, half)}")
    print_places(console, path, pages)


def rates(
    out: Annotated[Path, typer.Option(help="Folder for results, tables and figures.")] = Path("runs/rates"),
    jobs: Jobs = 2,
    release: Release = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Train nothing; compare the results that are there.")
    ] = False,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", metavar="NAME", help="Only this one, beside plain Adam; can be repeated."),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", metavar="NAME", help="Only this task; can be repeated."),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=2, max=3, help="How many: a rate is chosen on others than it is scored on.")
    ] = 2,
) -> None:
    """Compare methods at their own best learning rates (GuardBench).

    Each trains small tasks at a quarter to eight times their base rate, half an hour on a free core.
    An interrupted command resumes where it stopped, and what is there can be compared with --partial.
    """
    from foreshock.lab.guardbench.methods import chosen_methods
    from foreshock.lab.guardbench.rates.choosing import collect, compare
    from foreshock.lab.guardbench.rates.page import write_rates
    from foreshock.lab.guardbench.rates.suite import COMPARED, chosen_tasks
    from foreshock.lab.guardbench.rates.tables import overview_table, pair_table, verdict
    from foreshock.lab.guardbench.rates.trials import rate_trials
    from foreshock.lab.guardbench.run import load_result, result_path
    from foreshock.lab.jobs import write_json

    console = Console(highlight=False)
    folder = out / "results"
    try:
        tasks = chosen_tasks(task or (), split=None if release else "development")
        trials = rate_trials(tasks, chosen_methods(method or COMPARED), seeds=seeds)
        trials = _trained(console, trials, folder, partial=partial, jobs=jobs)
        data = collect(load_result(result_path(folder, trial)) for trial in trials)
        path = write_json(data, out / "rates.json")
        command = f"foreshock bench rates{' --release' if release else ''}"
        command += "".join(f" --method {name}" for name in method or ())
        command += "".join(f" --task {name}" for name in task or ())
        command += "" if seeds == 2 else f" --seeds {seeds}"
        pages = write_rates(data, out / "pages", command=command)
        scores = compare(data)
    except (ImportError, OSError, ValueError) as error:
        raise stopped(error) from error
    typer.echo(f"\n{verdict(scores)}\n\n{overview_table(scores)}\n\n{pair_table(scores)}\n")
    print_places(console, path, pages)


def _trained(console: Console, trials: list[Trial], folder: Path, *, partial: bool, jobs: int) -> list[Trial]:
    """Run the trainings that have no result yet; return all, or those that have one where nothing is run."""
    from foreshock.lab.guardbench.run import is_done, run_suite

    missing = [trial for trial in trials if not is_done(folder, trial)]
    if partial:
        return [trial for trial in trials if trial not in missing]
    if missing:
        console.print(f"{len(missing)} of {len(trials)} trainings to run, {jobs} at a time")
        with resumable(folder):
            run_suite(trials, folder, jobs=jobs, on_done=counter(console, len(missing)))
    return trials
