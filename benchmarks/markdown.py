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


def write_page(render: Callable[[dict[str, Any]], str]) -> None:
    """Write the page of a record; the command line names the record's JSON file and the page.

    Args:
        render: Returns the page of a record.
    """
    source, target = (Path(argument) for argument in sys.argv[1:])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(render(json.loads(source.read_text())))
