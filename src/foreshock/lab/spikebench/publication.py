"""From traces to what is published: scores as JSON, and tables and figures that are made of nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foreshock._version import __version__
from foreshock.lab.jobs import write_json
from foreshock.lab.spikebench.fan import write_fan
from foreshock.lab.spikebench.figures import write_leads, write_recall, write_reliability
from foreshock.lab.spikebench.page import GROUPS, headline_table, runs_table
from foreshock.lab.spikebench.replay import replay
from foreshock.lab.spikebench.scores import score_forecasts, score_rules
from foreshock.lab.spikebench.spikes import ground_truth
from foreshock.lab.spikebench.tables import forecast_table, markdown, rule_table
from foreshock.lab.spikebench.trace import Trace

_SHOWN_LEADS = 5


def score(traces: Sequence[Trace]) -> dict[str, Any]:
    """Score all rules and Foreshock's forecasts on traces.

    Args:
        traces: Runs; thresholds are chosen on the development split alone.

    Returns:
        ``foreshock``, the version; ``runs``, each with its spikes; ``rules`` and ``forecasts``, as
        `score_rules` and `score_forecasts` return them. JSON can hold it.

    Raises:
        ValueError: If there are no traces.
    """
    if not traces:
        raise ValueError("there are no traces to score; record some first")
    runs = [
        {
            "name": trace.meta["name"],
            "seed": trace.meta["seed"],
            "split": trace.meta["split"],
            "role": trace.meta["role"],
            "kind": trace.meta["kind"],
            "steps": int(trace.column("loss").steps.size),
            "spikes": [[spike.onset, round(spike.height, 2)] for spike in ground_truth(trace)["3x"]],
        }
        for trace in traces
    ]
    return {
        "foreshock": __version__,
        "runs": runs,
        "rules": score_rules(traces),
        "forecasts": score_forecasts(traces, replay),
    }


def save_scores(scores: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write scores as JSON, one line a run or a rule, so that changes can be read."""
    return write_json(scores, path)


def load_scores(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `save_scores` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a file of scores.
    """
    read = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(read, dict) or not {"runs", "rules", "forecasts"} <= read.keys():
        raise ValueError(f"{path} has no runs, rules and forecasts: it is not a file of SpikeBench's scores")
    return read


def summary(scores: Mapping[str, Any], split: str) -> str:
    """Return the main tables of one split as Markdown: rules and forecasts by kind of batch, and timing.

    Args:
        scores: Scores.
        split: "development" or "held-out".
    """
    parts = [headline_table(scores, [split]), runs_table(scores, split)]
    rules, forecasts = scores["rules"], scores["forecasts"]
    for group, title in GROUPS.items():
        if group in rules["scores"].get(split, {}):
            table = rule_table(rules, split, group, at="calibrated", forecasts=forecasts)
            parts.append(f"### {title}\n\n{table}")
    parts.append(f"### When and how high\n\n{forecast_table(forecasts, split)}")
    return "\n\n".join(parts) + "\n"


def write_pages(scores: Mapping[str, Any], folder: str | os.PathLike[str]) -> list[Path]:
    """Write tables and those figures that scores alone can make.

    Args:
        scores: Scores.
        folder: Where to; made if missing.

    Returns:
        The files.

    Raises:
        ImportError: If matplotlib, which draws, is not installed.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for split in scores["rules"]["scores"]:
        page = target / f"{split}.md"
        page.write_text(summary(scores, split), encoding="utf-8")
        written.append(page)
        written += write_figures(scores, split, target)
    everything = target / "all-tables.md"
    everything.write_text(markdown(scores["rules"], scores["forecasts"]), encoding="utf-8")
    return [*written, everything]


def write_example(
    trace: Trace, path: str | os.PathLike[str], *, window: tuple[int, int] | None = None
) -> Path:
    """Draw the forecasts of one run against the crossings that followed; see `write_fan`."""
    return write_fan(trace, replay(trace), path, window=window)


def write_figures(scores: Mapping[str, Any], split: str, folder: Path) -> list[Path]:
    """Draw what scores alone can make: recall and leads by group, and reliability.

    Args:
        scores: Scores.
        split: "development" or "held-out".
        folder: Where to, an existing folder.

    Returns:
        The files.

    Raises:
        ImportError: If matplotlib, which draws, is not installed.
    """
    written, reliable = [], {}
    for group in scores["rules"]["scores"][split]:
        if group == "all":
            continue  # Kinds of batch have thresholds of their own.
        rules = scores["rules"]["scores"][split][group]
        forecast = scores["forecasts"][split][group]
        name = group.replace(" ", "-")
        try:
            path = folder / f"recall-{split}-{name}.svg"
            written.append(write_recall(rules, path, title=f"{group}, {split}", forecast=forecast))
        except ValueError:
            continue  # A family without controls has no false alarms to draw against.
        if group in GROUPS:
            leads = {"Foreshock, watch": forecast["watch"]["3x"], "Foreshock, alarm": forecast["alarm"]["3x"]}
            leads |= _best_rules(rules)
            written.append(write_leads(leads, folder / f"leads-{split}-{name}.svg"))
        if forecast["reliability"] and group == "full":
            reliable[group] = forecast["reliability"]
    if reliable:
        written.append(write_reliability(reliable, folder / f"reliability-{split}.svg"))
    return written


def _best_rules(rules: Mapping[str, Any]) -> dict[str, Any]:
    """Return the calibrated leads of the rules that hit most."""
    known = {
        name: entry["calibrated"]["3x"] for name, entry in rules.items() if entry and entry["calibrated"]
    }
    ordered = sorted(known, key=lambda name: known[name]["hits"], reverse=True)
    return {name: known[name] for name in ordered[: _SHOWN_LEADS - 1]}
