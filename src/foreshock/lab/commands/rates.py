"""``foreshock bench rates``: it parses, calls and prints. Showing help imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from foreshock.lab.commands.errors import stopped
from foreshock.lab.commands.progress import counter, print_places, resumable


def rates(
    out: Annotated[Path, typer.Option(help="Folder for results, tables and figures.")] = Path("runs/rates"),
    jobs: Annotated[int, typer.Option(min=1, help="Processes, one thread each.")] = 2,
    release: Annotated[
        bool,
        typer.Option("--release", help="Run the held-out half too: not while a guard is tuned."),
    ] = False,
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
    from foreshock.lab.guardbench.run import is_done, load_result, result_path, run_suite
    from foreshock.lab.jobs import write_json

    console = Console(highlight=False)
    folder = out / "results"
    try:
        tasks = chosen_tasks(task or (), split=None if release else "development")
        trials = rate_trials(tasks, chosen_methods(method or COMPARED), seeds=seeds)
        missing = [trial for trial in trials if not is_done(folder, trial)]
        if partial:
            trials = [trial for trial in trials if trial not in missing]
        elif missing:
            console.print(f"{len(missing)} of {len(trials)} trainings to run, {jobs} at a time")
            with resumable(folder):
                run_suite(trials, folder, jobs=jobs, on_done=counter(console, len(missing)))
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
