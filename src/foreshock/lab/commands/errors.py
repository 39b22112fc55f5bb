"""How a command of the laboratory ends where something is wrong: with one line."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.markup import escape

from foreshock.representation import one_line


def stopped(error: Exception) -> typer.Exit:
    """Print an error as one line on standard error, and return what ends the command.

    Args:
        error: What went wrong.
    """
    words = escape(one_line(str(error)))
    Console(stderr=True, highlight=False).print(f"[bold red]error:[/] {words}", soft_wrap=True)
    return typer.Exit(1)
