"""Turn the recoveries of the labelled set into the page of the documentation.

Run from the root of the repository, after ``foreshock bench rewind``::

    python -m benchmarks.rewind.publish runs/rewind/development.json runs/rewind/held-out.json

The results are kept as JSON beside this file. Without files the page is written again from them.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.markdown import table

from foreshock.lab.causes.rewinding import HEADERS, OUTCOMES, TOLERANCE, came_back_by_itself, outcome, tally
from foreshock.lab.jobs import write_json

RESULTS = Path(__file__).parent / "results" / "rewind.json"
PAGE = Path(__file__).parents[2] / "docs" / "benchmarks" / "rewind.md"

_HEAD = """# Rewinding

Does a run that fails, and is [rewound](../how-to/rewind-a-run.md), end where the same run ends that never
failed? The spikes are those of the
[labelled set](causes.md): small trainings, each with one thing done to it that makes its loss spike. Each
is trained under `Recorder(every=10, last=8)` and `Ladder(window=300)`, and
goes on until as many steps count as its twin has: steps that were taken back are made up for. Compared is
the loss on fixed batches, over the last ten steps. Each draw is trained from {starts}.

- **back**: at most {tolerance:.0%} above the twin, the same training to which nothing was done. Where
  batches differ it is trained twice, once past ten more batches, and the higher of the two counts: so
  much is
  chance. Layers that are unfrozen are so in the twin, too, at the run's own rate.
- What spikes by itself has no twin, nor has a warm-up or a restart to a rate that is too high:
  *preconditioner lag*, *landscape*, part of *learning rate*. They have to end below the level of the loss
  before the spike.
- **said before**: not back, and the log says that it can't be, and why, before anything was tried: it is not
  in the weights, there is no snapshot from before, or the state of the optimizer was not loaded.
- **said after**: the log says so once the measures of the ladder were used up.
- **neither**: not back, and not a word.
- *back without*: the same without recorder and ladder, for comparison.
"""

_NOTE = """
*Other data, shorter sequences and a forward pass that overflows are not in the weights, and no snapshot
helps: the log says so, and the training goes on as it is, so that it ends where it would have been left
alone; it stops where its weights are no longer finite. What raises the loss by less than three tenths is
noticed only where batches have another size since.*
"""

_TAIL = """
Made by `foreshock bench rewind --count 4 --starts 1`, with and without `--release`, and
`python -m benchmarks.rewind.publish runs/rewind/development.json runs/rewind/held-out.json`. Draws with odd
numbers are of the development half: nothing was chosen on them. Those from 60 on were scored once, but for
*batch shape*, *data change* and *forward overflow*. These were scored again, with the odd ones, after two
changes that the first score had led to: a training that no snapshot can help goes on, where it was stopped,
and a slight rise is noticed where batches have another size. Gradient noise is left out.
"""


def page(results: list[dict[str, Any]]) -> str:
    """Return the page.

    Args:
        results: What ``foreshock bench rewind`` recorded.
    """
    outcomes = [outcome(one) for one in results]
    count, back, said = len(results), outcomes.count("back"), outcomes.count("said before")
    late = outcomes.count("said after")
    alone = sum(map(came_back_by_itself, results))
    draws: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for one in results:
        draws.setdefault((one["cause"], one["index"]), []).append(one)
    rows = [_row(of_draw) for of_draw in draws.values()]
    return "\n".join(
        [
            _HEAD.format(tolerance=TOLERANCE, starts=_starts(max(map(len, draws.values())))),
            "\n## In short\n",
            f"Of {count} runs {back} come back and {said} say beforehand that they can't, together "
            f"{(back + said) / count:.0%}; {late} say so after the ladder, "
            f"{count - back - said - late} never. "
            f"Left alone, {alone} come back"
            f"{_harmed(results)}.\n",
            table(list(HEADERS), tally(results)),
            _NOTE,
            "\n## Each draw\n",
            "Losses are medians over the starts, *measures* those of the first.\n",
            table(
                ["draw", "network", "what", "onset", "ends at", "twin", "left alone", "measures", "outcomes"],
                rows,
            ),
            _TAIL,
        ]
    )


def _harmed(results: list[dict[str, Any]]) -> str:
    """Say which runs would have come back by themselves and did not, with recovery."""
    found = [one for one in results if came_back_by_itself(one) and outcome(one) != "back"]
    names = ", ".join(f"*{one['cause']} {one['index']}*" for one in found)
    return f"; of these {len(found)} does not with recovery: {names}" if found else ", with recovery, too"


def _starts(count: int) -> str:
    several = f"{count} starts, which differ in the sixth digit of the weights"
    return several if count > 1 else "one start"


def _row(starts: list[dict[str, Any]]) -> list[str]:
    first, outcomes = starts[0], [outcome(one) for one in starts]
    counts = ((name, outcomes.count(name)) for name in OUTCOMES)
    return [
        f"{first['cause']} {first['index']}",
        first["family"],
        first["how"],
        str(first["onset"]),
        _middle([one["recovered"] for one in starts]),
        _middle([max(one["twins"]) for one in starts]),
        _middle([one["failed"] for one in starts]),
        ", ".join(name.removeprefix("rewind: ") for name in first["measures"]) or "–",
        ", ".join(f"{name} {count}" for name, count in counts if count),
    ]


def _middle(values: list[float | None]) -> str:
    value = median(math.inf if one is None else one for one in values)
    return _number(value if math.isfinite(value) else None)


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"


def main() -> None:
    """Write results and page."""
    found = [json.loads(Path(one).read_text(encoding="utf-8"))["results"] for one in sys.argv[1:]]
    if found:
        write_json({"results": [one for half in found for one in half]}, RESULTS)
    PAGE.write_text(page(json.loads(RESULTS.read_text(encoding="utf-8"))["results"]), encoding="utf-8")


if __name__ == "__main__":
    main()
