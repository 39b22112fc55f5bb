"""Scores → the pages and their figures, which are made of nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foreshock.lab.guardbench.figures import write_heat, write_pareto
from foreshock.lab.guardbench.overview import overview_table, verdict
from foreshock.lab.guardbench.page import NORMALISED, PAGE, main_page, other_page, page_name
from foreshock.lab.guardbench.tables import pick
from foreshock.lab.spikebench.page import GROUPS
from foreshock.lab.spikebench.suite import HELD_OUT


def load_scores(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the scores that the command wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a file of scores.
    """
    read = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(read, dict) or not {"methods", "tasks", "scores"} <= read.keys():
        raise ValueError(f"{path} has no methods, tasks and scores: it is not a file of GuardBench's scores")
    return read


def write_pages(
    scores: Mapping[str, Any],
    folder: str | os.PathLike[str],
    *,
    command: str,
    history: str = "",
    name: str = PAGE,
) -> list[Path]:
    """Write the page and its figures; of the development half a second page, if the other half was scored.

    Args:
        scores: What `comparison.compare` returned, with ``costs`` if they were measured.
        folder: Where to; made if missing.
        command: The command that the page names.
        history: Markdown to put at the end, with a heading: how the held-out half was scored before.
        name: What the files' names begin with, see `page_of`.

    Returns:
        The files, the main page first.

    Raises:
        ImportError: If matplotlib, which draws, is not installed.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    splits = sorted(scores["scores"], key=lambda split: split != HELD_OUT)
    figures = {split: _figures(scores, split, target, name) for split in splits}
    drawn = {split: {kind: path.name for kind, path in found.items()} for split, found in figures.items()}
    main, *others = splits
    texts = {
        target / f"{name}.md": main_page(
            scores, main, drawn[main], command=command, others=others, history=history, name=name
        ),
        **{
            target / page_name(split, name): other_page(scores, split, drawn[split], name=name)
            for split in others
        },
    }
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    return [*texts, *(path for found in figures.values() for path in found.values())]


def page_of(suite: str) -> str:
    """Return what the names of a suite's pages and figures begin with.

    Args:
        suite: Name of the suite.
    """
    return NORMALISED if suite == "normalised" else PAGE


def summary(scores: Mapping[str, Any], split: str) -> str:
    """Return in a few sentences and a table what came of one half.

    Args:
        scores: Scores.
        split: "development" or "held-out".
    """
    return f"{verdict(scores, split)}\n\n{overview_table(scores, split)}".strip()


def _figures(scores: Mapping[str, Any], split: str, folder: Path, name: str) -> dict[str, Path]:
    ours = [one for one, about in scores["methods"].items() if about["source"] == "foreshock"]
    written = {}
    for group, title in GROUPS.items():
        if group in scores["scores"][split]:
            path = folder / f"{name}-{split}-{group}.svg"
            try:
                written[group] = write_pareto(pick(scores, split, group), path, ours=ours, title=title)
            except ValueError:
                continue  # Adam has no spike in these runs: there is nothing to leave.
    tasks = [task for task in scores["tasks"] if task["split"] == split]
    return written | {"tasks": write_heat(tasks, folder / f"{name}-{split}-tasks.svg")}
