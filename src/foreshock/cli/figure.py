"""``foreshock figure``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from foreshock.cli.console import make_console, picture_file, printable_path, stopped
from foreshock.cli.output import AsJson, print_result


class Kind(StrEnum):
    """The figures there are."""

    OVERVIEW = "overview"
    LOSS = "loss"
    PROBABILITY = "probability"
    EDGE = "edge"
    LAG = "lag"
    GRADIENT = "gradient"
    LAYERS = "layers"
    SPIKE = "spike"


@dataclass(frozen=True)
class FigureWritten:
    """A figure.

    Attributes:
        path: The file.
        kind: What it shows.
    """

    path: Path
    kind: str


def figure(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or their .jsonl files.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="File to write: .pdf, .svg or .png.", callback=picture_file),
    ],
    kind: Annotated[
        Kind,
        typer.Option(help="What to draw. Several runs share one chart, but for overview, layers and spike."),
    ] = Kind.OVERVIEW,
    spike: Annotated[
        int | None,
        typer.Option(min=1, help="For --kind spike: which event, counted from 1; by default the highest."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw one figure of a run, or of several overlaid, for a paper or a talk.

    `layers` is a heat map over steps, `spike` a close-up; in all of them events of the loss are shaded.
    """
    from foreshock.report import write_figure
    from foreshock.runlog import read_run

    console = make_console()
    try:
        written = write_figure([read_run(run) for run in runs], output, kind=kind.value, spike=spike)
    except (ImportError, OSError, ValueError) as error:
        raise stopped(error) from error
    if as_json:
        print_result("figure", FigureWritten(written, kind.value))
    else:
        console.print(f"Figure: {printable_path(written)}", soft_wrap=True)
