"""Turn what `foreshock bench rates` found into the page of the documentation and the table of the guard's.

Run from the root of the repository, after ``foreshock bench rates --release``::

    python -m benchmarks.guardbench.rates runs/rates --note "Run on one core of ..."

The runs are kept beside this file as `results/rates.json`, with the note. Without a folder the page is
written again from them, for example after its wording has changed. With ``--add`` the folder holds other
methods than the published ones, and plain Adam; they are put beside them::

    foreshock bench rates --release --method NAME
    python -m benchmarks.guardbench.rates runs/rates --add --note "In May 2026 on ..."
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.markdown import replace_between

from foreshock.lab.guardbench.rates.adding import add
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


def publish(folder: Path | None, *, note: str | None = None, beside: bool = False) -> list[Path]:
    """Write runs, page, figures, and the table of the explanation.

    Args:
        folder: What ``foreshock bench rates`` wrote; None to use the runs that are published.
        note: Where it was run, in sentences; None for the one that is published.
        beside: Whether the folder's methods are put beside the published ones; the note then says when and
            where these were run.

    Returns:
        The page and its figures.

    Raises:
        ValueError: If methods to be put beside the published ones have no note, or can't be put there.
    """
    data = load_rates(RATES if folder is None or beside else folder / "rates.json")
    if folder is not None and beside:
        if not note:
            raise ValueError("there is no note: say by --note when and where these methods were run")
        data = add(data, load_rates(folder / "rates.json"), note=note)
    elif note is not None:
        data["note"] = note
    write_json(data, RATES)
    EXPLANATION.write_text(with_table(EXPLANATION.read_text("utf-8"), data), encoding="utf-8")
    return write_rates(data, PAGES, command=COMMAND, note=data.get("note", ""))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Publish what `foreshock bench rates` found.")
    parser.add_argument("folder", type=Path, nargs="?", help="output folder of the command")
    parser.add_argument("--note", help="where it was run, in sentences")
    parser.add_argument("--add", action="store_true", help="put its methods beside those that are published")
    given = parser.parse_args()
    publish(given.folder, note=given.note, beside=given.add)
