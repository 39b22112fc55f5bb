"""``foreshock advise``."""

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

from foreshock.cli.console import make_console, print_table, printable_path, stopped
from foreshock.cli.output import AsJson, print_result
from foreshock.cli.replay import (
    DataOption,
    FromOption,
    JobsOption,
    ModelOption,
    PictureOption,
    ThreadsOption,
    draw,
    plan,
    run_all,
)

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from foreshock.cli.replaying import Replay
    from foreshock.replay import ReplayOutcome
    from foreshock.replay.advice import Advice, Trial, WholeTrial
    from foreshock.replay.search import Attempt
    from foreshock.runlog import Run

_CALM = 200  # steps before the snapshot whose gradient norms are usual
_SHORT = 5000  # steps of a run that is trained from its start again without being asked


@dataclass(frozen=True)
class Advised:
    """Changes of a training, tried from a snapshot.

    Attributes:
        snapshot: Folder of the snapshot.
        advice: What came of them, and which to make.
    """

    snapshot: Path
    advice: Advice


def advise(
    run: Annotated[Path, typer.Argument(help="Folder of a run with snapshots.")],
    model: ModelOption,
    data: DataOption,
    start: FromOption = None,
    steps: Annotated[int, typer.Option(min=100, help="How many steps to train.")] = 500,
    repeats: Annotated[
        int, typer.Option(min=1, help="From how many starts, which differ in the sixth digit of the weights.")
    ] = 3,
    whole: Annotated[
        bool | None,
        typer.Option(
            "--whole/--no-whole",
            help="Also try the best from the first step of the run on, to its end. If not given: for a run "
            "of up to 5,000 steps.",
        ),
    ] = None,
    jobs: JobsOption = 0,
    threads: ThreadsOption = 0,
    output: PictureOption = None,
    as_json: AsJson = False,
) -> None:
    """Find the smallest change that removes the spikes of a run and costs nothing, by trying.

    From a snapshot the run is trained on as it was, and with another β₂, ε, learning rate, clipping, or with
    a guard: first from one start, then, what removes the spikes, from the others. Spikes of the first 50
    steps, which were on their way, do not count, nor those less than a quarter as high as usual. What does
    best is trained from the first step of the run on, too, and has to be better there from each start.

    Exit status: 0 if a change removes the spikes, 3 if none does, 4 if there are none to remove, 1 if nothing
    can be tried.
    """
    from foreshock.cli.replaying import make_loop
    from foreshock.replay.advice import candidates
    from foreshock.replay.search import search

    console = make_console()
    shown: dict[str, ReplayOutcome] = {}
    try:
        read, [task] = plan(run, model, data, start, steps, [], threads, within=True)
        optimizer = make_loop(model).optimizer
        norms = _usual_norms(read, task.snapshot)
        tried = candidates(optimizer.param_groups[0], norms, guarded=_can_be_guarded(optimizer))
        length = task.recorded[-1][0] + 1 if task.recorded else 0
        whole = length <= _SHORT if whole is None else whole

        def train(attempts: Sequence[Attempt]) -> list[ReplayOutcome]:
            tasks = [_task_of(task, one, length) for one in attempts]
            outcomes = run_all(console, tasks, jobs, quiet=as_json) if tasks else []
            for one, came in zip(attempts, outcomes, strict=True):
                if not (one.start or one.whole):
                    shown[one.change] = came
            return outcomes

        found = search(train, tried, starts=repeats, whole_steps=length if whole else 0)
        if output is not None:
            draw(read, list(shown.values()), output)
    except (ImportError, OSError, TypeError, ValueError, RuntimeError) as error:
        raise stopped(error) from error
    if as_json:
        print_result("advise", Advised(task.snapshot, found))
    else:
        _print(console, found)
        ended = _ended(shown[""], found.steps, steps, length)
        if ended:
            console.print(escape(ended), soft_wrap=True)
        if output is not None:
            console.print(f"Picture: {printable_path(output)}", soft_wrap=True)
    if not found.has_trouble:
        raise typer.Exit(4)
    if found.chosen is None:
        raise typer.Exit(3)


def _ended(unchanged: ReplayOutcome, came: int, asked: int, length: int) -> str:
    """Return why the window is shorter than asked for; empty if it isn't."""
    if not unchanged.failure:
        return ""
    if not unchanged.ran_out:
        return f"As it was, {unchanged.failure}."
    at_end = unchanged.start + 1 + len(unchanged.losses) == length
    what = "the run ends there" if at_end else unchanged.failure
    return f"The window has {came:,} steps and not {asked:,}: {what}."


def _task_of(task: Replay, attempt: Attempt, length: int) -> Replay:
    steps = length if attempt.whole else task.steps
    return with_changes(
        task, change=attempt.change, perturbed=attempt.start or None, whole=attempt.whole, steps=steps
    )


def _can_be_guarded(optimizer: Optimizer) -> bool:
    from foreshock.guarding import guard

    try:
        guard(optimizer).detach()
    except (TypeError, ValueError):
        return False
    return True


def _usual_norms(run: Run, snapshot: Path) -> list[float]:
    from foreshock.recorder.files import step_of
    from foreshock.runlog.values import numbers

    last = step_of(snapshot)
    steps, norms = run.steps("step"), numbers(run, "step", "gradient_norm")
    near = (steps <= last) & (steps > last - _CALM)
    return [float(one) for one in norms[near] if math.isfinite(one)]


def _print(console: Console, found: Advice) -> None:
    from foreshock.report.tables import Table
    from foreshock.words import count, number

    def words(value: float) -> str:
        return "–" if math.isnan(value) else number(value)

    for line in _verdict(found):
        console.print(escape(line), soft_wrap=True)
    if not found.trials:
        return
    rows = tuple(
        (
            trial.candidate.change,
            trial.effect,
            _spread(trial.spikes) + (f", {trial.highest:.2g}×" if any(trial.spikes) else ""),
            f"+{trial.first:,.0f}" if any(trial.spikes) else "–",
            f"{words(trial.loss)} ×",
            words(trial.ratio),
            str(trial.starts),
        )
        for trial in found.trials
    )
    headers = ("Change", "Effect", "Spikes", "First", "Late loss", "Ratio", "Starts")
    spikes = _spread(found.unchanged)
    title = (
        f"{count(found.steps, 'step')}, {count(len(found.unchanged), 'start')}; as it was: {spikes} "
        f"{'spike' if spikes == '1' else 'spikes'}"
    )
    print_table(console, Table(title, headers, rows))


def _verdict(found: Advice) -> list[str]:
    from foreshock.replay.advice import UNDERWAY

    if not found.has_trouble:
        return [
            f"As it was, these {found.steps:,} steps have no spike after the first {UNDERWAY}, from "
            f"any start of {len(found.unchanged)}: there is nothing to remove. Begin elsewhere (--from), or "
            "train on for longer (--steps)."
        ]
    lines = []
    if found.chosen is None:
        what = (
            "removes the spikes of the window and holds from the start of the run"
            if found.whole
            else "removes the spikes"
        )
        lines.append(
            f"Nothing found that costs nothing: none of these changes {what}. Two of them together can be "
            'tried with foreshock replay --set "lr=x0.5 beta2=0.95".'
        )
    else:
        one = found.chosen
        cost = f"the late loss is {one.loss:.2g} × what it was"
        lines.append(
            f"{one.candidate.change}: {one.candidate.words}. No spike in {found.steps:,} steps from any of "
            f"{one.starts} starts, where {_as_it_was(found)}; {cost}."
        )
    lines.extend(_from_the_start(found, one) for one in found.whole)
    if found.chosen is not None and not found.whole:
        lines.append(
            "Not tried from the first step of the run on (--whole): this is what comes of it from the "
            "snapshot on. A lower rate gains at once, and may lose in a whole run."
        )
    costly = [
        trial
        for trial in found.trials
        if trial.effect == "removes" and not trial.is_free and not trial.at_edge
    ]
    if costly:
        lines.append(f"Removes them, but learns more slowly: {_named(costly)}.")
    edge = [
        one for one in found.trials if one.effect == "removes" and one.at_edge and one is not found.chosen
    ]
    if edge:
        shown = ", ".join(f"{one.candidate.change} (ratio {one.ratio:.2f})" for one in edge)
        lines.append(f"No spike in this window, but still at the edge, where they may come back: {shown}.")
    if found.postponing:
        lines.append(f"Only postpones them: {_named(found.postponing)}.")
    return lines


def _from_the_start(found: Advice, one: WholeTrial) -> str:
    verdict = "it holds" if one.holds else "it does not hold"
    starts = f"{len(one.losses)} starts" if len(one.losses) > 1 else "one start, which was enough"
    return (
        f"{one.candidate.change} from the first step of the run on, {found.whole_steps:,} steps, {starts}: "
        f"{verdict}. Late loss {one.loss:.2g} × what it was; {_spread(one.spikes)} spikes instead of "
        f"{_spread(one.unchanged)}."
    )


def _as_it_was(found: Advice) -> str:
    if found.failed:
        return f"{found.failed} of {len(found.unchanged)} ended in a loss that is no number as it was"
    return f"there are {_spread(found.unchanged)} as it was"


def _named(trials: Sequence[Trial]) -> str:
    return ", ".join(f"{trial.candidate.change} ({_why_not(trial)})" for trial in trials)


def _why_not(trial: Trial) -> str:
    return f"first after {trial.first:,.0f} steps" if any(trial.spikes) else f"{trial.loss:.2g} × the loss"


def _spread(counts: tuple[int, ...]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low}–{high}"
