"""Which change of a training removes its spikes and costs nothing: candidates, and a choice among outcomes.

Judged is first a window after a snapshot, as it was and with each change, each from several starts that
differ in the sixth digit: of a chaotic training one outcome says little. A snapshot from just before a spike
is too late for any lasting change, so that spikes of the first steps do not count. What does best there is
then tried from the first step of the run on: in a window that begins late a lower rate gains at once, by less
noise, and what it loses in all the steps before doesn't show. `foreshock.replay.search` does both.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from foreshock.replay.outcome import ReplayOutcome, finite_or_none
from foreshock.spikes import LossEvent, detect_events

Effect = Literal["removes", "postpones", "fewer", "no help", "fails"]

_BETA2 = (0.99, 0.95, 0.9)
_RATES = (0.7, 0.5, 0.25)
_EPS = (100.0, 10_000.0)
_LARGEST_EPS = 1.001e-4  # more slows all coordinates
_LOSS = 1.02  # a late loss up to this multiple of the unchanged one costs nothing
_NEAR = 1.05  # of changes whose late losses are within this factor, the smallest is chosen
UNDERWAY = 50
"""A spike that begins within so many steps was on its way when the snapshot was taken."""
_SMALL = 0.25  # of the usual rise: a lower one is no spike to speak of
_SLOW = 1.5  # a late loss of so many times the unchanged one, from one start, is not tried from others
_EDGE = 0.95  # stability ratio
_FAILED = 10.0  # a late loss that is so many times the unchanged one
_LATER = 1.5  # a first spike that comes so many times later is postponed


@dataclass(frozen=True)
class Candidate:
    """A change that may help.

    Attributes:
        change: In the words of `parse_change`.
        size: How large a change it is: 1 small, 2, 3 large.
        words: What it means, in words.
    """

    change: str
    size: int
    words: str


@dataclass(frozen=True)
class Trial:
    """What one change came to, over all starts.

    Attributes:
        candidate: The change.
        effect: ``removes``: no spike, from any start. ``postpones``: the first one comes much later.
            ``fewer``: at most half as many. ``fails``: the training ends in NaN, or its late loss is ten
            times the unchanged one. Else ``no help``.
        spikes: Numbers of spikes that count, one for each start: not those of the first 50 steps, nor those
            less than a quarter as high as they usually were.
        highest: Height of the highest of all; NaN if it has none that can be told.
        first: Median number of steps up to the first of them, or the length of the window.
        loss: Late loss as a multiple of the unchanged one, the median over the starts.
        ratio: Stability ratio after the window, the median; NaN if unknown.
    """

    candidate: Candidate
    effect: Effect
    spikes: tuple[int, ...]
    highest: float
    first: float
    loss: float
    ratio: float

    @property
    def starts(self) -> int:
        """From how many starts it was tried: one, if that one was enough to rule it out."""
        return len(self.spikes)

    @property
    def is_free(self) -> bool:
        """Whether the late loss is no higher than it was."""
        return self.loss <= _LOSS

    @property
    def at_edge(self) -> bool:
        """Whether it ends at the edge of stability, where spikes may come back."""
        return self.ratio >= _EDGE


@dataclass(frozen=True)
class WholeTrial:
    """What one change came to from the first step of the run on, over all starts.

    Attributes:
        candidate: The change.
        spikes: Numbers of spikes that count, one for each start: for one alone, if that was enough to rule it
            out.
        unchanged: The same of the run as it was, from these starts.
        losses: Late losses, one for each start, as multiples of that of the run as it was, its median.
    """

    candidate: Candidate
    spikes: tuple[int, ...]
    unchanged: tuple[int, ...]
    losses: tuple[float, ...]

    @property
    def loss(self) -> float:
        """The median of `losses`."""
        return statistics.median(self.losses)

    @property
    def holds(self) -> bool:
        """Whether it is better from every start: no higher loss, and at most half of the spikes in all."""
        return max(self.losses) <= 1 and 2 * sum(self.spikes) <= sum(self.unchanged)


@dataclass(frozen=True)
class Advice:
    """Which change to make.

    Attributes:
        chosen: The smallest change that removes the spikes and costs nothing; None if there is none, or no
            spike. Where changes were tried from the first step of the run on, too, it holds there.
        trials: What all of them came to in the window.
        unchanged: Numbers of spikes that count in the window as it was, one for each start.
        steps: Length of the window.
        failed: From how many starts the window as it was ends in a loss that is no number.
        whole: What those that do well in the window came to from the first step on, as far as they were
            tried; the last one is `chosen` if there is one.
        whole_steps: How many steps that took; 0 if it wasn't tried.
    """

    chosen: Trial | None
    trials: tuple[Trial, ...]
    unchanged: tuple[int, ...]
    steps: int
    failed: int = 0
    whole: tuple[WholeTrial, ...] = ()
    whole_steps: int = 0

    @property
    def has_trouble(self) -> bool:
        """Whether there is anything to remove."""
        return any(self.unchanged) or self.failed > 0

    @property
    def postponing(self) -> tuple[Trial, ...]:
        """Those that only postpone."""
        return tuple(trial for trial in self.trials if trial.effect == "postpones")

    def as_mapping(self) -> dict[str, Any]:
        """Return the advice as plain values, for JSON; None for what is not finite."""
        found: dict[str, Any] = finite_or_none(
            {
                "advice": None if self.chosen is None else self.chosen.candidate.change,
                "steps": self.steps,
                "unchanged_spikes": list(self.unchanged),
                "whole_steps": self.whole_steps,
                "whole": [
                    {
                        "change": one.candidate.change,
                        "spikes": list(one.spikes),
                        "unchanged_spikes": list(one.unchanged),
                        "losses": list(one.losses),
                    }
                    for one in self.whole
                ],
                "trials": [
                    {
                        "change": trial.candidate.change,
                        "size": trial.candidate.size,
                        "effect": trial.effect,
                        "spikes": list(trial.spikes),
                        "highest": trial.highest,
                        "first": trial.first,
                        "loss": trial.loss,
                        "ratio": trial.ratio,
                    }
                    for trial in self.trials
                ],
            }
        )
        return found


def candidates(
    options: Mapping[str, Any], gradient_norms: Sequence[float] = (), *, guarded: bool = True
) -> tuple[Candidate, ...]:
    """Return changes that are worth a try.

    Args:
        options: Options of the optimizer's first group.
        gradient_norms: Norms of the calm steps before, from which thresholds of clipping follow.
        guarded: Whether the optimizer can have a guard.

    Example:
        >>> [one.change for one in candidates({"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8})]
        ['guard=on', 'beta2=0.9', 'eps=x100', 'eps=x10000', 'lr=x0.7', 'lr=x0.5', 'lr=x0.25']
    """
    found = []
    betas = options.get("betas")
    # RMSprop calls it alpha; that of ASGD, which has no ε, is the exponent of its rate.
    if betas is not None or ("alpha" in options and "eps" in options):
        if guarded:
            words = "foreshock.guard(optimizer), with measure; all settings stay"
            found.append(Candidate("guard=on", 1, words))
        beta2 = float(betas[1] if betas is not None else options["alpha"])
        lower = [one for one in _BETA2 if one < beta2]
        found += [
            Candidate(f"beta2={one:g}", size, f"β₂ = {one:g} instead of {beta2:g}")
            for size, one in enumerate(lower, 1)
        ]
    eps = options.get("eps")
    if isinstance(eps, float) and eps > 0:
        fitting = [one for one in _EPS if eps * one <= _LARGEST_EPS]
        found += [
            Candidate(f"eps=x{one:g}", size, f"ε = {eps * one:g} instead of {eps:g}")
            for size, one in enumerate(fitting, 1)
        ]
    usual = [one for one in gradient_norms if math.isfinite(one) and one > 0]
    if len(usual) >= 10:
        middle = statistics.median(usual)
        found += [
            Candidate(
                f"clip={factor * middle:.3g}", size, f"the gradient norm clipped to {factor * middle:.3g}"
            )
            for size, factor in enumerate((2.0, 1.0), 1)
        ]
    found += [
        Candidate(f"lr=x{one:g}", size, f"{one:g} × the learning rate") for size, one in enumerate(_RATES, 1)
    ]
    return tuple(found)


def choose_start(starts: Sequence[int], recorded: Sequence[tuple[int, float]], steps: int) -> int:
    """Return from which of several snapshots to try changes: the place of the best one.

    The last one whose window has a recorded spike that counts; else the last one whose window lies within the
    record; else the first.

    Args:
        starts: Steps of the snapshots, increasing, at least one.
        recorded: Steps and losses of the log.
        steps: Length of the window.
    """
    events = detect_events([step for step, _ in recorded], [loss for _, loss in recorded])
    onsets = [event.onset for event in events if event.kind != "climb"]
    last = recorded[-1][0] if recorded else -1
    inside = [place for place, start in enumerate(starts) if start + steps <= last]
    spiky = [
        place
        for place, start in enumerate(starts)
        if any(start + UNDERWAY < onset <= start + steps for onset in onsets)
    ]
    both = [place for place in spiky if place in inside]
    return (both or spiky or inside or [0])[-1]


def choose(
    tried: Sequence[Candidate],
    outcomes: Sequence[Sequence[ReplayOutcome]],
    unchanged: Sequence[ReplayOutcome],
) -> Advice:
    """Choose the smallest change that removes the spikes of a window and costs nothing there.

    Of several that do, those count that do not end at the edge of stability, if there are any, and of these
    the ones whose late loss is near the lowest.

    Args:
        tried: The changes.
        outcomes: What each came to, from the same starts as `unchanged`, or the first of them: one that was
            not tried from all is not chosen.
        unchanged: What the window came to as it was.

    Raises:
        ValueError: If a change has no outcome, or more than there are starts.
    """
    if not unchanged or not all(1 <= len(one) <= len(unchanged) for one in outcomes):
        raise ValueError(
            f"each change must have 1 to {len(unchanged)} outcomes, as many as the window as it was or the "
            f"first of them; they have {[len(one) for one in outcomes]}"
        )
    trials = tuple(_judged(one, came, unchanged) for one, came in zip(tried, outcomes, strict=True))
    chosen = next(iter(promising(trials, len(unchanged))), None)
    counts, steps = _counts(unchanged, _least(unchanged)), max(len(one.losses) for one in unchanged)
    return Advice(chosen, trials, counts, steps, _failed(unchanged))


def promising(trials: Sequence[Trial], starts: int) -> list[Trial]:
    """Return those that remove the spikes of a window and cost nothing there, the one to choose first.

    Args:
        trials: What all came to.
        starts: From how many starts one has to be tried.
    """
    good = [one for one in trials if one.effect == "removes" and one.is_free and one.starts >= starts]
    # What ends at the edge may only postpone them beyond the window.
    safe = [trial for trial in good if not trial.at_edge] or good
    lowest = min((trial.loss for trial in safe), default=math.nan)
    near = [trial for trial in safe if trial.loss <= lowest * _NEAR or trial.loss == lowest]
    near.sort(key=lambda trial: (trial.candidate.size, trial.loss))
    return near + sorted((one for one in good if one not in near), key=lambda one: (one.at_edge, one.loss))


def is_ruled_out(candidate: Candidate, came: ReplayOutcome, unchanged: Sequence[ReplayOutcome]) -> bool:
    """Return whether one outcome is enough not to choose a change: it spikes, fails, or is far too slow.

    Args:
        candidate: The change.
        came: What it came to from the first start.
        unchanged: What the window came to as it was, from all starts.
    """
    trial = _judged(candidate, [came], unchanged)
    return trial.effect != "removes" or trial.loss > _SLOW


def judge_whole(
    candidate: Candidate, came: Sequence[ReplayOutcome], unchanged: Sequence[ReplayOutcome]
) -> WholeTrial:
    """Return what a change came to from the first step of the run on.

    Args:
        candidate: The change.
        came: Its outcomes.
        unchanged: Those of the run as it was, from the same starts.
    """
    usual = statistics.median(one.late_loss for one in unchanged)
    least = _least(unchanged)
    counts, before = (_counts(some, least) for some in (came, unchanged[: len(came)]))
    return WholeTrial(candidate, counts, before, tuple(_ratio(one.late_loss, usual) for one in came))


def _judged(candidate: Candidate, came: Sequence[ReplayOutcome], unchanged: Sequence[ReplayOutcome]) -> Trial:
    least = _least(unchanged)
    has_trouble = any(_counts(unchanged, least)) or _failed(unchanged) > 0
    unchanged = unchanged[: len(came)]  # of the same starts
    spikes, unchanged_spikes = _counts(came, least), _counts(unchanged, least)
    first, before = (statistics.median(_first(one, least) for one in some) for some in (came, unchanged))
    loss = _ratio(
        statistics.median(one.late_loss for one in came),
        statistics.median(one.late_loss for one in unchanged),
    )
    ratios = [one.stability_ratio for one in came if not math.isnan(one.stability_ratio)]
    effect: Effect = "no help"
    if any(math.isinf(one.late_loss) for one in came) or loss > _FAILED:
        effect = "fails"
    elif not has_trouble:
        effect = "no help"  # there is nothing to remove
    elif not any(spikes):
        effect = "removes"
    elif first >= _LATER * before:
        effect = "postpones"
    elif 2 * sum(spikes) <= sum(unchanged_spikes):
        effect = "fewer"
    highest = max((event.height for one in came for event in _late(one, least)), default=math.nan)
    return Trial(
        candidate, effect, spikes, highest, first, loss, statistics.median(ratios) if ratios else math.nan
    )


def _failed(outcomes: Sequence[ReplayOutcome]) -> int:
    return sum(math.isinf(one.late_loss) for one in outcomes)


def _counts(outcomes: Sequence[ReplayOutcome], least: float) -> tuple[int, ...]:
    return tuple(len(_late(one, least)) for one in outcomes)


def _late(outcome: ReplayOutcome, least: float = 0.0) -> list[LossEvent]:
    """Return the spikes that count: not on their way at the start, and of at least some rise."""
    late = outcome.start + UNDERWAY
    return [
        event
        for event in outcome.spikes
        if event.kind == "non-finite" or (event.onset > late and not event.rise < least)
    ]


def _first(outcome: ReplayOutcome, least: float) -> int:
    late = _late(outcome, least)
    return late[0].onset - outcome.start if late else len(outcome.losses)


def _least(unchanged: Sequence[ReplayOutcome]) -> float:
    """Return the rise from which on a spike counts: that of a smooth loss shows the smallest tremor."""
    rises = [event.rise for one in unchanged for event in _late(one) if math.isfinite(event.rise)]
    return _SMALL * statistics.median(rises) if rises else 0.0


def _ratio(one: float, other: float) -> float:
    """Return one loss over another; where one is not positive, 1 + difference over modulus."""
    if not math.isfinite(other):
        return 1.0 if not math.isfinite(one) else 0.0
    if one > 0 and other > 0:
        return one / other
    return 1 + (one - other) / max(abs(other), 1e-300)
