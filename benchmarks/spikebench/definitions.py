"""Count the spikes of SpikeBench's recordings by both definitions, and where they differ.

SpikeBench scores by the multiple of a running median that it was recorded and published with
(`foreshock.lab.spikebench.spikes`, ``3x``). Reports use `foreshock.spikes.detect_events`. Run from the root
of the repository, with the folder of traces that ``foreshock bench forecast`` wrote::

    python -m benchmarks.spikebench.definitions runs/spikebench/traces

prints the table, keeps its counts as JSON beside this file, and writes the page. Without a folder the page
is written again from the counts that were kept.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foreshock.lab.spikebench.spikes import ground_truth
from foreshock.lab.spikebench.trace import Trace
from foreshock.spikes import EventDefinition, LossEvent, SpikeEvent, detect_events

_ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results" / "definitions.json"
PAGE = _ROOT / "docs" / "benchmarks" / "definitions.md"

NEAR = 10
"""Steps between two spikes of different definitions that are still the same one."""
_COLUMNS = {
    "runs": "runs",
    "old": "3 ×",
    "old tall": "8 ×",
    "spike": "spikes",
    "divergence": "diverged",
    "climb": "climbs",
    "non-finite": "not finite",
    "both": "both",
    "only old": "only 3 ×",
    "only new": "only new",
}
_BATCHES = {"full": "full batch", "mini": "mini-batches", "language": "language models"}


@dataclass(frozen=True)
class Found:
    """What both definitions find in one recording.

    Attributes:
        counts: ``runs``; ``old`` and ``old tall``, above 3 × and 8 × the running median; new events by their
            kind; ``both``, ``only old`` and ``only new`` sudden ones.
        only_old: Heights of the spikes that only the old definition has.
        only_new: Heights of the sudden events that only the new one has.
    """

    counts: Counter[str]
    only_old: list[float]
    only_new: list[float]


def compare(trace: Trace) -> Found:
    """Return what both definitions find in one recording.

    Args:
        trace: The recording.
    """
    loss = trace.column("loss")
    events = detect_events(loss.steps.tolist(), loss.values.tolist())
    sudden = [event for event in events if event.kind != "climb"]
    truth = ground_truth(trace)
    old = truth["3x"]
    only_old = [one.height for one in old if not any(_same(one, event) for event in sudden)]
    only_new = [event.height for event in sudden if not any(_same(one, event) for one in old)]
    counts = Counter(event.kind for event in events) + Counter(
        {
            "runs": 1,
            "old": len(old),
            "old tall": len(truth["8x"]),
            "both": len(old) - len(only_old),
            "only old": len(only_old),
            "only new": len(only_new),
        }
    )
    return Found(counts, only_old, only_new)


def summarise(traces: Iterable[Trace]) -> dict[str, Any]:
    """Return the counts of many recordings, by split, batches and role, and the heights of what differs.

    Args:
        traces: The recordings.

    Returns:
        Plain values: ``groups``, counts as of `Found` by ``split, batches, role``; ``only_old`` and
        ``only_new``, heights in order.
    """
    groups: dict[tuple[str, str, str], Counter[str]] = {}
    heights: dict[str, list[float]] = {"only_old": [], "only_new": []}
    for trace in traces:
        kind = "language" if trace.meta["language"] else trace.meta["kind"]
        key = (trace.meta["split"], _BATCHES[kind], trace.meta["role"])
        found = compare(trace)
        groups[key] = groups.get(key, Counter()) + found.counts
        heights["only_old"] += found.only_old
        heights["only_new"] += found.only_new
    ranks = ("development", "held-out"), tuple(_BATCHES.values()), ("spiky", "control")

    def rank(key: tuple[str, str, str]) -> list[int]:
        return [order.index(part) for order, part in zip(ranks, key, strict=True)]

    ordered = {", ".join(key): dict(groups[key]) for key in sorted(groups, key=rank)}
    return {"groups": ordered} | {
        name: sorted(float(f"{one:.4g}") for one in values) for name, values in heights.items()
    }


def table(groups: Mapping[str, Mapping[str, int]]) -> str:
    """Return the counts as a table in Markdown.

    Args:
        groups: ``groups`` of what `summarise` returned.
    """
    headers = ("half, batches, role", *_COLUMNS.values())
    lines = [f"| {' | '.join(headers)} |", "|---" + "|--:" * len(_COLUMNS) + "|"]
    for name, group in groups.items():
        lines.append(f"| {name} | {' | '.join(f'{group.get(column, 0):,}' for column in _COLUMNS)} |")
    return "\n".join(lines)


def page(found: Mapping[str, Any]) -> str:
    """Return the page of the documentation.

    Args:
        found: What `summarise` returned.
    """
    groups, definition = found["groups"], EventDefinition()
    total: Counter[str] = Counter()
    for group in groups.values():
        total += Counter(group)
    halves = " and the ".join(sorted({name.split(", ")[0] for name in groups}))
    return f"""# Spikes of SpikeBench by both definitions

<!-- Generated by benchmarks/spikebench/definitions.py; edit that instead. -->

[Scores of forecasts](forecast.md) count what they were recorded and published with: losses above three times
the median of the hundred steps before. Reports use [another definition](../explanation/spikes.md), which has
{definition.sigmas:g} σ of the calm steps' noise as a second bar. Both on the same {total["runs"]} recordings,
the {halves} half:

```
python -m benchmarks.spikebench.definitions runs/spikebench/traces
```

{table(groups)}

*3 ×* and *8 ×*: spikes above that multiple of the running median. *spikes* to *not finite*: events of the new
definition. *both*: spikes above 3 × that a sudden event of the new definition overlaps, {NEAR} steps apart at
most; several may share one.

- *only 3 ×*, half of them below {_median(found["only_old"])} times the median: losses that jump about so much
  that such a step is nothing unusual, and low spikes right after another.
- *only new*, half of them below {_median(found["only_new"])} times their level: rises far above the noise
  that stay below three times the median, in the mean of five steps where batches differ, and spikes whose
  running median an earlier one had raised.
"""


def _median(heights: Sequence[float]) -> str:
    return f"{np.median(heights):.1f}" if heights else "–"


def _same(old: SpikeEvent, new: LossEvent) -> bool:
    return old.onset - NEAR <= new.end and new.onset - NEAR <= old.end


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, if there is a folder of traces, and write the page."""
    parser = argparse.ArgumentParser(description="Spikes of SpikeBench by both definitions.")
    parser.add_argument("traces", nargs="?", type=Path, help="folder of .npz traces")
    folder = parser.parse_args(arguments).traces
    if folder is not None:
        paths = sorted(folder.glob("*.npz"))
        if not paths:
            parser.error(f"no .npz traces in {folder}: pass the folder `traces` of foreshock bench forecast")
        found = summarise(map(Trace.load, paths))
        RESULTS.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    PAGE.write_text(page(found), encoding="utf-8")
    print(table(found["groups"]))  # noqa: T201


if __name__ == "__main__":
    main()
