"""``foreshock import``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from foreshock.cli.console import make_console, stopped
from foreshock.cli.output import AsJson, print_result
from foreshock.cli.report import print_overview
from foreshock.representation import one_line
from foreshock.words import count

if TYPE_CHECKING:
    from foreshock.importers import Imported

_OPTIONS = {"loss": "--loss", "step": "--step", "learning_rate": "--lr", "gradient_norm": "--gradient-norm"}


def import_log(
    source: Annotated[
        Path,
        typer.Argument(
            help="trainer_state.json, a TensorBoard event file, a .wandb file, a Trackio data base, a .csv "
            "or .jsonl file, or a folder that holds one."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run to make.")],
    loss: Annotated[str | None, typer.Option(help="Column of the training loss.")] = None,
    step: Annotated[str | None, typer.Option(help="Column of the step.")] = None,
    lr: Annotated[str | None, typer.Option("--lr", help="Column of the learning rate.")] = None,
    gradient_norm: Annotated[str | None, typer.Option(help="Column of the norm of the gradient.")] = None,
    name: Annotated[str | None, typer.Option(help="Which run of a data base that has several.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a run of what another tool logged, and say what happened in it.

    Spikes and divergences are found; curvature, lag and forecasts were not measured and stay absent.
    """
    from foreshock.importers import import_run
    from foreshock.runlog import read_run

    given = {"loss": loss, "step": step, "learning_rate": lr, "gradient_norm": gradient_norm}
    try:
        found = import_run(source, output, columns=given, name=name)
        run = read_run(found.path)
    except (ImportError, OSError, ValueError) as error:
        raise stopped(error) from error
    if as_json:
        print_result("import", found)
        return
    for line in _lines(found, given):
        typer.echo(f"{line[: len(line) - len(line.lstrip())]}{one_line(line)}")
    print_overview(make_console(), [run])
    typer.echo(f"Next: foreshock report {found.path.parent}, or foreshock explain {found.path.parent}")


def _lines(found: Imported, given: dict[str, str | None]) -> list[str]:
    steps = count(found.steps, "step")
    are = "is" if found.steps == 1 else "are"
    lines = [f"{steps} of {found.source} ({found.format}) {are} in {found.path}."]
    for what, option in _OPTIONS.items():
        column = getattr(found.columns, what)
        how = "as given" if given[what] else f"guessed; {option} NAME to choose another"
        if column is None:
            missing = "rows are counted" if what == "step" else "absent"
            column, how = missing, f"no column looks like it; {option} NAME to choose one"
        lines.append(f"  {what.replace('_', ' ')}: {column} ({how})")
    if found.replaced:
        again = count(found.replaced, "row")
        lines.append(f"  {again} came again later, as after a resume: the last counts.")
    if found.without_loss:
        lines.append(f"  {count(found.without_loss, 'row has', 'rows have')} no loss.")
    if found.without_step:
        odd = count(found.without_step, "row was", "rows were")
        such = f", such as {found.odd_step}" if found.odd_step else ""
        lines.append(f"  {odd} left out: the step is no whole number from 0 on{such}.")
    if found.format == "trainer_state":
        lines.append(
            "  The Trainer logs the mean loss since its last row, without NaN: a short spike is flat."
        )
    return lines
