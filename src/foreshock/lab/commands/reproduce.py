"""The ``reproduce`` command: it parses, calls and prints. Showing help imports no torch."""

from __future__ import annotations

import dataclasses
import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from foreshock.interrupts import saying_what_is_kept
from foreshock.lab.commands.errors import stopped

if TYPE_CHECKING:
    from foreshock.lab.reproduction.experiment import Experiment, OnStep
    from foreshock.lab.reproduction.runner import Order

_LINES = 4


class Scale(StrEnum):
    """Sizes of the experiments."""

    CPU = "cpu"
    MEDIUM = "medium"
    PAPER = "paper"


def reproduce(
    name: Annotated[
        str,
        typer.Argument(
            help="quadratic, fnn-1d, fnn-50d, cnn, transformer, llm, interventions, cause, criteria; all; "
            "map, where v is to blame over networks and settings (half an hour); forks, which spikes do good "
            "(three quarters of an hour); or page, which only writes the pages from results that are there."
        ),
    ],
    scale: Annotated[
        Scale,
        typer.Option(
            help="cpu: minutes each; medium: transformer, llm, llm-words and cnn in mini-batches, hours each "
            "on two cores; paper: the paper's sizes, for a GPU."
        ),
    ] = Scale.CPU,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Number of seeds; 3, and 2 of each cell of map and forks, by default."),
    ] = None,
    first_seed: Annotated[int, typer.Option(min=0, help="The first of them.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be repeated."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder or archive with images for cnn and cause.")
    ] = None,
    text: Annotated[Path | None, typer.Option(help="Text file for llm.")] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or auto, for experiments that have such a setting.")
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Processes that train side by side, for map and forks.")
    ] = 1,
    out: Annotated[Path, typer.Option(help="Folder for runs, results and pages.")] = Path(
        "runs/reproduction"
    ),
    results: Annotated[
        Path | None, typer.Option(help="Keep the results here instead of in the folder out.")
    ] = None,
    docs: Annotated[
        Path | None, typer.Option(help="Write the pages and figures into this documentation folder.")
    ] = None,
) -> None:
    """Reproduce the paper's experiments and judge its claims by criteria in numbers.

    Each seed is an ordinary run that `foreshock report` can read. An interrupted command resumes where it
    stopped.
    """
    from foreshock.lab.reproduction.page import publish

    console = Console(highlight=False)
    kept, target = results or out / "results", docs or out / "pages"
    try:
        if jobs > 1 and name not in ("map", "forks"):
            raise ValueError(
                f"--jobs {jobs} is for map and forks; the seeds of {name} are run one after the other: leave "
                "it out"
            )
        if name == "map":
            _survey(console, scale, range(first_seed, first_seed + (seeds or 2)), kept, settings or [], jobs)
        elif name == "forks":
            if scale != Scale.CPU:
                raise ValueError("forks have one scale: leave out --scale")
            _fork(console, range(first_seed, first_seed + (seeds or 2)), kept, settings or [], jobs)
        else:
            chosen = range(first_seed, first_seed + (seeds or 3))
            orders = _orders(name, scale.value, chosen, _changes(settings or [], data, text, device), out)
            finished = (
                f"Seeds that were finished are kept in {out.resolve()}: the same command goes on from there"
            )
            with saying_what_is_kept(lambda: finished):
                for order in orders:
                    _carry_out(console, order, kept, target)
        pages = publish(kept, scale.value, target)
    except (ImportError, OSError, ValueError) as error:
        raise stopped(error) from error
    for page in pages:
        console.print(f"Page: {page.resolve()}", soft_wrap=True)


def _survey(console: Console, scale: Scale, seeds: range, kept: Path, settings: list[str], jobs: int) -> None:
    """Run the cells of the map that are missing, a line in the terminal and one in the file each."""
    from foreshock.lab.reproduction.filling import MAP
    from foreshock.lab.reproduction.spikemap.survey import CELLS, survey

    if settings or scale != Scale.CPU:
        raise ValueError("the map has one size and no settings: leave out --set and --scale")

    def told(done: int, total: int, line: dict[str, Any]) -> None:
        settings_of = f"{line['kind']}, {line['batch']} batch, β₂ {line['beta2']:g}, decay {line['decay']:g}"
        console.print(
            f"  {done} of {total}: {settings_of}, rate {line['rate']:g}, seed {line['seed']}: "
            f"{line['spikes']} spikes",
            soft_wrap=True,
        )

    console.print("[bold]map[/]: where v is to blame; interrupt and repeat it at will")
    path = kept / MAP / CELLS
    finished = f"Cells that were finished are kept in {path.resolve()}: the same command goes on from there"
    with saying_what_is_kept(lambda: finished):
        survey(path, seeds, jobs=jobs, on_cell=told)


def _fork(console: Console, seeds: range, kept: Path, settings: list[str], jobs: int) -> None:
    """Run the trainings whose spikes are forked that are missing, a line each."""
    from foreshock.lab.reproduction.filling import FORKS as FOLDER
    from foreshock.lab.reproduction.settings import with_settings
    from foreshock.lab.reproduction.spikeforks.cells import Sizes
    from foreshock.lab.reproduction.spikeforks.survey import FORKS, survey

    def told(done: int, total: int, line: dict[str, Any]) -> None:
        settings_of = f"{line['kind']}, {line['batch']} batch, β₂ {line['beta2']:g}, decay {line['decay']:g}"
        compared = sum(len(fork["copies"]) > 1 for fork in line["forks"])
        console.print(
            f"  {done} of {total}: {settings_of}, rate {line['rate']:g}, seed {line['seed']}: "
            f"{line['spikes']} spikes, {len(line['forks'])} forked, {compared} compared",
            soft_wrap=True,
        )

    console.print("[bold]forks[/]: which spikes do good; interrupt and repeat it at will")
    sizes = with_settings(Sizes(), settings)
    path = kept / FOLDER / FORKS
    finished = f"What was finished is kept in {path.resolve()}: the same command goes on from there"
    with saying_what_is_kept(lambda: finished):
        survey(path, seeds, sizes=sizes, jobs=jobs, on_line=told)


def _carry_out(console: Console, order: Order, kept: Path, target: Path) -> None:
    """Run what is missing, keep the result, print the verdicts and draw the figures of the first seed."""
    from foreshock.lab.reproduction.page import PICTURES
    from foreshock.lab.reproduction.results import save_result
    from foreshock.lab.reproduction.runner import run_order

    console.print(f"[bold]{order.experiment.name}[/]: {order.experiment.title}")
    result = run_order(order, start=lambda name, seed: _progress(console, name, seed))
    save_result(result, kept)
    for claim in order.experiment.claims:
        console.print(f"  {result.verdict(claim).value}: {claim.statement}", soft_wrap=True)
    drawn = order.experiment.draw(order.seed_folder(order.seeds[0]), target / PICTURES)
    console.print(f"  {len(drawn)} figures, {sum(result.seconds):.0f} s of processor time")


def _changes(
    settings: list[str], data: Path | None, text: Path | None, device: str | None
) -> dict[str, list[str]]:
    """Return the assignments that must hold, and those for experiments that have such a setting."""
    possible = {"path": data, "text": text, "device": device}
    optional = [f"{name}={value}" for name, value in possible.items() if value is not None]
    return {"always": settings, "where possible": optional}


def _orders(name: str, scale: str, seeds: range, changes: dict[str, list[str]], out: Path) -> list[Order]:
    from foreshock.lab.reproduction.experiments import experiments_at, find_experiment
    from foreshock.lab.reproduction.runner import Order

    if name == "page":
        return []
    if name == "all" and changes["always"]:
        raise ValueError("--set changes one experiment; name it instead of all")
    chosen = list(experiments_at(scale).values()) if name == "all" else [find_experiment(name, scale)]
    return [
        Order(
            experiment,
            scale,
            _configure(experiment, scale, changes),
            seeds,
            out,
            _command(experiment, scale, seeds, changes),
        )
        for experiment in chosen
    ]


def _configure(experiment: Experiment, scale: str, changes: dict[str, list[str]]) -> Any:
    from foreshock.lab.reproduction.settings import with_settings

    config = experiment.scales[scale]
    known = {field.name for field in dataclasses.fields(config)}
    possible = [text for text in changes["where possible"] if text.partition("=")[0] in known]
    return with_settings(config, [*changes["always"], *possible])


def _command(experiment: Experiment, scale: str, seeds: range, changes: dict[str, list[str]]) -> str:
    words = ["foreshock", "reproduce", experiment.name]
    if scale != Scale.CPU:
        words += ["--scale", scale]
    if len(seeds) != 3:
        words += ["--seeds", str(len(seeds))]
    if seeds.start:
        words += ["--first-seed", str(seeds.start)]
    for text in changes["always"]:
        words += ["--set", text]
    for text in changes["where possible"]:
        if text.startswith("device="):
            words += ["--device", text.removeprefix("device=")]
    return shlex.join(words)


def _progress(console: Console, name: str, seed: int) -> OnStep:
    """Return a function that prints a line now and then, also where there is no terminal."""
    last = {"done": 0, "part": 0}

    def advance(done: int, total: int) -> None:
        if done <= last["done"]:
            last["part"] = 0  # The next part of the experiment has begun.
        part = done * _LINES // total
        if part > last["part"]:
            last["part"] = part
            console.print(f"  {name}, seed {seed}: {done} of {total}")
        last["done"] = done

    return advance
