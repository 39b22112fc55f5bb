"""``foreshock curvature``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from foreshock.cli.console import make_console, picture_file, printable_path, stopped
from foreshock.cli.output import AsJson, print_result
from foreshock.representation import one_line

if TYPE_CHECKING:
    from foreshock.curvature import CurvatureReading, Sharpness, SpectralDensity

_SMOOTHING = 0.01  # of the width of the spectrum


@dataclass(frozen=True)
class CheckpointCurvature:
    """The curvature at a checkpoint.

    Attributes:
        hessian: The largest eigenvalues of the Hessian of the mean loss.
        preconditioned: The preconditioned curvature; null if the factory returns no optimizer.
    """

    hessian: Sharpness
    preconditioned: CurvatureReading | None


def curvature(
    checkpoint: Annotated[Path, typer.Argument(help="A file made by torch.save, of state dicts.")],
    model: Annotated[
        str,
        typer.Option(
            metavar="MODULE:FACTORY",
            help="Function that returns model, (model, loss_fn) or (model, loss_fn, optimizer).",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(metavar="MODULE:BATCHES", help="Iterable of batches, or a function that returns one."),
    ],
    batches: Annotated[int | None, typer.Option(min=1, help="Use so many batches at most.")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many eigenvalues of the Hessian to find.")] = 1,
    density: Annotated[
        Path | None,
        typer.Option(
            help="Also draw the spectral density into this .svg, .pdf or .png file.", callback=picture_file
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the curvature at a saved checkpoint.

    The largest eigenvalues of the Hessian of the mean loss over the batches, and which parameters they live
    in. If the factory returns an optimizer, its saved state is loaded, and the preconditioned Hessian is
    measured too: its stability ratio is one at the edge of stability. Only tensors and plain values are
    loaded from the file.
    """
    from foreshock.batches import MicroBatches
    from foreshock.cli import checkpoints
    from foreshock.curvature import preconditioned_sharpness, sharpness, spectrum

    console = make_console(stderr=as_json)
    try:
        trainable = checkpoints.make_trainable(model)
        checkpoints.load_checkpoint(checkpoint, trainable)
        probed = MicroBatches(checkpoints.load_batches(data, limit=batches))
        loss_fn = checkpoints.saying_where(trainable.loss_fn)
        subject = trainable.model, loss_fn, probed
        reading = None
        raw = sharpness(*subject, count=top)
        if trainable.optimizer is not None:
            reading = preconditioned_sharpness(trainable.model, trainable.optimizer, loss_fn, probed)
        if as_json:
            print_result("curvature", CheckpointCurvature(raw, reading))
        else:
            _print_curvature(console, raw, reading)
        if density is not None:
            found = spectrum(*subject, optimizer=trainable.optimizer)
            _write_density(console, found, density, scaled=reading is not None)
    except (ImportError, OSError, TypeError, ValueError, RuntimeError, FloatingPointError) as error:
        raise stopped(error) from error


def _write_density(console: Console, found: SpectralDensity, path: Path, *, scaled: bool) -> None:
    from foreshock.report import DensityCurve, write_spectrum_picture

    width = _SMOOTHING * (found.upper - found.lower)
    grid = found.grid(width)
    curve = DensityCurve(grid, found.density(grid, width), found.density_error(grid, width))
    title = (
        "Spectrum of the preconditioned Hessian, in multiples of 2/η" if scaled else "Spectrum of the Hessian"
    )
    written = write_spectrum_picture(curve, path, threshold=1.0 if scaled else None, title=title)
    console.print(f"Picture: {printable_path(written)}", soft_wrap=True)


def _print_curvature(console: Console, raw: Sharpness, reading: CurvatureReading | None) -> None:
    """Print what was measured at a checkpoint.

    Args:
        console: Where to.
        raw: The Hessian's largest eigenvalues.
        reading: The preconditioned curvature; None if there is no optimizer.
    """
    table = Table(box=box.SIMPLE_HEAD)
    for header in ("Quantity", "Value", "Error", "Products"):
        table.add_column(header, justify="left" if header == "Quantity" else "right")
    for index, value in enumerate(raw.eigenvalues):
        error = f"{raw.error:.2g}" if index == 0 else ""
        table.add_row(f"λ_{index + 1}(H)", f"{value:.5g}", error, str(raw.products) if index == 0 else "")
    if reading is not None:
        bound, products = f"{reading.error_bound:.2g}", str(reading.products)
        table.add_row("stability ratio λ_max(Ĥ)·η/2", f"{reading.stability_ratio:.5g}", bound, products)
        if reading.preconditioned_sharpness is not None:
            table.add_row("λ_max(Ĥ)", f"{reading.preconditioned_sharpness:.5g}", "", "")
            table.add_row("threshold 2/η", f"{reading.threshold:.5g}", "", "")
        table.add_row("gradient-directional ratio", f"{reading.gradient_stability_ratio:.5g}", "", "")
        table.add_row("update-directional ratio", f"{reading.update_stability_ratio:.5g}", "", "")
        table.add_row("alignment of the gradient", f"{reading.alignment:.3f}", "", "")
    console.print(table)
    blocks = raw.blocks if reading is None else reading.blocks
    top = ", ".join(f"{block.name} {block.share:.0%}" for block in blocks[:5])
    by = f"{raw.backend.name}: {raw.backend.reason}"
    for line in (f"Top eigenvector: {top}", f"Hessian products by {by}"):
        console.print(one_line(line), markup=False, soft_wrap=True)
    if not raw.converged or (reading is not None and not reading.converged):
        console.print("[yellow]Not converged: the true values may be larger.[/]")
