"""What all commands share: the console, tables, and errors as one line."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from foreshock.representation import one_line, printable

if TYPE_CHECKING:
    from foreshock.report import Table as Words

_UNFOLDED = 1000


def make_console(*, stderr: bool = False) -> Console:
    """Return the console that commands print to: as wide as it must be where no terminal folds lines.

    Args:
        stderr: Whether it prints to standard error, where a result for scripts goes to standard output.
    """
    console = Console(highlight=False, stderr=stderr)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _UNFOLDED
    return console


def terminal_width() -> int | None:
    """Return the columns of the terminal that standard output is, or that COLUMNS says; None without one."""
    console = Console()
    return console.width if console.is_terminal or "COLUMNS" in os.environ else None


def stopped(error: Exception, advice: str = "") -> typer.Exit:
    """Print an error as one line on standard error, and return what ends the command.

    Args:
        error: What went wrong.
        advice: What to do about it, if the error itself does not say.
    """
    words = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename:
        words = f"{error.filename}: {error.strerror}"
    words = "; ".join(filter(None, (one_line(words), advice)))
    # Escaped: in "foreshock[cli]" rich would take the extra for markup and leave it out.
    Console(stderr=True, highlight=False).print(f"[bold red]error:[/] {escape(words)}", soft_wrap=True)
    return typer.Exit(1)


def picture_file(path: Path | None) -> Path | None:
    """Refuse a picture that can't be written before any work is done: the callback of an option.

    Args:
        path: The file; None for no picture.

    Raises:
        typer.Exit: If its name ends in no format of a picture, or what draws it is missing.
    """
    if path is not None:
        from foreshock.report.drawing import check_format, figure_class

        try:
            check_format(path)
            figure_class()
        except (ImportError, ValueError) as error:
            raise stopped(error) from error
    return path


def print_note(words: str, *, of: str = "", stderr: bool = False) -> None:
    """Print what a reader must know before believing what stands above; nothing without words.

    Args:
        words: One sentence, or none.
        of: The run that it is about, where there are several.
        stderr: Whether standard output is for scripts.
    """
    if words:
        typer.echo(f"Note: {f'{of}: ' if of else ''}{words}", err=stderr)


def json_text(value: Any) -> str:
    """Return plain values as JSON. What a terminal would obey instead of showing is spelled as JSON does.

    Args:
        value: Mappings, sequences, strings and numbers.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return "".join(one if one.isprintable() or one == "\n" else json.dumps(one)[1:-1] for one in text)


def printable_path(path: Path) -> str:
    """Return the absolute form of a path, for a line that the console prints.

    Args:
        path: Path of a file just written.
    """
    # Escaped: rich would take a folder called [seed=3] for markup and leave it out.
    return escape(printable(str(path.resolve())))


def print_table(console: Console, words: Words) -> None:
    """Print a table of the report.

    Args:
        console: Where to.
        words: The table, in plain text: square brackets are no markup. Nothing is printed if it has no
            rows. What begins like the row above leaves its first cell out.
    """
    if not words.rows:
        return
    table = Table(title=words.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    # A title that is longer than the table would be folded.
    table.min_width = min(len(words.title), console.width)
    for header in words.headers:
        table.add_column(escape(header), justify="right" if table.columns else "left", overflow="fold")
    for before, row in itertools.pairwise((("",), *words.rows)):
        first = row[0] if row[0] != before[0] else ""
        table.add_row(*map(escape, (first, *row[1:])))
    if natural_width(console, table) > console.width:
        _print_rows(console, words)
    else:
        console.print(table)


def natural_width(console: Console, table: Table) -> int:
    """Return the columns that a table takes where nothing of it is folded.

    Args:
        console: Where it is printed to.
        table: The table.
    """
    return Measurement.get(console, console.options.update(max_width=10 * _UNFOLDED), table).maximum


def _print_rows(console: Console, words: Words) -> None:
    """Print a table that is too wide row by row, a line for each cell that says something."""
    console.print(f"[bold]{escape(words.title)}[/]")
    for row in words.rows:
        console.print()
        for header, cell in zip(words.headers, row, strict=True):
            if cell not in ("", "–"):
                console.print(f"  [dim]{escape(header)}:[/] {escape(cell)}")
