"""What the command line shows: progress of a training run, and tables.

On a terminal progress is a live bar, elsewhere a line now and then; tables are the report's own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from foreshock.curvature import CurvatureReading
    from foreshock.forecast import Forecast
    from foreshock.measurement import Sharpness
    from foreshock.report import Table as Words

_PLAIN_LINES = 20
_STATE_STYLES = {"edge": "yellow", "armed": "bold red", "rising": "cyan", "stable": "green"}


class RunProgress(Protocol):
    """Show one training run while it goes on."""

    def __call__(self, step: int, loss: float, forecast: Forecast) -> None:
        """Show the state after a step."""
        ...


@contextmanager
def run_progress(console: Console, name: str, steps: int) -> Iterator[RunProgress]:
    """Show progress of a run: a live bar on a terminal, plain lines elsewhere.

    Args:
        console: Where to.
        name: Name of the run.
        steps: Its number of steps.
    """
    if not console.is_terminal:
        yield _PlainLines(console, name, steps)
        return
    with Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[status]}"),
        console=console,
    ) as progress:
        task = progress.add_task(name, total=steps, status="")

        def advance(step: int, loss: float, forecast: Forecast) -> None:
            style = _STATE_STYLES.get(forecast.state, "dim")
            status = f"loss {loss:.2e}  [{style}]{forecast_words(forecast)}[/]"
            progress.update(task, completed=step + 1, status=status)

        yield advance


def forecast_words(forecast: Forecast) -> str:
    """Return a forecast in a few words, for a progress bar.

    Args:
        forecast: The forecast.
    """
    if not forecast.stability_ratio > 0:
        return forecast.state
    words = f"ratio {forecast.stability_ratio:.3f} {forecast.state}"
    ahead = forecast.steps_to_instability
    if 0 < ahead < 1000:
        words += f", unstable in ~{ahead:.0f}"
    return words


def print_table(console: Console, words: Words) -> None:
    """Print a table of the report.

    Args:
        console: Where to.
        words: The table; nothing is printed if it has no rows. What begins like the row above
            leaves its first cell out.
    """
    if not words.rows:
        return
    table = Table(title=words.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for header in words.headers:
        table.add_column(header, justify="right" if table.columns else "left", overflow="fold")
    for before, row in itertools.pairwise((("",), *words.rows)):
        first = row[0] if row[0] != before[0] else ""
        table.add_row(first, *row[1:])
    console.print(table)


def print_curvature(console: Console, raw: Sharpness, reading: CurvatureReading | None) -> None:
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
    console.print(f"Top eigenvector: {top}", soft_wrap=True)
    console.print(f"Hessian products by {raw.backend.name}: {raw.backend.reason}", soft_wrap=True)
    if not raw.converged or (reading is not None and not reading.converged):
        console.print("[yellow]Not converged: the true values may be larger.[/]")


class _PlainLines:
    def __init__(self, console: Console, name: str, steps: int) -> None:
        self._console = console
        self._name = name
        self._steps = steps
        self._every = max(steps // _PLAIN_LINES, 1)

    def __call__(self, step: int, loss: float, forecast: Forecast) -> None:
        if (step + 1) % self._every == 0 or step + 1 == self._steps:
            progress = f"{self._name}  step {step + 1}/{self._steps}"
            line = f"{progress}  loss {loss:.2e}  {forecast_words(forecast)}"
            self._console.print(line, highlight=False, soft_wrap=True)
