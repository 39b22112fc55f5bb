"""``foreshock doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from foreshock.cli.console import make_console, printable_path, stopped
from foreshock.cli.output import AsJson, print_result
from foreshock.representation import one_line

if TYPE_CHECKING:
    from foreshock.cli.health import Health, Remark

_ILL = 3  # 1 and 2 say that a command could not do its work
_STYLES = {"fault": "bold red", "warning": "yellow", "fine": "green"}


def doctor(
    checkpoints: Annotated[list[Path], typer.Argument(help="Files made by torch.save, of state dicts.")],
    against: Annotated[Path | None, typer.Option(help="An older checkpoint of the same run.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FACTORY", help="Function that returns (model, loss_fn, optimizer); with --data."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="MODULE:BATCHES", help="Batches whose gradients v is compared with."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say whether a checkpoint is fit to go on from: weights, v, and their fit.

    Exit status: 0 if all of them are healthy, 3 if one is not, 1 if one can't be read.
    """
    from foreshock.cli.health import examine

    console = make_console()
    try:
        if (model is None) != (data is None):
            raise ValueError("--model and --data belong together: v is compared with gradients of the model")
        found = [examine(path, against=against) for path in checkpoints]
        if model is not None and data is not None:
            found = [_with_gradients(one, model, data) for one in found]
    except (ImportError, OSError, TypeError, ValueError, RuntimeError) as error:
        raise stopped(error) from error
    if as_json:
        print_result("doctor", found)
    for one in () if as_json else found:
        _print(console, one)
    if len(found) > 1 and not as_json:
        healthy = [printable_path(one.path) for one in found if one.healthy]
        console.print(f"Healthy: {', '.join(healthy) or 'none'}", soft_wrap=True)
    if not all(one.healthy for one in found):
        raise typer.Exit(_ILL)


def _with_gradients(found: Health, model: str, data: str) -> Health:
    from dataclasses import replace

    from foreshock.cli.fit import compare_with_gradients

    remarks: list[Remark] = [*found.remarks, *compare_with_gradients(found.path, model, data)]
    order = {"fault": 0, "warning": 1, "fine": 2}
    return replace(found, remarks=tuple(sorted(remarks, key=lambda remark: order[remark.severity])))


def _print(console: Console, found: Health) -> None:
    verdict = "[green]healthy[/]" if found.healthy else "[bold red]not fit to go on from[/]"
    console.print(f"[bold]{printable_path(found.path)}[/]: {verdict}", soft_wrap=True)
    for remark in found.remarks:
        style = _STYLES[remark.severity]
        words = escape(one_line(remark.words))
        console.print(f"  [{style}]{remark.severity:8}[/] {words}", soft_wrap=True)
