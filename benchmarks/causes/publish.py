"""Turn the scores of the labelled set of spikes into the page of the documentation.

Run from the root of the repository, after ``foreshock bench causes --release``::

    python -m benchmarks.causes.publish runs/causes

The scores are kept as JSON beside this file. Without a folder the page is written again from them.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.causes.sections import FORKED, SPLIT, forked_section, split_section
from benchmarks.markdown import table

from foreshock.lab.causes.scoring import confusion_table, right
from foreshock.lab.jobs import write_json

RESULTS = Path(__file__).parent / "results" / "scores.json"
PAGE = Path(__file__).parents[2] / "docs" / "benchmarks" / "causes.md"

_HEAD = """# Causes

How well `foreshock explain` tells causes apart: small trainings, each with one thing done to it that makes
its loss spike. What is done, to which architecture, when and how strongly, is
drawn at random; a draw that does not spike is drawn again. Half of the set is held out by the number of
the draw: tests and thresholds were chosen on the other half, and the held-out half was
scored once, with the tests as they are now. Held-out draws that were scored before, when there were other
tests, are not among them.

- *Preconditioner lag*, *landscape* and *gradient noise* are not put there: they come by themselves. Which of
  the first two a spike is was found out by freezing v at what it had been some fifty steps before (what goes
  away then was the decay of v), or by an optimizer that has no v. One of noise comes with at least two of
  three other draws of batches, and not where each step averages eight of them. The log that is explained
  knows nothing of it.
- All others are put there: a rate that jumps, a warm-up that is too high, a restart; wrong labels or
  damaged inputs in one batch; other inputs or targets from one step on; shorter sequences, a
  batch of one or two; a resume without the optimizer's state or without v; layers unfrozen; β₂, ε or
  momentum switched; a forward pass or a gradient that overflows.

Most of them are told from what a monitor writes down: that the optimizer changed is a record, and the test
only asks whether it changed in time. The hard ones are those that nobody recorded: a bad batch, other data,
lag, landscape and noise. All are small trainings of the same few kinds; a real run may be like none of
them. Nor are spikes of a cause as frequent here as in life: spikes that holding v removes are searched for,
and are few among those that look like them ([what made a rise is not what it
needed](../explanation/causes.md#the-tests)).
"""

_TAIL = """
The last column is a test of honesty: with the test of the true cause left out, the spike must come out as
*not explained*, and not as something else.

Made by `foreshock bench causes --release` and `python -m benchmarks.causes.publish runs/causes`.
"""


def page(scores: dict[str, Any]) -> str:
    """Return the page.

    Args:
        scores: What ``foreshock bench causes`` wrote: scores by half; and the date.
    """
    parts = [_HEAD, f"\nScored on {scores['date']}.\n"]
    for split in ("held-out", "development"):
        if split not in scores:
            continue
        found = scores[split]
        named, honest, total = right(found)
        families = ", ".join(f"{name} {count}" for name, count in sorted(found["families"].items()))
        headers, rows = confusion_table(found)
        parts += [
            f"\n## The {split} half\n",
            f"{total} spikes: {named} have the right cause named first ({named / total:.0%}), "
            f"{sum(found['among'].values())} among those named. With the true cause left out of the list "
            f"{honest} ({honest / total:.0%}) are not explained. Architectures: {families}.\n",
            table(headers, rows) + "\n",
        ]
    return "\n".join([*parts, _TAIL])


def write_page() -> None:
    """Write the page from the results that are kept."""
    text = page(json.loads(RESULTS.read_text(encoding="utf-8")))
    if SPLIT.exists():
        text += split_section(json.loads(SPLIT.read_text(encoding="utf-8")))
    if FORKED.exists():
        text += forked_section(json.loads(FORKED.read_text(encoding="utf-8")))
    PAGE.write_text(text, encoding="utf-8")


def main() -> None:
    """Write scores and page."""
    if len(sys.argv) > 1:
        path = Path(sys.argv[1]) / "scores.json"
        scores = json.loads(path.read_text(encoding="utf-8"))
        scored = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        write_json({"date": f"{scored:%Y-%m-%d}", **scores}, RESULTS)
    write_page()


if __name__ == "__main__":
    main()
