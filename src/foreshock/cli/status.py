"""``foreshock status`` and ``foreshock runs``: how runs are doing, on one screen."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foreshock.cli.console import make_console, print_note, stopped
from foreshock.cli.output import AsJson, FailOnOption, fail, print_result, worst_among

if TYPE_CHECKING:
    from foreshock.live.run import LiveRun

LastSteps = Annotated[
    int | None,
    typer.Option("--last", min=0, metavar="STEPS", help="Count alarms, spikes … of so many last steps only."),
]


def status(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or its .jsonl file.")],
    last: LastSteps = None,
    as_json: AsJson = False,
    fail_on: FailOnOption = None,
) -> None:
    """Show how a run is doing, on one screen.

    The verdict and what to do, probability of a spike, loss, ratio and its edge, alarms, spikes, what a guard
    did, what measuring cost. The log is read once; `foreshock top` goes on looking.
    """
    from foreshock.cli.screen import screen
    from foreshock.live.status import departures_in, status_of

    console = make_console()
    try:
        followed = _read(run)
        if followed.error:
            raise ValueError(followed.error)
        departures = departures_in(followed.path)
    except (OSError, ValueError) as error:
        raise stopped(error) from error
    found = status_of(followed, last=last, departures=departures)
    if as_json:
        print_result("status", found)
    else:
        console.print(screen(found, console), soft_wrap=not console.is_terminal)
    fail(found.worst, fail_on)


def _read(place: Path) -> LiveRun:
    """Return the run of a folder, with what it went on from."""
    from foreshock.live.joining import join
    from foreshock.live.run import LiveRun
    from foreshock.live.status import NEEDED
    from foreshock.runlog.reader import find_log

    path, earlier = find_log(place)
    run = LiveRun(path, name=path.resolve().parent.name, only=NEEDED)
    run.read_whole()
    if run.first_step and earlier:
        before = [LiveRun(one, name=one.parent.name, only=NEEDED) for one in earlier]
        for one in before:
            one.read_whole()
        join([*before, run])
    run.scan_whole()
    run.look()  # a last line that is still without its end now will get none
    return run


def runs(
    folder: Annotated[Path, typer.Argument(help="Folder that holds runs at any depth.")],
    last: LastSteps = None,
    as_json: AsJson = False,
    fail_on: FailOnOption = None,
) -> None:
    """List the runs below a folder, and how each is doing.

    A narrow terminal shows fewer columns; what is printed to a pipe or a file has all of them.
    """
    from foreshock.cli.screen import runs_table
    from foreshock.live.status import NEEDED, status_of
    from foreshock.live.watched import WatchedFolder
    from foreshock.report.text import unreadable

    console = make_console()
    try:
        watched = WatchedFolder(folder, only=NEEDED)
    except OSError as error:
        raise stopped(error) from error
    found = []
    while watched.look():
        pass
    watched.look()  # a last line that is still without its end now will get none
    for run in watched.all_runs():
        run.scan_whole()
        found.append(status_of(run, last=last))
    if as_json:
        print_result("runs", found)
    elif found:
        console.print(runs_table(found, console))
        for one in found:
            print_note(unreadable(one.skipped), of=one.place)
    else:
        typer.echo(f"No run with a step yet below {os.fspath(folder)!r}.")
    fail(worst_among([one.worst for one in found]), fail_on)
