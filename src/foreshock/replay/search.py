"""The search for advice: candidates are tried in rounds, and only what is still in question goes on.

One outcome is enough to rule a change out – it spikes, fails or learns far more slowly – and several are
needed to choose one. So all candidates are tried from one start, those that are left from the others, and the
best of them from the first step of the run on, one after the other, until one holds there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from foreshock.replay.advice import Advice, Candidate, choose, is_ruled_out, judge_whole, promising
from foreshock.replay.outcome import ReplayOutcome

_WHOLE = 3  # changes that are tried from the first step of a run on, at most


@dataclass(frozen=True)
class Attempt:
    """One training of a search.

    Attributes:
        change: In the words of `parse_change`; empty for none.
        start: Which of the starts, that differ in the sixth digit of the weights; 0 is the recorded one.
        whole: Whether it begins at the first step of the run instead of the snapshot.
    """

    change: str
    start: int
    whole: bool = False


Runner = Callable[[Sequence[Attempt]], Sequence[ReplayOutcome]]
"""Trains what it is given, in one process or several, and returns the outcomes in the same order."""


def search(run: Runner, tried: Sequence[Candidate], *, starts: int, whole_steps: int = 0) -> Advice:
    """Find the smallest change that removes spikes and costs nothing.

    Args:
        run: Trains.
        tried: The changes in question.
        starts: From how many starts one has to hold, ≥ 1.
        whole_steps: How many steps the trainings from the first step on take; 0 to try none of them.

    Raises:
        ValueError: If the window as it was has no step.

    Example:
        >>> from foreshock.replay.outcome import events_after
        >>> def run(attempts):
        ...     losses = [[1.0] * 90 + [1.0 if one.change else 9.0] * 10 + [1.0] * 100 for one in attempts]
        ...     return [ReplayOutcome("", -1, tuple(one), events_after(-1, (), one)) for one in losses]
        >>> search(run, [Candidate("guard=on", 1, "")], starts=2).chosen.candidate.change
        'guard=on'
    """
    unchanged = run([Attempt("", start) for start in range(starts)])
    if not all(one.losses for one in unchanged):
        raise ValueError(f"there is no step to try: {unchanged[0].failure}")
    as_it_was = choose((), (), unchanged)
    if not as_it_was.has_trouble:
        return as_it_was
    first = run([Attempt(one.change, 0) for one in tried])
    left = [
        place
        for place, (one, came) in enumerate(zip(tried, first, strict=True))
        if not is_ruled_out(one, came, unchanged)
    ]
    others = iter(run([Attempt(tried[one].change, start) for one in left for start in range(1, starts)]))
    rest = {one: [next(others) for _ in range(1, starts)] for one in left}
    found = choose(tried, [[one, *rest.get(place, ())] for place, one in enumerate(first)], unchanged)
    return _held(run, found, starts, whole_steps) if whole_steps and found.chosen is not None else found


def _held(run: Runner, found: Advice, starts: int, steps: int) -> Advice:
    """Try the best from the first step of the run on, until one holds."""
    unchanged = run([Attempt("", start, whole=True) for start in range(starts)])
    whole = []
    for trial in promising(found.trials, starts)[:_WHOLE]:
        change = trial.candidate.change
        came = list(run([Attempt(change, 0, whole=True)]))
        if judge_whole(trial.candidate, came, unchanged).holds:
            came += run([Attempt(change, start, whole=True) for start in range(1, starts)])
        whole.append(judge_whole(trial.candidate, came, unchanged))
        if whole[-1].holds:
            return replace(found, chosen=trial, whole=tuple(whole), whole_steps=steps)
    return replace(found, chosen=None, whole=tuple(whole), whole_steps=steps)
