"""What an event of the loss was made of, found out by training it again: another batch, v held, float64.

Each test changes one thing of a window that is replayed from a snapshot: what goes away with it was made by
it. A log shows what happened; only this shows what would have happened otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from foreshock.explain import Examination
from foreshock.replay.recorded import losses_of, rate_factor_at
from foreshock.words import number

if TYPE_CHECKING:
    from foreshock.explain import Explanation
    from foreshock.replay.outcome import ReplayOutcome
    from foreshock.runlog import Run

_LATER = 100  # steps after the peak in which an event may come later
_REACHES = 10  # steps after the peak that a replay must have, to be without the event, if it ends early
_REACHED = 0.4  # of the rise: a loss that gets there has the event
_OF_DATA = ("bad batch", "data change", "batch shape")
_CHANCE = (
    "with weights that differ in the sixth digit it does not come either: it hangs on chance, and one replay "
    "without it proves nothing"
)
_SAID: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        "swap": (
            "with the batch of step {value} replaced by the one before",
            "that batch made it",
            "it was not that batch alone",
        ),
        "v": (
            "with v held from step {start} on",
            "the decay of v made it",
            "from there on it needs no decay of v",
        ),
        "precision": ("in {value}", "rounding or overflow made it", "it is not made by rounding"),
    }
)
"""What each change is, what follows if the event does not come with it, and what if it does."""


def the_event(found: Sequence[Explanation]) -> Explanation:
    """Return the event that is to be tested.

    Args:
        found: The events that were asked for.

    Raises:
        ValueError: If there is not exactly one.
    """
    if not found:
        raise ValueError("the loss of this run has no spike, no divergence, no climb and no NaN to test")
    if len(found) > 1:
        steps = ", ".join(f"{one.onset:,}" for one in found[:10])
        raise ValueError(
            f"the run has {len(found)} events, at steps {steps}{' …' if len(found) > 10 else ''}; one is "
            "tested at a time: say which, by its step"
        )
    return found[0]


def changes_to_test(event: Explanation, start: int, *, precision: str = "float64") -> tuple[str, ...]:
    """Return the changes whose replays tell what an event was made of, as `parse_change` takes them.

    Args:
        event: The event.
        start: Step of the snapshot.
        precision: What is computed in instead; empty for no such test.

    Raises:
        ValueError: If the snapshot is not from before the event.
    """
    suspect = suspected_step(event)
    if start >= suspect:
        raise ValueError(
            f"the snapshot is of step {start}, and the event begins at step {suspect}; it must be older. "
            "A recorder writes the newest one of before when an alarm begins, and at a spike"
        )
    return (f"swap={suspect}", "v=held", *([f"precision={precision}"] if precision else []))


def suspected_step(event: Explanation) -> int:
    """Return the step whose batch is suspected: that of a cause in the data, else the onset.

    Args:
        event: The event.
    """
    steps = [one.step for one in event.causes if one.name in _OF_DATA and one.step is not None]
    return steps[0] if steps else event.onset


def steps_to_train(event: Explanation, start: int) -> int:
    """Return the length of the window that is replayed.

    Args:
        event: The event.
        start: Step of the snapshot.
    """
    return event.peak - start + _LATER


class Window(NamedTuple):
    """What is replayed from a snapshot to test an event.

    Attributes:
        changes: Of `changes_to_test`.
        steps: Of `steps_to_train`.
        recorded: Steps and losses of the run, to compare with.
        rate_factor: What a ladder had the learning rate multiplied by at the snapshot.
    """

    changes: tuple[str, ...]
    steps: int
    recorded: tuple[tuple[int, float], ...]
    rate_factor: float


def window_of(run: Run, event: Explanation, start: int) -> Window:
    """Return what is replayed to test an event of a run.

    Args:
        run: The run.
        event: The event.
        start: Step of the snapshot.

    Raises:
        ValueError: If the snapshot is not from before the event.
    """
    changes, steps = changes_to_test(event, start), steps_to_train(event, start)
    return Window(changes, steps, losses_of(run), rate_factor_at(run, start))


def examine(
    event: Explanation,
    unchanged: ReplayOutcome,
    tested: Sequence[ReplayOutcome],
    *,
    perturbed: ReplayOutcome,
    recorded: Sequence[tuple[int, float]],
) -> Examination:
    """Return what replays of an event say of its cause.

    Args:
        event: The event.
        unchanged: The replay as it was.
        tested: Those of `changes_to_test`.
        perturbed: The replay as it was, but for the sixth digit of the weights.
        recorded: Steps and losses of the log.
    """
    judge = _Judge(_bar(event, recorded), event.peak)
    repeats = judge.comes(unchanged) is True
    if not repeats:
        return Examination(event.onset, unchanged.start, repeats, {}, (_does_not_repeat(unchanged),))
    words = [_words(one, judge) for one in tested]
    if judge.comes(perturbed) is False:
        words.append(_CHANCE)
    comes = {one.change: judge.comes(one) for one in tested}
    return Examination(event.onset, unchanged.start, repeats, comes, tuple(words))


def _does_not_repeat(unchanged: ReplayOutcome) -> str:
    words = f"replayed as it was from step {unchanged.start:,} it does not come: nothing can be tested"
    where = unchanged.departure
    if where is None:
        return words
    return f"{words}: the loss of step {where.step:,} was {where.recorded:.6g} and is {where.replayed:.6g}"


def _bar(event: Explanation, recorded: Sequence[tuple[int, float]]) -> float:
    """Return the loss from which on a replay has the event; infinite where a loss was not finite at once."""
    rise = dict(recorded).get(event.peak, math.nan) - event.reference
    return event.reference + _REACHED * rise if math.isfinite(rise) and rise > 0 else math.inf


def _highest(outcome: ReplayOutcome) -> float:
    finite = all(math.isfinite(one) for one in outcome.losses)
    return max(outcome.losses, default=math.nan) if finite else math.inf


@dataclass(frozen=True)
class _Judge:
    """Whether a replay has the event: its loss gets to a bar.

    Attributes:
        bar: The loss.
        peak: Step of the highest loss of the event.
    """

    bar: float
    peak: int

    def comes(self, outcome: ReplayOutcome) -> bool | None:
        """Return whether a replay has the event; None for one that ended before it can be known."""
        highest = _highest(outcome)
        if highest >= self.bar:
            return True
        # The batches may end with the run: then it does not come, if it was over by then.
        reached = outcome.start + len(outcome.losses) >= self.peak + _REACHES
        return False if reached or not (outcome.failure or math.isnan(highest)) else None


def _words(outcome: ReplayOutcome, judge: _Judge) -> str:
    """Return what follows from one replay."""
    comes, highest = judge.comes(outcome), _highest(outcome)
    if comes is None:
        return f"not tested with {outcome.change}: {outcome.failure or 'there is no loss'}"
    name, _, value = outcome.change.partition("=")
    how, gone, there = _SAID[name]
    shown = f"{int(value):,}" if value.isdecimal() else value
    how = how.format(value=shown, start=f"{outcome.start:,}")
    if comes:
        size = f"the loss gets to {number(highest)}" if math.isfinite(highest) else "the loss is not finite"
        return f"{how} it comes all the same, {size}: {there}"
    return f"{how} it does not come, the loss stays at {number(highest)} or below: {gone}"
