"""Scores → the page and its figures, which are made of nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foreshock.guardbench.comparison import HARM
from foreshock.guardbench.figures import write_heat, write_pareto
from foreshock.guardbench.goals import GUARD, goal_table
from foreshock.guardbench.tables import (
    cost_table,
    family_table,
    harm_table,
    method_table,
    pick,
    source_table,
    task_table,
)
from foreshock.spikebench.page import GROUPS

PAGE = "guard.md"
_PEERS = ("torch", "pytorch_optimizer", "own")
_TITLES = {"development": "Development half", "held-out": "Held-out half"}
_HEAD = """# Measures against loss spikes

<!-- Made by foreshock bench guard: change that, not this. -->

Made by `{command}`, Foreshock {version}; {seeds}.
Every method trains the same tasks from the same initial weights with the same batches in the same order;
plain Adam (or AdamW, where the task has weight decay) is what all are compared with.
Learning rate and decay are the task's, the rest of a method is as its authors propose.

- **spikes**: losses above 3, 8, 10 × the median of the 100 steps before; of mini-batches the mean of five
  steps is judged, and losses below 1e-8 of the first never count. Of how many: Adam's own in the same runs. A
  method with fewer runs than Adam was trained with fewer seeds.
- **loss ÷ Adam**: geometric mean of the training loss over the second half of the run, ÷ that of Adam with
  the same seed; mean (geometric), median and worst over the runs. **validation**: the same of examples that
  are not in the training set. Steps after a divergence count with the first or the last finite loss, the
  larger one.
- **harmed**: runs whose training or validation loss is above {harm:g} × Adam's.
- **F/step**: forward and backward passes spent on measuring, besides those of training.
"""


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
    scores: Mapping[str, Any], folder: str | os.PathLike[str], *, command: str, preface: str = ""
) -> list[Path]:
    """Write the page and its figures.

    Args:
        scores: What `foreshock.guardbench.comparison.compare` returned, with ``costs`` if they were measured.
        folder: Where to; made if missing.
        command: The command that the page names.
        preface: Markdown to put before the tables.

    Returns:
        The files, the page first.

    Raises:
        ImportError: If matplotlib, which draws, is not installed.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    parts = [
        _HEAD.format(command=command, version=scores["foreshock"], harm=HARM, seeds=_seeds(scores["seeds"]))
    ]
    if preface:
        parts.append(preface)
    figures: list[Path] = []
    for split in scores["scores"]:
        drawn = _figures(scores, split, target)
        figures += drawn.values()
        parts.append(split_section(scores, split, {name: path.name for name, path in drawn.items()}))
    if scores.get("costs"):
        parts.append(_costs(scores["costs"]))
    parts.append(f"## The methods\n\n{source_table(scores)}")
    page = target / PAGE
    page.write_text("\n\n".join(part.strip() for part in parts) + "\n", encoding="utf-8")
    return [page, *figures]


def _seeds(seeds: Sequence[int]) -> str:
    told = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    return told if len(seeds) > 1 else f"{told} alone: an odd run may be chance"


def split_section(scores: Mapping[str, Any], split: str, figures: Mapping[str, str]) -> str:
    """Return what the page says of one half of the configurations.

    Args:
        scores: Scores.
        split: "development" or "held-out".
        figures: File names of the figures, by group of runs, and of the one of all tasks as ``tasks``.
    """
    parts = [f"## {_TITLES[split]}"]
    reached = goal_table(scores, split)
    if reached.count("\n") > 1:
        parts.append(f"### What `{GUARD}` was built to reach\n\n{reached}")
    for group, title in GROUPS.items():
        if group in scores["scores"][split]:
            parts.append(f"### {title}")
            if group in figures:
                parts.append(f"![Spikes that are left against the loss that is reached]({figures[group]})")
            parts.append(method_table(scores, split, group))
    parts.append("### By family\n\nSpikes > 3× that are left, and the mean of loss ÷ Adam.")
    parts.append(family_table(scores, split))
    parts.append("### Task by task")
    if "tasks" in figures:
        parts.append(f"![Loss and spikes of every method on every task]({figures['tasks']})")
    parts.append(task_table(scores, split))
    harmed = (
        f"Mean training or validation loss of a run above {HARM:g} × Adam's. What a guard on top of β₂ = .95 "
        "has here is for the most part the work of β₂: see it beside `beta2-0.95` above."
    )
    parts.append(f"### Where Foreshock harms\n\n{harmed}")
    parts.append(harm_table(scores, split, above=HARM, sources=("foreshock",)))
    parts.append("### Where the others harm most\n\nThe same above 10 × Adam's.")
    parts.append(harm_table(scores, split, above=10.0, sources=_PEERS))
    return "\n\n".join(parts)


def summary(scores: Mapping[str, Any], split: str) -> str:
    """Return the table of all methods over all runs of one half.

    Args:
        scores: Scores.
        split: "development" or "held-out".
    """
    return method_table(scores, split, "all")


def _costs(costs: Mapping[str, Any]) -> str:
    return "\n\n".join(
        (
            "## What they cost",
            "Time of a step ÷ that of plain Adam just before and after it, on one thread: on a Transformer "
            f"of {_size(costs)}, and for some methods on one of {_size(costs['larger'])}; and what is "
            "kept between steps besides weights and gradients (Adam's two moments are 8 bytes). Settings of "
            "Adam that change no code are left in as a measure of the timing's error.",
            cost_table(costs),
        )
    )


def _size(costs: Mapping[str, Any]) -> str:
    return f"{costs['parameters']:,} parameters whose step takes Adam {1000 * costs['step']:.1f} ms"


def _figures(scores: Mapping[str, Any], split: str, folder: Path) -> dict[str, Path]:
    ours = [name for name, about in scores["methods"].items() if about["source"] == "foreshock"]
    written = {}
    for group, title in GROUPS.items():
        if group in scores["scores"][split]:
            path = folder / f"guard-{split}-{group}.svg"
            try:
                written[group] = write_pareto(pick(scores, split, group), path, ours=ours, title=title)
            except ValueError:
                continue  # Adam has no spike in these runs: there is nothing to leave.
    tasks = [task for task in scores["tasks"] if task["split"] == split]
    return written | {"tasks": write_heat(tasks, folder / f"guard-{split}-tasks.svg")}
