"""``foreshock demo``."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated

import typer

from foreshock.cli.console import make_console, picture_file, stopped
from foreshock.cli.output import AsJson, print_result
from foreshock.cli.report import print_overview, report_of, write_page, write_run_picture
from foreshock.interrupts import saying_what_is_kept

if TYPE_CHECKING:
    from foreshock.demo.run import OnStep
    from foreshock.demo.workload import Workload


def demo(
    quick: Annotated[bool, typer.Option("--quick", help="Train for a few seconds only.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for the runs and the report.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the initial weights.")] = 0,
    picture: Annotated[
        Path | None,
        typer.Option(
            help="Also draw the first run into this .svg, .pdf or .png file.", callback=picture_file
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train two real networks whose losses spike by themselves, and forecast the spikes.

    A small CNN on handwritten digits and a small Transformer on Python's own source, with stock Adam and
    AdamW at a constant learning rate. Nothing is injected.
    """
    try:
        _require_writable(out)  # Before torch and the data are loaded, which takes seconds.
    except OSError as error:
        raise stopped(error, "name another folder with --out") from error
    from foreshock.cli.progress import run_progress
    from foreshock.demo.run import run_demo
    from foreshock.runlog import read_run

    console = make_console(stderr=as_json)
    begun: list[str] = []
    with ExitStack() as stack:

        def start(workload: Workload) -> OnStep:
            stack.close()
            begun.append(workload.name)
            console.print(f"[bold]{workload.name}[/]: {workload.description}", soft_wrap=True)
            return stack.enter_context(run_progress(console, workload.name, workload.steps))

        def kept() -> str:
            if not begun:
                return "No run was begun"
            words = " and ".join(begun)
            return f"What was logged of {words} is kept: foreshock report {shlex.quote(str(out / begun[-1]))}"

        try:
            with saying_what_is_kept(kept):
                folders = run_demo(out, quick=quick, seed=seed, start=start)
        except ImportError as error:
            raise stopped(error) from error
        except OSError as error:
            raise stopped(error, "name another folder with --out") from error
    runs = [read_run(folder) for folder in folders]
    if as_json:
        print_result("demo", [report_of(run) for run in runs])
    else:
        print_overview(console, runs)
    write_page(console, runs, out / "report.html")
    if picture is not None:
        write_run_picture(console, runs[0], picture)


def _require_writable(folder: Path) -> None:
    """Make a folder if it is missing, and raise an OSError unless files can be made in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=folder):
        pass
