"""Fit the points by which the probability of a spike is told, to tapes of SpikeBench's development runs.

Run from the root of the repository, after ``foreshock bench tapes``::

    python -m benchmarks.spikebench.fit runs/tapes

It writes ``src/foreshock/forecast/scorecard.json``. Runs of the split "test" are never read.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from foreshock.lab.spikebench.fitting import fit_cards, signed
from foreshock.lab.spikebench.tape import Tape

CARD = Path(__file__).parents[2] / "src" / "foreshock" / "forecast" / "scorecard.json"
BUDGETS = (0.02, 0.05, 0.2)


def main() -> None:
    """Fit and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder of the tapes")
    parser.add_argument("--out", type=Path, default=CARD, help="file to write")
    arguments = parser.parse_args()
    paths = [
        path for budget in BUDGETS for path in sorted((arguments.folder / f"{budget:g}").glob("*.json.gz"))
    ]
    tapes = [Tape.load(path) for path in paths]
    runs = [signed(tape) for tape in tapes if tape.meta["split"] != "test" and len(tape.losses) > 100]
    about = {
        "made by": "python -m benchmarks.spikebench.fit",
        "tapes": len(runs),
        "budgets": list(BUDGETS),
        "forecasts": int(sum(run.asked[50].sum() for run in runs)),
    }
    arguments.out.write_text(_text({"about": about, "cards": fit_cards(runs)}), encoding="utf-8")


def _text(value: Any) -> str:
    """Return JSON with one line a list of numbers, so that changes can be read."""
    text = json.dumps(value, indent=1)
    lines: list[str] = []
    depth = 0
    for line in text.splitlines():
        inner = line.strip()
        if depth:
            lines[-1] += inner + (" " if inner.endswith(",") else "")
        else:
            lines.append(line)
        depth += inner.count("[") - inner.count("]")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
