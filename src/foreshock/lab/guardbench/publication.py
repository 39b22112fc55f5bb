"""Scores → the pages and their figures, which are made of nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foreshock.lab.guardbench.comparison import HARM
from foreshock.lab.guardbench.figures import write_heat, write_pareto
from foreshock.lab.guardbench.goals import GUARD, goal_table
from foreshock.lab.guardbench.tables import (
    cost_table,
    family_table,
    harm_table,
    method_table,
    overview_table,
    pick,
    source_table,
    task_table,
    verdict,
)
from foreshock.lab.spikebench.page import GROUPS
from foreshock.lab.spikebench.suite import DEVELOPMENT, HELD_OUT

PAGE = "guard"
"""Name of the page, and beginning of the names of its figures."""

NORMALISED = "guard-normalised"
"""The same of the suite with batch normalisation."""

_TITLES = {
    PAGE: "Measures against loss spikes",
    NORMALISED: "Measures against loss spikes, with batch normalisation",
}
_PEERS = ("torch", "pytorch_optimizer", "own")
_MARK = "<!-- Made by foreshock bench guard: change that, not this. -->"
_ABOUT = {
    HELD_OUT: "These are the runs of the held-out half of the suite, on which nothing was chosen",
    DEVELOPMENT: "These are the runs of the development half of the suite, on which rules and constants\n"
    "were chosen",
}
_HEAD = """# {title}

{mark}

{verdict}

{overview}

Spikes are losses above 3 × the median of the 100 steps before; losses are geometric means over the second
half of training, ÷ those of Adam ([all columns](#what-is-compared)). {about}{before}.
Made by `{command}`, Foreshock {version}; {seeds}.
[How to run it, and how to read it](../how-to/compare-guards.md). {other}
"""
_DEFINITIONS = """## What is compared

Every method trains the same tasks from the same initial weights with the same batches in the same order;
plain Adam (or AdamW, where the task has weight decay) is what all are compared with.
Learning rate and decay are the task's, the rest of a method is as its authors propose.

- **> 3×, > 8×, > 10×**: how many losses are above that many × the median of the 100 steps before; of
  mini-batches the mean of five steps is judged, and losses below 1e-8 of the first never count.
- **loss**: geometric mean of the training loss over the second half of the run, ÷ that of Adam with
  the same seed; mean (geometric), median and worst over the runs. **validation**: the same of examples that
  are not in the training set. Steps after a divergence count with the first or the last finite loss, the
  larger one.
- **harmed**: runs whose training or validation loss is above {harm:g} × Adam's.
- **acted**: share of the steps that were changed. **F/step**: forward and backward passes spent on measuring,
  besides those of training. **step time**: mean, ÷ Adam's; see
  [what they cost](guard.md#what-they-cost).
"""
_OTHER = """# {title}: development half

{mark}

{verdict}

{overview}

{about}. The other half, and what the columns mean, is on [the main page]({main}).
"""


def main_page(
    scores: Mapping[str, Any],
    split: str,
    figures: Mapping[str, str],
    *,
    command: str,
    others: Sequence[str] = (),
    history: str = "",
    name: str = PAGE,
) -> str:
    """Return the page that a reader sees first: verdict, goals, tables, costs, methods, history.

    Args:
        scores: What `comparison.compare` returned, with ``costs`` if they were measured.
        split: The half that it is about, "development" or "held-out".
        figures: File names of the figures, by group of runs, and of the one of all tasks as ``tasks``.
        command: The command that the page names.
        others: Halves that have a page of their own.
        history: Markdown to put at the end, with a heading: how the held-out half was scored before.
        name: `PAGE` or `NORMALISED`.
    """
    head = _HEAD.format(
        title=_TITLES[name],
        mark=_MARK,
        verdict=verdict(scores, split),
        overview=overview_table(scores, split),
        about=_ABOUT[split],
        before=", although it was scored more than once, as told at the end" if history else "",
        command=command,
        version=scores["foreshock"],
        seeds=_seeds(scores["seeds"]),
        other=" ".join(f"[The {other} half]({page_name(other, name)})." for other in others),
    )
    parts = [head, split_section(scores, split, figures)]
    if scores.get("costs"):
        parts.append(_costs(scores["costs"]))
    parts += [_DEFINITIONS.format(harm=HARM), f"## The methods\n\n{source_table(scores)}", history]
    return _joined(parts)


def other_page(scores: Mapping[str, Any], split: str, figures: Mapping[str, str], *, name: str = PAGE) -> str:
    """Return the page of a half that is not on the main page.

    Args:
        scores: Scores.
        split: "development" or "held-out".
        figures: File names of the figures, as in `main_page`.
        name: Name of the main page.
    """
    head = _OTHER.format(
        title=_TITLES[name],
        main=f"{name}.md",
        mark=_MARK,
        verdict=verdict(scores, split),
        overview=overview_table(scores, split),
        about=_ABOUT[split],
    )
    return _joined([head, split_section(scores, split, figures)])


def page_name(split: str, name: str = PAGE) -> str:
    """Return the file name of the page of a half that is not on the main page.

    Args:
        split: "development" or "held-out".
        name: Name of the main page.
    """
    return f"{name}-{split}.md"


def split_section(scores: Mapping[str, Any], split: str, figures: Mapping[str, str]) -> str:
    """Return what the page says of one half of the configurations.

    Args:
        scores: Scores.
        split: "development" or "held-out".
        figures: File names of the figures, by group of runs, and of the one of all tasks as ``tasks``.
    """
    parts = []
    reached = goal_table(scores, split)
    if reached.count("\n") > 1:
        parts.append(f"## What `{GUARD}` was built to reach\n\n{reached}")
    for group, title in GROUPS.items():
        if group in scores["scores"][split]:
            parts.append(f"## {title}")
            if group in figures:
                parts.append(f"![Spikes that are left against the loss that is reached]({figures[group]})")
            runs = max(entry["runs"] for entry in pick(scores, split, group).values())
            parts.append(f"{runs} runs of each method.\n\n{method_table(scores, split, group)}")
    parts.append("## By family\n\nSpikes > 3× that are left, and the mean of loss ÷ Adam.")
    parts.append(family_table(scores, split))
    parts.append("## Task by task")
    if "tasks" in figures:
        parts.append(f"![Loss and spikes of every method on every task]({figures['tasks']})")
    parts.append(task_table(scores, split))
    harmed = (
        f"Tasks on which the mean training or validation loss of a guard is above {HARM:g} × Adam's. What a "
        "guard on top of β₂ = .95 has here is for the most part the work of β₂: see `beta2-0.95` above."
    )
    parts.append(f"## Where Foreshock harms\n\n{harmed}")
    parts.append(harm_table(scores, split, above=HARM, sources=("foreshock",)))
    parts.append("## Where the others harm most\n\nThe same above 10 × Adam's.")
    parts.append(harm_table(scores, split, above=10.0, sources=_PEERS))
    return "\n\n".join(parts)


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


def _joined(parts: Sequence[str]) -> str:
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _seeds(seeds: Sequence[int]) -> str:
    told = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    return told if len(seeds) > 1 else f"{told} alone: an odd run may be chance"


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
