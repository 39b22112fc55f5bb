"""The command line as a whole: the product's commands first, then those of the laboratory.

Showing help imports neither torch nor numpy.
"""

from __future__ import annotations

from typing import Annotated

import typer

from foreshock._version import __version__
from foreshock.cli.advise import advise
from foreshock.cli.compare import compare
from foreshock.cli.curvature import curvature
from foreshock.cli.demo import demo
from foreshock.cli.doctor import doctor
from foreshock.cli.explain import explain
from foreshock.cli.figure import figure
from foreshock.cli.replay import replay
from foreshock.cli.report import report
from foreshock.cli.status import runs, status
from foreshock.cli.top import top
from foreshock.cli.watch import watch
from foreshock.lab.commands.bench import bench
from foreshock.lab.commands.reproduce import reproduce

_RESEARCH = "Research"

app = typer.Typer(
    help="Forecast, explain and prevent loss spikes in PyTorch training with adaptive optimizers.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.command()(demo)
app.command()(report)
app.command()(figure)
app.command()(watch)
app.command()(status)
app.command()(runs)
app.command()(top)
app.command()(explain)
app.command()(compare)
app.command()(replay)
app.command()(advise)
app.command()(curvature)
app.command()(doctor)
app.add_typer(bench, name="bench", rich_help_panel=_RESEARCH)
app.command(rich_help_panel=_RESEARCH)(reproduce)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"foreshock {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    del version
