"""Several runs side by side: which spiked, and what of the others was different before that.

Runs are aligned at the step of the first spike among them: what one was at then, against what the others were
at the same step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from foreshock.explain.events import explain_run
from foreshock.explain.history import USUAL, History, middle
from foreshock.explain.record import Explanation, plain
from foreshock.representation import short_line
from foreshock.runlog.labels import labels_of
from foreshock.words import number

if TYPE_CHECKING:
    from foreshock.runlog import Run

_LEFT_OUT = ("layers", "name", "description")
_NOTABLE = 0.3  # ratio: below it no difference matters
_FACTOR = 1.5  # between the runs that spiked and the others, from which a measure differs


@dataclass(frozen=True)
class RunAt:
    """What a run was like over the fifty steps before a step; NaN for what is unknown.

    Attributes:
        name: Its name.
        spikes: Number of spikes, divergences and losses that were not finite.
        highest: Height of the highest; infinity for one that was not finite, NaN without any.
        cause: What the first was caused by; empty without one.
        onset: Its onset; None without one.
        loss: Median loss before the step.
        learning_rate: Learning rate at the step.
        gradient_norm: Median ‖g‖.
        lag: Median of Σv̂/Σg².
        ratio: Largest stability ratio, or where batches differ the typical mean-square ratio.
        alarms: Number of watches and alarms up to the step.
    """

    name: str
    spikes: int
    highest: float
    cause: str
    onset: int | None
    loss: float
    learning_rate: float
    gradient_norm: float
    lag: float
    ratio: float
    alarms: int


@dataclass(frozen=True)
class Comparison:
    """Several runs, compared at one step.

    Attributes:
        step: Step of the first spike of any of them; the last common step if none spiked.
        runs: What each was like before it.
        settings: The settings that differ, by name, one value for each run.
        findings: What tells those that spiked from the others, a sentence each.
    """

    step: int
    runs: tuple[RunAt, ...]
    settings: Mapping[str, tuple[str, ...]]
    findings: tuple[str, ...]

    def to_mapping(self) -> dict[str, Any]:
        """Return the comparison as plain values that JSON holds."""
        found: dict[str, Any] = plain(asdict(self))
        return found


def compare_runs(runs: Sequence[Run]) -> Comparison:
    """Return what tells runs that spiked from those that did not.

    Args:
        runs: Runs as read from their logs, at least two.

    Raises:
        ValueError: If there are fewer than two, or one has no steps.
    """
    if len(runs) < 2:
        raise ValueError(f"{len(runs)} run was passed; a comparison needs two or more")
    histories = [History(run) for run in runs]
    names = labels_of(runs)
    empty = [name for name, one in zip(names, histories, strict=True) if not len(one.steps)]
    if empty:
        raise ValueError(f"{', '.join(empty)} has no steps; a comparison needs losses: leave it out")
    explained = [[one for one in explain_run(run) if one.kind != "climb"] for run in runs]
    onsets = [found[0].onset for found in explained if found]
    step = min(onsets) if onsets else min(int(one.steps[-1]) for one in histories)
    at = tuple(
        _describe(name, history, found, step)
        for name, history, found in zip(names, histories, explained, strict=True)
    )
    settings = _settings(runs)
    first = all(step <= int(one.steps[0]) for one in histories)
    findings = _findings(at, settings, f"At step {step:,}" if first else f"Before step {step:,}", first=first)
    return Comparison(step, at, settings, tuple(findings))


def _describe(name: str, history: History, found: Sequence[Explanation], step: int) -> RunAt:
    at = history.at(step)
    part = slice(max(at - USUAL, 0), max(at, 1))
    last = min(at, len(history.rate) - 1)
    heights = [math.inf if math.isnan(one.height) else one.height for one in found]
    return RunAt(
        name=name,
        spikes=len(found),
        highest=max(heights, default=math.nan),
        cause=found[0].cause if found else "",
        onset=found[0].onset if found else None,
        loss=middle(history.loss[part]),
        learning_rate=float(history.rate[last]),
        gradient_norm=middle(history.norm[part]),
        lag=middle(history.lag[part]),
        ratio=_ratio(history, step),
        alarms=len(history.rows("alarm", 0, step)),
    )


def _ratio(history: History, step: int) -> float:
    if history.noisy:
        rows = history.rows("forecast", step - 2 * USUAL, step - 1)
        values = [row.get("typical_mean_square_ratio") for row in rows]
        known = [value for value in values if isinstance(value, float) and math.isfinite(value)]
    else:
        near = (history.ratio_steps >= step - 2 * USUAL) & (history.ratio_steps < step)
        known = [float(value) for value in history.ratios[near] if math.isfinite(value)]
    return max(known, default=math.nan)


def _settings(runs: Sequence[Run]) -> dict[str, tuple[str, ...]]:
    """Return the settings of the headers that are not the same in all runs."""
    names = {name for run in runs for name in run.meta if name not in _LEFT_OUT}
    found = {name: tuple(short_line(_words(run.meta.get(name))) for run in runs) for name in sorted(names)}
    return {short_line(name): values for name, values in found.items() if len(set(values)) > 1}


def _words(value: Any) -> str:
    return "–" if value is None else number(value) if isinstance(value, float) else str(value)


def _findings(
    at: Sequence[RunAt], settings: Mapping[str, tuple[str, ...]], when: str, *, first: bool
) -> list[str]:
    spiked, calm = [one for one in at if one.spikes], [one for one in at if not one.spikes]
    if not spiked:
        return ["None of the runs spiked."]
    found = [f"{one.name} spiked at step {one.onset:,}: {one.cause or 'not explained'}." for one in spiked]
    if not calm:
        return [*found, "All of them spiked: they are compared before the first spike."]
    for name, values in settings.items():
        pairs = list(zip(values, at, strict=True))
        sides = [{value for value, one in pairs if bool(one.spikes) is side} for side in (True, False)]
        if not sides[0] & sides[1]:
            pair = [" or ".join(sorted(side)) for side in sides]
            found.append(f"Setting {name}: {pair[0]} in those that spiked, {pair[1]} in the others.")
    for name, words in (
        ("learning_rate", "the learning rate"),
        ("lag", "v above g²"),
        ("ratio", "the ratio to the edge"),
        ("gradient_norm", "the gradient norm"),
        ("loss", "the loss"),
    ):
        high, low = ([getattr(one, name) for one in side] for side in (spiked, calm))
        if name == "ratio" and not max(*high, *low) >= _NOTABLE:
            continue  # all far from the edge
        if _apart(high, low):
            shown = [", ".join(number(value) for value in side) for side in (high, low)]
            found.append(f"{when} {words} was {shown[0]} there, {shown[1]} in the others.")
    if len(found) == len(spiked):
        known = (
            "was logged before it"
            if first
            else "else that was logged before it tells them apart from the others"
        )
        found.append(f"Nothing {known}.")
    return found


def _apart(one: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether all values of one side lie above, or below, those of the other by a factor."""
    if not all(math.isfinite(value) and value > 0 for value in (*one, *other)):
        return False
    return min(one) > _FACTOR * max(other) or _FACTOR * max(one) < min(other)
