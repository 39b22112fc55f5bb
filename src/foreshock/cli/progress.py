"""Progress of a training run: a live bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from foreshock.forecast import Forecast

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
    chance = "" if math.isnan(forecast.probability) else f"spike {forecast.probability:.0%}, "
    if not forecast.stability_ratio > 0:
        return f"{chance}{forecast.state}"
    words = f"{chance}ratio {forecast.stability_ratio:.3f} {forecast.state}"
    ahead = forecast.steps_to_instability
    if 0 < ahead < 1000:
        words += f", unstable in ~{ahead:.0f}"
    return words


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
