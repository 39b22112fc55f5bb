"""The ``bench`` commands, in the order in which help lists them."""

from __future__ import annotations

import typer

from foreshock.lab.commands.causes import advice, causes, rewind
from foreshock.lab.commands.forecasts import forecast, probability, tapes
from foreshock.lab.commands.guards import guard, rates

bench = typer.Typer(help="Reproduce the benchmarks.", no_args_is_help=True)


@bench.callback()
def _group() -> None:
    """Reproduce the benchmarks."""


for _command in (forecast, tapes, probability, guard, rates, causes, rewind, advice):
    bench.command()(_command)
