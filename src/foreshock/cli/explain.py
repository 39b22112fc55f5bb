"""``foreshock explain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foreshock.cli.console import make_console, print_note, stopped
from foreshock.cli.output import AsJson, FailOnOption, fail, print_result
from foreshock.cli.replay import FromOption, JobsOption, ThreadsOption


def explain(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or its .jsonl file.")],
    spike: Annotated[
        int | None, typer.Option(min=1, help="Only this event of the loss, counted from 1.")
    ] = None,
    step: Annotated[
        int | None, typer.Option(min=0, help="Only the event at this step, or nearest to it.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FACTORY",
            help="Also test the causes of one event: replay it from a snapshot with another batch, with v "
            "held, and in float64. The function that builds the training, as for foreshock replay.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="MODULE:BATCHES", help="With --model: all batches of the run, in its order."),
    ] = None,
    start: FromOption = None,
    jobs: JobsOption = 0,
    threads: ThreadsOption = 0,
    as_json: AsJson = False,
    fail_on: FailOnOption = None,
) -> None:
    """Say what happened at each spike of a run: cause, place, stages, recovery, what to do.

    Each cause is told from a test on the numbers of the log; a spike that passes none is not explained.
    Spikes, divergences, climbs and losses that are not finite count.
    """
    from foreshock.cli.examining import Plan, tested
    from foreshock.explain import choose, explain_run, explanation_text
    from foreshock.report.severity import had_alarm, worst_of
    from foreshock.report.text import unreadable
    from foreshock.runlog import read_run

    try:
        if (model is None) != (data is None):
            raise ValueError("only one of --model and --data was passed; a replay needs both, or neither")
        read = read_run(run)
        found = choose(explain_run(read), spike=spike, step=step)
        if model is not None and data is not None:
            plan = Plan(model, data, start=start, jobs=jobs, threads=threads)
            found = tested(make_console(), read, found, plan, quiet=as_json)
    except (ImportError, OSError, TypeError, ValueError, RuntimeError) as error:
        raise stopped(error) from error
    if as_json:
        print_result("explain", found)
    elif not found:
        typer.echo("Nothing to explain: the loss has no spike, no divergence, no climb and no NaN.")
    else:
        typer.echo("\n".join(map(explanation_text, found)), nl=False)
    print_note(unreadable(read.skipped), stderr=as_json)
    fail(worst_of((one.kind for one in found), alarms=had_alarm(read)), fail_on)
