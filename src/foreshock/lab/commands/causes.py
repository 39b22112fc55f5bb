"""The commands `bench causes`, `rewind` and `advice`: they parse, call and print. Help imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from foreshock.lab.commands.errors import stopped
from foreshock.lab.commands.options import Jobs
from foreshock.lab.commands.progress import counter, resumable

if TYPE_CHECKING:
    from foreshock.explain import Name


def causes(
    out: Annotated[Path, typer.Option(help="Folder for logs and scores.")] = Path("runs/causes"),
    count: Annotated[int, typer.Option(min=2, help="Spikes of each cause; every second is held out.")] = 20,
    jobs: Jobs = 2,
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


def rewind(
    out: Annotated[Path, typer.Option(help="Folder for logs and results.")] = Path("runs/rewind"),
    spikes: Annotated[Path, typer.Option(help="Folder of `bench causes`.")] = Path("runs/causes"),
    count: Annotated[int, typer.Option(min=2, help="Spikes of each cause; every second is held out.")] = 10,
    starts: Annotated[int, typer.Option(min=1, help="Perturbed initial weights of each.")] = 3,
    jobs: Jobs = 2,
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


def advice(
    out: Annotated[Path, typer.Option(help="Folder for logs and results.")] = Path("runs/advice"),
    starts: Annotated[int, typer.Option(min=1, help="From how many starts advice is followed.")] = 3,
    jobs: Jobs = 2,
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
