"""Records → pages in Markdown."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table.

    Args:
        head: Names of its columns.
        lines: Its cells, line by line.
    """
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def replace_between(text: str, begin: str, end: str, made: str) -> str:
    """Return a page with another part between two lines that mark its place.

    Args:
        text: The page as it is.
        begin: The line before the part.
        end: The line after it.
        made: The new part.

    Raises:
        ValueError: If the page lacks one of the lines.
    """
    before, found, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"the page has no lines {begin!r} and {end!r}, between which the table stands")
    return f"{before}{begin}\n\n{made}\n\n{end}{after}"


def write_page(render: Callable[[dict[str, Any]], str]) -> None:
    """Write the page of a record; the command line names the record's JSON file and the page.

    Args:
        render: Returns the page of a record.
    """
    source, target = (Path(argument) for argument in sys.argv[1:])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(render(json.loads(source.read_text())))
