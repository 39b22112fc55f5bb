"""``python -m benchmarks.scaling``: measure with 1, 2, 4 processes; ``--publish`` writes results and page."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime

import torch
from benchmarks.curvature.run import machine
from benchmarks.scaling.measure import measure
from benchmarks.scaling.page import PAGE, RESULTS, render, write_page


def main(arguments: list[str]) -> None:
    """Measure, and print the page or publish it; with ``--page`` write that of the published results.

    Args:
        arguments: Of the command line.
    """
    if "--page" not in arguments:
        where = f"{machine(())['processor']}, torch {torch.__version__}, gloo; {datetime.now(UTC).date()}"
        record = {"machine": where, "results": measure()}
        if "--publish" not in arguments:
            sys.stdout.write(render(record))
            return
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    write_page()
    sys.stdout.write(f"{PAGE}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
