"""The command line: it parses, calls and prints. Showing help imports no torch."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from foreshock._version import __version__
from foreshock.benching import bench
from foreshock.reproducing import reproduce

if TYPE_CHECKING:
    from foreshock.density import SpectralDensity
    from foreshock.experiments.training import OnStep
    from foreshock.experiments.workload import Workload
    from foreshock.runlog import Run

_SMOOTHING = 0.01  # of the width of the spectrum

app = typer.Typer(
    help="Forecast, explain and prevent loss spikes in PyTorch training with adaptive optimizers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(bench, name="bench")
app.command()(reproduce)


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


@app.command()
def demo(
    quick: Annotated[bool, typer.Option("--quick", help="Train for a few seconds only.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for the runs and the report.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the initial weights.")] = 0,
    picture: Annotated[
        Path | None, typer.Option(help="Also draw the first run into this .svg or .png file.")
    ] = None,
) -> None:
    """Train two real networks whose losses spike by themselves, and forecast the spikes.

    A small CNN on handwritten digits and a small Transformer on Python's own source, with stock Adam and
    AdamW at a constant learning rate. Nothing is injected.
    """
    from foreshock.console import run_progress
    from foreshock.experiments.demo import run_demo
    from foreshock.runlog import read_run

    console = _console()
    with ExitStack() as stack:

        def start(workload: Workload) -> OnStep:
            stack.close()
            console.print(f"[bold]{workload.name}[/]: {workload.description}", soft_wrap=True)
            return stack.enter_context(run_progress(console, workload.name, workload.steps))

        try:
            folders = run_demo(out, quick=quick, seed=seed, start=start)
        except (ImportError, OSError) as error:
            raise _stop(error) from error
    runs = [read_run(folder) for folder in folders]
    _print_overview(console, runs)
    _write_page(console, runs, out / "report.html")
    if picture is not None:
        _write_picture(console, runs[0], picture)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or their .jsonl files.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The page; by default report.html in the first run."),
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="Print the report, write no page.")] = False,
    picture: Annotated[
        Path | None, typer.Option(help="Also draw the first run into this .svg or .png file.")
    ] = None,
) -> None:
    """Make one self-contained HTML page of one or more runs."""
    from foreshock.report import summarise, to_text
    from foreshock.runlog import read_run

    console = _console()
    try:
        read = [read_run(run) for run in runs]
    except (OSError, ValueError) as error:
        raise _stop(error) from error
    if text:
        for run in read:
            typer.echo(to_text(summarise(run)))
    else:
        first = runs[0] if runs[0].is_dir() else runs[0].parent
        _write_page(console, read, output or first / "report.html")
    if picture is not None:
        _write_picture(console, read[0], picture)


@app.command()
def curvature(
    checkpoint: Annotated[Path, typer.Argument(help="A file made by torch.save, of state dicts.")],
    model: Annotated[
        str, typer.Option(help="module:factory → model, (model, loss_fn) or (model, loss_fn, optimizer).")
    ],
    data: Annotated[str, typer.Option(help="module:batches, an iterable of batches or a function for one.")],
    batches: Annotated[int | None, typer.Option(min=1, help="Use so many batches at most.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many eigenvalues of the Hessian to find.")] = 1,
    density: Annotated[
        Path | None, typer.Option(help="Also draw the spectral density into this .svg or .png file.")
    ] = None,
) -> None:
    """Measure the curvature at a saved checkpoint.

    The largest eigenvalues of the Hessian of the mean loss over the batches, and which parameters they live
    in. If the factory returns an optimizer, its saved state is loaded, and the preconditioned Hessian is
    measured too: its stability ratio is one at the edge of stability. Only tensors and plain values are
    loaded from the file.
    """
    from foreshock import checkpoints
    from foreshock.batches import MicroBatches
    from foreshock.console import print_curvature
    from foreshock.measurement import preconditioned_sharpness, sharpness, spectrum

    console = _console()
    try:
        trainable = checkpoints.make_trainable(model)
        checkpoints.load_checkpoint(checkpoint, trainable)
        probed = MicroBatches(checkpoints.load_batches(data, limit=batches))
        subject = trainable.model, trainable.loss_fn, probed
        reading = None
        raw = sharpness(*subject, count=top)
        if trainable.optimizer is not None:
            reading = preconditioned_sharpness(
                trainable.model, trainable.optimizer, trainable.loss_fn, probed
            )
        print_curvature(console, raw, reading)
        if density is not None:
            found = spectrum(*subject, optimizer=trainable.optimizer)
            _write_density(console, found, density, scaled=reading is not None)
    except (ImportError, OSError, TypeError, ValueError, FloatingPointError) as error:
        raise _stop(error) from error


def _write_density(console: Console, found: SpectralDensity, path: Path, *, scaled: bool) -> None:
    from foreshock.report import DensityCurve, write_spectrum_picture

    width = _SMOOTHING * (found.upper - found.lower)
    grid = found.grid(width)
    curve = DensityCurve(grid, found.density(grid, width), found.density_error(grid, width))
    title = (
        "Spectrum of the preconditioned Hessian, in multiples of 2/η" if scaled else "Spectrum of the Hessian"
    )
    written = write_spectrum_picture(curve, path, threshold=1.0 if scaled else None, title=title)
    console.print(f"Picture: {written.resolve()}", soft_wrap=True)


def _console() -> Console:
    return Console(highlight=False)


def _stop(error: Exception) -> typer.Exit:
    Console(stderr=True, highlight=False).print(f"[bold red]error:[/] {error}", soft_wrap=True)
    return typer.Exit(1)


def _print_overview(console: Console, runs: list[Run]) -> None:
    from foreshock.console import print_table
    from foreshock.report import overview_table, summarise, verdict

    summaries = [summarise(run) for run in runs]
    console.print()
    print_table(console, overview_table(summaries))
    for summary in summaries:
        console.print(f"[bold]{summary.name}[/]: {verdict(summary)}.", soft_wrap=True)


def _write_page(console: Console, runs: list[Run], path: Path) -> None:
    from foreshock.report import write_html

    try:
        written = write_html(runs, path)
    except (ImportError, OSError) as error:
        raise _stop(error) from error
    console.print(f"Report: {written.resolve()}", soft_wrap=True)


def _write_picture(console: Console, run: Run, path: Path) -> None:
    from foreshock.report import write_picture

    try:
        written = write_picture(run, path)
    except (ImportError, OSError, ValueError) as error:
        raise _stop(error) from error
    console.print(f"Picture: {written.resolve()}", soft_wrap=True)
