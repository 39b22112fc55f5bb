"""How well causes are told apart: a confusion matrix, and what is said of a cause that is not on the list."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foreshock.explain import CAUSES, NOT_EXPLAINED, History, Name, causes_of
from foreshock.lab.causes.scenario import FRESH
from foreshock.runlog import read_run
from foreshock.runlog.values import recorded_losses
from foreshock.spikes import detect_events


def score_spikes(folder: Path, *, split: str) -> dict[str, Any]:
    """Return how the spikes of one half are explained.

    Args:
        folder: Where `record_spike` left logs and truths.
        split: ``"development"`` or ``"held-out"``.

    Returns:
        ``spikes``: for each true cause, how often each was named first. ``among``: how often the true one was
        among those named. ``left_out``: the same as ``spikes`` with the test of the true cause left out.
        ``families``: how many spikes each architecture has.

    Raises:
        ValueError: If there is no spike of this half.
    """
    scores: dict[str, Any] = {name: {cause: {} for cause in CAUSES} for name in ("spikes", "left_out")}
    scores |= {"among": dict.fromkeys(CAUSES, 0), "families": {}}
    for path in sorted(folder.glob("*/truth.json")):
        truth = json.loads(path.read_text(encoding="utf-8"))
        if truth["split"] != split or (split == "held-out" and truth["scenario"]["index"] < FRESH):
            continue
        cause, family = truth["scenario"]["cause"], truth["scenario"]["family"]
        named, without = explained_as(path.parent, int(truth["onset"]), cause)
        _count(scores["spikes"][cause], named[0])
        _count(scores["left_out"][cause], without[0])
        _count(scores["families"], family)
        scores["among"][cause] += cause in named
    if not scores["families"]:
        raise ValueError(f"{folder} has no spike of the {split} half; run foreshock bench causes")
    return scores


def explained_as(run: Path, onset: int, cause: Name) -> tuple[list[str], list[str]]:
    """Return the causes named for the event at a step, and those without the test of one of them.

    Args:
        run: Folder of the log.
        onset: First high step.
        cause: The cause whose test is left out.
    """
    log = read_run(run)
    steps, losses = recorded_losses(log)
    event = next(one for one in detect_events(steps.tolist(), losses.tolist()) if one.onset == onset)
    history = History(log)
    found = [causes_of(history, event, without=without) for without in _none_and(cause)]
    named, rest = ([str(one.name) for one in causes] or [NOT_EXPLAINED] for causes in found)
    return named, rest


def _none_and(cause: Name) -> tuple[tuple[Name, ...], tuple[Name, ...]]:
    return (), (cause,)


def right(scores: dict[str, Any]) -> tuple[int, int, int]:
    """Return how many spikes were named rightly, how many claimed by no other cause, and how many there are.

    Args:
        scores: What `score_spikes` returned.
    """
    total = sum(sum(row.values()) for row in scores["spikes"].values())
    named = sum(row.get(cause, 0) for cause, row in scores["spikes"].items())
    open_ = sum(row.get(NOT_EXPLAINED, 0) for row in scores["left_out"].values())
    return named, open_, total


def confusion_table(scores: dict[str, Any]) -> tuple[Sequence[str], list[list[str]]]:
    """Return the confusion matrix as headers and rows of words.

    Args:
        scores: What `score_spikes` returned.
    """
    rows_of = scores["spikes"].values()
    named = [cause for cause in (*CAUSES, NOT_EXPLAINED) if any(cause in row for row in rows_of)]
    headers = ["what it was", *named, "left out → not explained"]
    rows = []
    for cause, row in scores["spikes"].items():
        count = sum(row.values())
        if not count:
            continue
        cells = [str(row[name]) if name in row else "" for name in named]
        rows.append([cause, *cells, f"{scores['left_out'][cause].get(NOT_EXPLAINED, 0)} of {count}"])
    return headers, rows


def _count(row: dict[str, int], name: str) -> None:
    row[name] = row.get(name, 0) + 1
