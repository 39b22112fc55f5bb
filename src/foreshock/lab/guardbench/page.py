"""Scores → the text of the pages. Every figure in it is taken from the scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from foreshock.lab.guardbench.comparison import HARM
from foreshock.lab.guardbench.goals import GUARD, goal_table
from foreshock.lab.guardbench.overview import overview_table, verdict
from foreshock.lab.guardbench.tables import (
    cost_table,
    family_table,
    harm_table,
    method_table,
    pick,
    source_table,
    task_table,
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
