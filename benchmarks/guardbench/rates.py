"""Turn what `foreshock bench rates` found into the page of the documentation and the table of the guard's.

Run from the root of the repository, after ``foreshock bench rates --release``::

    python -m benchmarks.guardbench.rates runs/rates --note "Run on one core of ..."

The runs are kept beside this file as `results/rates.json`, with the note. Without a folder the page is
written again from them, for example after its wording has changed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.markdown import replace_between

from foreshock.lab.guardbench.rates.choosing import compare
from foreshock.lab.guardbench.rates.page import load_rates, write_rates
from foreshock.lab.guardbench.rates.tables import overview_table
from foreshock.lab.jobs import write_json

RATES = Path(__file__).parent / "results" / "rates.json"
DOCS = Path(__file__).parents[2] / "docs"
PAGES = DOCS / "benchmarks"
EXPLANATION = DOCS / "explanation" / "guard.md"
BEGIN, END = "<!-- Table of benchmarks/guardbench/rates.py -->", "<!-- End of the table of rates -->"
COMMAND = "foreshock bench rates --release"


def with_table(text: str, data: dict[str, Any]) -> str:
    """Return the explanation of the guard with the present table.

    Args:
        text: The page as it is.
        data: What `foreshock.lab.guardbench.rates.choosing.collect` returned.

    Raises:
        ValueError: If the page has no place for it.
    """
    return replace_between(text, BEGIN, END, overview_table(compare(data)))


def publish(folder: Path | None, *, note: str | None = None) -> list[Path]:
    """Write runs, page, figures, and the table of the explanation.

    Args:
        folder: What ``foreshock bench rates`` wrote; None to use the runs that are published.
        note: Where it was run, in sentences; None for the one that is published.

    Returns:
        The page and its figures.
    """
    data = load_rates(RATES if folder is None else folder / "rates.json")
    if note is not None:
        data["note"] = note
    write_json(data, RATES)
    EXPLANATION.write_text(with_table(EXPLANATION.read_text("utf-8"), data), encoding="utf-8")
    return write_rates(data, PAGES, command=COMMAND, note=data.get("note", ""))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Publish what `foreshock bench rates` found.")
    parser.add_argument("folder", type=Path, nargs="?", help="output folder of the command")
    parser.add_argument("--note", help="where it was run, in sentences")
    given = parser.parse_args()
    publish(given.folder, note=given.note)
