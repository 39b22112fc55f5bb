"""What runs are called where there are several: names that tell them apart."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from foreshock.representation import short_line

if TYPE_CHECKING:
    from foreshock.runlog.reader import Run

LONGEST = 60
"""Characters of a label: a legend has one for each run."""


def labels_of(runs: Sequence[Run]) -> list[str]:
    """Return a label for each run, all different.

    Args:
        runs: Runs as read from their logs.
    """
    return labels([run.name for run in runs], [run.path for run in runs])


def labels(names: Sequence[str], logs: Sequence[Path]) -> list[str]:
    """Return names that are short and differ: where two are the same, with as much of the path as it takes.

    Args:
        names: Names of runs.
        logs: Their logs, as many.

    Example:
        >>> logs = [Path(f"runs/{run}/rank0.jsonl") for run in ("a/base", "b/base", "b/wide")]
        >>> labels(["base", "base", "wide"], logs)
        ['a/base', 'b/base', 'wide']
        >>> labels(["mine", "mine"], logs[:2])
        ['mine (a/base)', 'mine (b/base)']
    """
    places: dict[str, list[int]] = defaultdict(list)
    shown = [short_line(name) for name in names]
    for place, name in enumerate(shown):
        places[name].append(place)
    for name, alike in places.items():
        ends = _endings({_absolute(logs[place]) for place in alike})
        for place in alike if len(ends) > 1 else ():
            path = ends[_absolute(logs[place])]
            shown[place] = path if path.endswith(f"/{name}") else f"{name} ({path})"
    return _numbered([cut(label) for label in shown])


def cut(label: str, longest: int = LONGEST) -> str:
    """Return the end of a label, which tells runs apart, where all of it is too long.

    Args:
        label: The label.
        longest: Characters at most.

    Example:
        >>> cut("experiments/2026/sweep/seed-3", 12)
        '…weep/seed-3'
    """
    return label if len(label) <= longest else f"…{label[len(label) - longest + 1 :]}"


def _absolute(log: Path) -> Path:
    # Not resolved: a link keeps the name that it is known by.
    return Path(os.path.abspath(log))  # noqa: PTH100


def _endings(logs: Collection[Path]) -> dict[Path, str]:
    """Return the ends of different paths, of as many parts as it takes for all of them to differ."""
    same = len({path.name for path in logs}) == 1
    parts = {path: path.parent.parts if same else (*path.parent.parts, path.stem) for path in logs}
    size = 1
    while len({one[-size:] for one in parts.values()}) < len({*parts.values()}):
        size += 1
    return {path: short_line("/".join(one[-size:]).replace("//", "/")) for path, one in parts.items()}


def _numbered(found: list[str]) -> list[str]:
    """Return labels with a number where two are still the same: one run that was passed twice."""
    often, seen = Counter(found), Counter[str]()
    numbered = []
    for label in found:
        seen[label] += 1
        numbered.append(f"{label} ({seen[label]})" if often[label] > 1 else label)
    return numbered
