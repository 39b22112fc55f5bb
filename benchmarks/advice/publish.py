"""Turn the results of ``foreshock bench advice`` into the page of the documentation.

Run from the root of the repository::

    python -m benchmarks.advice.publish runs/advice

The results are kept as JSON beside this file. Without a folder the page is written again from them.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.markdown import table

from foreshock.lab.advice import REPEATS, STEPS, WINDOW, advised_runs, loss_ratio
from foreshock.lab.jobs import write_json

RESULTS = Path(__file__).parent / "results" / "results.json"
PAGE = Path(__file__).parents[2] / "docs" / "benchmarks" / "advice.md"


def page(results: dict[str, Any]) -> str:
    """Return the page.

    Args:
        results: What ``foreshock bench advice`` wrote.
    """
    score, every = results["score"], results["results"]
    advised = [one for one in every if "advised" in one]
    spiky = [one for one in every if any(one.get("advice", {}).get("unchanged_spikes", ()))]
    without = [one for one in spiky if one["advice"]["advice"] is None]
    rejected = [one for one in without if one["advice"].get("whole")]
    heads = ("training", "seed", "group", "from", "advice", "spikes: as it was → advised", "late loss, ×")
    rows = table(heads, _rows(advised))
    starts = " or ".join(map(str, sorted({len(one["advised"]["spikes"]) for one in advised})))
    median, worst = _number(score["median_ratio"]), _number(score["worst_ratio"])
    total = len(advised_runs())
    return f"""# Advice

Is what `foreshock advise` says worth following? Small trainings that should spike (SpikeBench's, of both
halves, but language models and Transformers, {STEPS:,} steps at most) are recorded with a monitor of
default settings and a recorder. From a snapshot each candidate is tried for {WINDOW} steps, what is left
of them from {REPEATS} starts, and the best from the first step on. What is advised is then followed **from
the first step on**, from a start that the search has not seen ({starts} for each training), and compared with
the training as it was from the same. Starts of a training differ in the sixth digit of its weights: what is
asked is whether advice holds for the run that it was given for, not for another seed.

| | |
|---|---|
| trainings, of {total} that are drawn | {score["trainings"]} |
| with spikes that count in the window | {score["with_spikes_in_the_window"]} |
| nothing found that costs nothing | {len(without)} |
| of these with a change that does well in the window, and not from the start | {len(rejected)} |
| advised | {score["advised"]} |
| **of these with a lower late loss than as they were** | **{score["better"]}** |
| late loss, as a multiple: median, worst | {median}, {worst} |
| spikes of the advised trainings as they were, all starts | {score["spikes_as_it_was"]} |
| spikes with the advice | {score["spikes_advised"]} |

The late loss is the median of the last quarter of a training. A spike counts in the window if it begins after
the first 50 steps and is at least a quarter as high as usual there; in the last two lines all count.

{rows}

{_list(without)}

{_from_the_start(spiky)}

Made by `foreshock bench advice --starts 1` and `python -m benchmarks.advice.publish runs/advice`, as far as
it got. {_older(every)}
"""


def _from_the_start(spiky: list[dict[str, Any]]) -> str:
    """Say how often what did best in a window did so from the first step on, too."""
    tried = [(part, one) for one in spiky for part in one["advice"].get("whole", ())]
    if not tried:
        return ""
    losses = [statistics.median(math.inf if x is None else x for x in part["losses"]) for part, _ in tried]
    higher = sum(loss > 1 for loss in losses)
    place = max(range(len(tried)), key=losses.__getitem__)
    part, one = tried[place]
    return f"""That a change does well in a window says little: of {len(tried)} that were the best of theirs
and were then tried from the first step on, {higher} ended with a higher late loss than the training as it
was; at worst `{part["change"]}` for {one["name"]}, seed {one["seed"]}, {_number(losses[place])} ×."""


def _older(every: list[dict[str, Any]]) -> str:
    """Name the trainings whose windows had another length, as they were tried with an earlier version."""
    older = [one for one in every if one.get("advice", {}).get("steps", WINDOW) != WINDOW]
    if not older:
        return ""
    names = ", ".join(f"{one['name']} {one['seed']}" for one in older)
    steps = " or ".join(map(str, sorted({one["advice"]["steps"] for one in older})))
    return (
        f"Windows of {steps} steps, and trials from before changes had to hold from the start, are those of "
        f"{names}."
    )


def _list(without: list[dict[str, Any]]) -> str:
    if not without:
        return ""
    found = []
    for one in without:
        whole = one["advice"].get("whole", ())
        tried = ", ".join(
            f"`{part['change']}` {_number(statistics.median(part['losses']))} ×" for part in whole
        )
        found.append(f"{one['name']}, seed {one['seed']}" + (f" (from the start: {tried})" if tried else ""))
    return f"Nothing was found that costs nothing for {'; '.join(found)}."


def _rows(advised: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    rows = []
    for one in sorted(advised, key=lambda one: (one["group"], one["name"], one["seed"])):
        before, after = (f"{statistics.mean(one[which]['spikes']):.1f}" for which in ("as_it_was", "advised"))
        ratio = loss_ratio(one)
        shown = "∞" if math.isinf(ratio) else f"{ratio:.2g}"
        words = f"`{one['advice']['advice']}`"
        rows.append(
            (
                one["name"],
                str(one["seed"]),
                one["group"],
                str(one["from"]),
                words,
                f"{before} → {after}",
                shown,
            )
        )
    return rows


def _number(value: float | None) -> str:
    if value is None or math.isinf(value):
        return "∞"
    return f"{value:.2g}" if value < 100 else f"{value:.0f}"


def main() -> None:
    """Keep the results, and write the page."""
    if len(sys.argv) > 1:
        found = json.loads((Path(sys.argv[1]) / "results.json").read_text(encoding="utf-8"))
        write_json(found, RESULTS)
    PAGE.write_text(page(json.loads(RESULTS.read_text(encoding="utf-8"))), encoding="utf-8")
    sys.stdout.write(f"Page: {PAGE}\n")


if __name__ == "__main__":
    main()
