"""What the commands print of trainings that are under way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from rich.console import Console

from foreshock.interrupts import saying_what_is_kept


def resumable(folder: Path) -> AbstractContextManager[None]:
    """Return what says at Ctrl-C that nothing that was finished is lost.

    Args:
        folder: Where it is kept.
    """
    kept = f"What was finished is kept in {folder.resolve()}: the same command goes on from there"
    return saying_what_is_kept(lambda: kept)


def counter(console: Console, total: int) -> Callable[[Path], None]:
    """Return what prints a line for each file that is done.

    Args:
        console: Where to.
        total: How many there will be.
    """
    done = iter(range(1, total + 1))
    return lambda path: console.print(f"  {next(done)}/{total}  {path.stem}")


def print_places(console: Console, scores: Path, pages: Sequence[Path]) -> None:
    """Print where the scores, the tables and the figures are.

    Args:
        console: Where to.
        scores: The scores.
        pages: Pages and figures, at least one, all in one folder.
    """
    console.print(f"Scores: {scores.resolve()}", soft_wrap=True)
    console.print(f"Tables and figures: {pages[0].parent.resolve()}", soft_wrap=True)
