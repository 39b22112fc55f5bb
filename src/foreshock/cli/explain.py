"""``foreshock explain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foreshock.cli.console import print_json, stopped


def explain(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or its .jsonl file.")],
    spike: Annotated[
        int | None, typer.Option(min=1, help="Only this event of the loss, counted from 1.")
    ] = None,
    step: Annotated[
        int | None, typer.Option(min=0, help="Only the event at this step, or nearest to it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: an object for each event.")] = False,
) -> None:
    """Say what happened at each spike of a run: cause, place, stages, recovery, what to do.

    Each cause is told from a test on the numbers of the log; a spike that passes none is not explained.
    Spikes, divergences, climbs and losses that are not finite count.
    """
    from foreshock.explain import choose, explain_run, explanation_text
    from foreshock.runlog import read_run

    try:
        found = choose(explain_run(read_run(run)), spike=spike, step=step)
    except (OSError, ValueError) as error:
        raise stopped(error) from error
    if as_json:
        print_json([one.to_mapping() for one in found])
        return
    if not found:
        typer.echo("Nothing to explain: the loss has no spike, no divergence, no climb and no NaN.")
    typer.echo("\n".join(map(explanation_text, found)), nl=False)
