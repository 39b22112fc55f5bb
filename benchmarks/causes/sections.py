"""The sections of the page on causes that are about the paper's experiments and the demo.

`reproductions` and `noise` measure what stands in them; here it is only put into words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.markdown import table

SPLIT = Path(__file__).parent / "results" / "reproductions.json"
"""What `reproductions` keeps."""

FORKED = Path(__file__).parent / "results" / "noise.json"
"""What `noise` keeps."""

LATER = 100
"""Steps for which some branches are followed further."""

DRAWS, AVERAGED = 3, 8
"""Other draws of batches, and batches that are averaged at each step."""

BAR = 3.0
"""A spike is a loss (the mean of five) above this multiple of its level."""

_SPLIT_HEAD = """## The paper's experiments and the demo

The first cause that is named for each event of the runs of `foreshock reproduce` and `foreshock demo`,
against what made λ_max(Ĥ) grow before it, measured with v or with H frozen (*not split*: it was not measured
for this one, or neither part made it grow). *Explain* had been tried on such runs before; its test for logs
without a measured growth was mended after 52 of the 171 spikes of the quadratic had come out as *not
explained*. In mini-batches *gradient noise* says which edge was passed, and in its second half what made the
ratio rise to it; there that half is compared with freezing. It was added after three spikes of the
Transformer had been named noise alone, against freezing ([below](#noise-or-the-landscape)). *Whole run*: the
run of the experiment itself, which goes on for longer and was measured more often.
"""
_SPLIT_TAIL = """\
Made by `foreshock reproduce quadratic --out runs/reproduction`, `foreshock reproduce cause --set
events=12 --seeds 2 --out runs/reproduction`, the same with `--first-seed 3 --seeds 1`, `foreshock reproduce
NAME --seeds 1 --out runs/reproduction` for cnn, transformer and llm, the same with `--first-seed 3`, and
`python -m benchmarks.causes.reproductions runs/reproduction`.
"""
_BRANCHES = {
    "displaced": "weights displaced by 10⁻⁴ (control)",
    "redrawn": f"{DRAWS} other draws of batches, followed for {LATER} steps more",
    "averaged": f"{AVERAGED} batches averaged at each step",
    "averaged, later": f"the same, followed for {LATER} steps more",
    "frozen": "v held at what it was",
    "floor": "v ≥ g²",
    "no decay": "no weight decay",
}
_FORKED_HEAD = """
### Noise or the landscape?

Sixty steps before each spike of the Transformer the training leaves its course, and its loss is followed
until fifty steps after the onset. A spike is a loss above 3 × its level.
"""
_FORKED_TAIL = """\
What comes with every draw of batches and with v held, comes later where batches are averaged, and
does not come without weight decay, is the landscape's: noise only says when. `explain` names the noise, since
the log shows its edge, and now adds what made the ratio rise to it and that larger batches may only postpone
the spike. v ≥ g² prevents it whoever is to blame.

Made by `python -m benchmarks.causes.noise`, on seeds {seeds}.
"""


def agrees(row: Mapping[str, Any]) -> bool | None:
    """Return whether the first cause is what had the larger part with the other frozen; None if unknown.

    Of noise, what counts is what the explanation says made the ratio rise to its edge.

    Args:
        row: An event.
    """
    if row["share"] is None:
        return None
    if row["of v"] is not None:
        return bool((row["of v"] >= 0.5) == (row["share"] >= 0.5))
    return bool(row["named"][0] == ("preconditioner lag" if row["share"] >= 0.5 else "landscape"))


def split_section(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the section on what is named, against what freezing v or H says.

    Args:
        rows: The events, as `reproductions` keeps them.
    """
    named = Counter(row["named"][0] for row in rows)
    headers = ["run", "spikes", *named, "v or H frozen: says so", "says otherwise", "not split"]
    cells = []
    for group in dict.fromkeys(row["group"] for row in rows):
        of = [row for row in rows if row["group"] == group]
        first = Counter(row["named"][0] for row in of)
        judged = Counter(agrees(row) for row in of)
        seeds = len({row["run"] for row in of})
        cells.append(
            [
                f"{group}, {seeds} seed{'s' if seeds > 1 else ''}",
                str(len(of)),
                *(str(first[name] or "") for name in named),
                *(str(judged[key] or "") for key in (True, False, None)),
            ]
        )
    judged = Counter(agrees(row) for row in rows)
    known = judged[True] + judged[False]
    others = [row for row in rows if agrees(row) is False]
    said = f"Of {known} that were split, {judged[True]} are named as freezing says. {_others(others)}"
    return f"\n{_SPLIT_HEAD}\n{table(headers, cells)}\n\n{said.strip()}\n\n{_SPLIT_TAIL}"


def _others(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    said = [
        f"- {row['group']}, {row['run']}, step {row['onset']:,}: *{' and '.join(row['named'])}*, and v had "
        f"{100 * row['share']:.0f} % of the growth{_silent(row)}"
        for row in rows
    ]
    return "The others:\n\n" + "\n".join(said)


def _silent(row: Mapping[str, Any]) -> str:
    """Return what the words on an event lack, if they do."""
    if row["named"][0] != "gradient noise" or row["of v"] is not None:
        return ""
    return "; its log, with the noise measured every 25 steps, shows no rise of the ratio to explain"


def forked_section(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the section on what the spikes of the Transformer need.

    Args:
        rows: The spikes, as `noise` keeps them.
    """
    cells = []
    for name, words in _BRANCHES.items():
        peaks = [peak for row in rows for peak in row["peaks"][name]]
        came = sum(peak >= BAR for peak in peaks)
        cells.append([words, f"{came} of {len(peaks)}", f"{min(peaks):.2g} to {max(peaks):.2g}"])
    seeds = " and ".join(str(seed) for seed in sorted({row["seed"] for row in rows}))
    made = table(["with", "spikes that come", "height, in multiples of the level"], cells)
    return f"{_FORKED_HEAD}\n{made}\n\n{_FORKED_TAIL.format(seeds=seeds)}"
