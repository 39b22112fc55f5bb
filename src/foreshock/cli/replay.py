"""``foreshock replay``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace as with_changes
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from foreshock.cli.console import make_console, picture_file, print_table, printable_path, stopped
from foreshock.cli.output import AsJson, print_result

if TYPE_CHECKING:
    from foreshock.cli.replaying import Replay
    from foreshock.replay import ReplayOutcome
    from foreshock.runlog import Run

ModelOption = Annotated[
    str,
    typer.Option(
        metavar="MODULE:FACTORY",
        help="Function that builds the training as it was at its start: it returns "
        "(model, loss_fn, optimizer) or a foreshock.replay.Loop.",
    ),
]
DataOption = Annotated[
    str,
    typer.Option(
        metavar="MODULE:BATCHES",
        help="All batches of the run from its first step on, in its order: an iterable, or a function that "
        "returns one.",
    ),
]
FromOption = Annotated[
    int | None, typer.Option("--from", help="Begin at the last snapshot that is not after this step.")
]
StepsOption = Annotated[int, typer.Option(min=1, help="How many steps to train.")]
JobsOption = Annotated[
    int, typer.Option(min=0, help="In how many processes; 0 for as many as there are processors for them.")
]
ThreadsOption = Annotated[
    int, typer.Option(min=0, help="Threads of torch, of which last bits depend; 0 for torch's own choice.")
]
PictureOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Also draw the losses into this .svg, .pdf or .png file.",
        callback=picture_file,
    ),
]


@dataclass(frozen=True)
class Replayed:
    """A window of a training, replayed.

    Attributes:
        snapshot: Folder of the snapshot that it begins at.
        outcomes: What came of it: as it was, then with each change.
    """

    snapshot: Path
    outcomes: tuple[ReplayOutcome, ...]


def replay(
    run: Annotated[Path, typer.Argument(help="Folder of a run with snapshots.")],
    model: ModelOption,
    data: DataOption,
    start: FromOption = None,
    steps: StepsOption = 200,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="CHANGES",
            help='What would have been different, e.g. "lr=x0.5", "beta2=0.99", "betas=0.9,0.99", '
            '"eps=x100", "clip=1", "guard=on", "skip=120"; several in one pair of quotes '
            "go together. May be repeated.",
        ),
    ] = None,
    jobs: JobsOption = 0,
    threads: ThreadsOption = 0,
    output: PictureOption = None,
    as_json: AsJson = False,
) -> None:
    """Train a window of a run again from a snapshot: as it was, and as it would have been.

    Exit status: 0 if it came to the recorded losses bit by bit, 3 if it departs from them, 1 if it can't be
    replayed.
    """
    from foreshock.replay.recorded import rewinds_of

    console = make_console()
    try:
        read, tasks = plan(run, model, data, start, steps, settings or [], threads)
        outcomes = run_all(console, tasks, jobs, quiet=as_json)
        if output is not None:
            draw(read, outcomes, output)
    except (ImportError, OSError, TypeError, ValueError, RuntimeError) as error:
        raise stopped(error) from error
    if as_json:
        print_result("replay", Replayed(tasks[0].snapshot, tuple(outcomes)))
    else:
        console.print(escape(agreement(outcomes[0], rewinds_of(read))), soft_wrap=True)
        print_outcomes(console, outcomes)
        if output is not None:
            console.print(f"Picture: {printable_path(output)}", soft_wrap=True)
    if outcomes[0].departure is not None:
        raise typer.Exit(3)


def plan(
    run: Path,
    model: str,
    data: str,
    start: int | None,
    steps: int,
    changes: list[str],
    threads: int,
    *,
    within: bool = False,
) -> tuple[Run, list[Replay]]:
    """Return the run, and what has to be replayed: the window as it was, then each change.

    Args:
        run: Folder of the run.
        model: ``module:factory``.
        data: ``module:batches``.
        start: Begin at the last snapshot not after this step; None for the last of all.
        steps: How many steps.
        changes: The changes in words.
        threads: Threads of torch; 0 for its own choice.
        within: Whether the window should have recorded spikes in it, where there is a choice.

    Raises:
        OSError: If there is no log or no snapshot.
        ValueError: If a change can't be understood.
    """
    from foreshock.cli.replaying import Replay, choose_snapshot
    from foreshock.recorder.files import step_of
    from foreshock.replay import parse_change
    from foreshock.replay.recorded import losses_of, rate_factor_at
    from foreshock.runlog import read_run

    for change in changes:
        parse_change(change)  # before minutes are spent
    read = read_run(run)
    recorded = losses_of(read)
    snapshot = choose_snapshot(read, start, spikes=(recorded, steps) if within else None)
    factor = rate_factor_at(read, step_of(snapshot))
    unchanged = Replay(snapshot, model, data, steps, recorded, "", threads, rate_factor=factor)
    return read, [with_changes(unchanged, change=change) for change in ("", *changes)]


def run_all(console: Console, tasks: list[Replay], jobs: int, *, quiet: bool) -> list[ReplayOutcome]:
    """Return the outcomes in the order of the tasks; say which is done as they come.

    Args:
        console: Where to.
        tasks: What to replay.
        jobs: In how many processes; 0 for as many as fit.
        quiet: Whether to say nothing.
    """
    from foreshock.cli.replaying import run_replays

    found: dict[int, ReplayOutcome] = {}
    for place, outcome in run_replays(tasks, jobs=jobs):
        found[place] = outcome
        if not quiet and len(tasks) > 1 and console.is_terminal:
            console.print(f"[dim]{escape(outcome.change)}: {outcome.seconds:.1f} s[/]")
    return [found[place] for place in range(len(tasks))]


def agreement(outcome: ReplayOutcome, rewinds: Sequence[tuple[int, int, float]] = ()) -> str:
    """Return in words how the unchanged replay compares with the log.

    Args:
        outcome: The unchanged replay.
        rewinds: Where the run was brought back, of `rewinds_of`.
    """
    from foreshock.words import count, number

    first = f"Replayed {count(len(outcome.losses), 'step')} from step {outcome.start:,}"
    departure = outcome.departure
    if departure is None:
        if not outcome.compared:
            return f"{first}; the log has no losses of them to compare with."
        return f"{first}: bit by bit the recorded loss, on {count(outcome.compared, 'step')}."
    where = (
        f"{first}: it departs from the log at step {departure.step:,}, recorded {departure.recorded!r}, "
        f"replayed {departure.replayed!r}."
    )
    gone = [(at, to) for at, to, _ in rewinds if outcome.start <= at < departure.step]
    if gone:
        at, to = gone[-1]
        return (
            f"{where} The run was brought back at step {at:,} to step {to:,}, and the replay goes on without "
            f"that: begin after it (--from), or compare up to it (--steps {at - outcome.start})."
        )
    if departure.is_rounding and departure.step > outcome.start + 1:
        return (
            f"{where} That is rounding: another processor, number of threads (--threads) or version of torch."
        )
    if departure.is_rounding:
        return (
            f"{where} So small a difference is rounding: other threads (--threads), processor or version of "
            "torch; or an order of sums that differs from that of your loop."
        )
    if outcome.loss_at_start == outcome.recorded_at_start:
        return (
            f"{where} The data of step {outcome.start:,} give the recorded loss, "
            f"{number(outcome.recorded_at_start)}: weights and data are right, and what comes after observe "
            "differs (clipping, the scheduler), or the data from there on."
        )
    return (
        f"{where} At the snapshot's weights the data of step {outcome.start:,} give "
        f"{number(outcome.loss_at_start)}, and recorded is {number(outcome.recorded_at_start)}: "
        "these are other data, or another loss function, unless dropout makes them differ. Give all batches "
        "from the first step on, shuffled as they were."
    )


def print_outcomes(console: Console, outcomes: list[ReplayOutcome]) -> None:
    """Print one line for each replay.

    Args:
        console: Where to.
        outcomes: The replays, the unchanged one first.
    """
    from foreshock.replay.outcome import horizons
    from foreshock.report.tables import Table
    from foreshock.words import number

    def words(value: float) -> str:
        return "–" if math.isnan(value) else number(value)

    after = horizons(max(len(one.losses) for one in outcomes))
    headers = ("Change", "Spikes", "First", *(f"Loss +{n}" for n in after), "Ratio", "Guard")
    rows = []
    for one in outcomes:
        losses = [words(one.loss_after(n)) for n in after]
        acted = f"{one.guard_actions} ×" if "guard" in one.change else "–"
        rows.append(
            (
                one.change,
                spikes_in_words(one),
                first_in_words(one),
                *losses,
                words(one.stability_ratio),
                acted,
            )
        )
    end = max(one.start + len(one.losses) for one in outcomes)
    print_table(console, Table(f"Steps {outcomes[0].start + 1:,} to {end:,}", headers, tuple(rows)))
    for failure in dict.fromkeys(one.failure for one in outcomes if one.failure):
        named = ", ".join(one.change for one in outcomes if one.failure == failure)
        console.print(f"[yellow]{escape(named)}: {escape(failure)}.[/]", soft_wrap=True)


def spikes_in_words(outcome: ReplayOutcome) -> str:
    """Return how many spikes there are and how high: ``3, 12×``.

    Args:
        outcome: A replay.
    """
    if not outcome.spikes:
        return "none"
    height = "∞" if math.isinf(outcome.height) else f"{outcome.height:.2g}×"
    return f"{len(outcome.spikes)}, {'' if math.isnan(outcome.height) else height}".removesuffix(", ")


def first_in_words(outcome: ReplayOutcome) -> str:
    """Return how many steps after the start the first spike begins.

    Args:
        outcome: A replay.
    """
    return f"+{outcome.holds:,}" if outcome.spikes else "–"


def draw(run: Run, outcomes: list[ReplayOutcome], path: Path) -> None:
    """Draw the losses of all replays, and those of the log before.

    Args:
        run: The run.
        outcomes: The replays.
        path: File to write.
    """
    from foreshock.report.curves_picture import LossCurve, write_curves_picture
    from foreshock.runlog.values import recorded_losses

    steps, losses = recorded_losses(run)
    start, length = outcomes[0].start, max(len(one.losses) for one in outcomes)
    shown = (steps <= start) & (steps > start - length // 3)
    before = LossCurve("before", steps[shown].tolist(), losses[shown].tolist()) if shown.any() else None
    curves = [
        LossCurve(one.change, range(start + 1, start + 1 + len(one.losses)), one.losses) for one in outcomes
    ]
    write_curves_picture(curves, path, before=before, title=f"From step {start:,} on: as it was, and changed")
