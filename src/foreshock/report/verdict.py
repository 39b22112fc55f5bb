"""The verdict on a run: what happened, why as far as that is known, and what to do."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foreshock.report.advice import advice, misuse
from foreshock.report.words import SMALL, count, height, listed, number, percent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from foreshock.explain import Explanation
    from foreshock.report.summary import RunSummary
    from foreshock.spikes import LossEvent

OBSERVE = "Call monitor.observe(batch, loss) at every step."
"""What to do where no loss was recorded."""

_FAILURES_SHOWN = 3
_CAUSES_SHOWN = 3


@dataclass(frozen=True)
class Verdict:
    """What a reader must know of a run first.

    Attributes:
        happened: What happened, in one sentence without a full stop.
        why: Why, as far as the log knows, a sentence each; that it is not known where it is not.
        advice: What to do, a sentence each, the most urgent first.
    """

    happened: str
    why: tuple[str, ...]
    advice: tuple[str, ...]

    def __str__(self) -> str:
        """Return what happened."""
        return self.happened


def verdict(summary: RunSummary) -> Verdict:
    """Return what happened in a run, why, and what to do.

    Args:
        summary: The run in numbers.
    """
    if not summary.steps:
        return Verdict("No losses were recorded", (), tuple(misuse(summary)) or (OBSERVE,))
    return Verdict(_happened(summary), tuple(_why(summary)), tuple(advice(summary)))


def failure(event: LossEvent, last_step: int | None) -> str:
    """Return in words what went wrong with the loss, without a full stop.

    Args:
        event: A divergence, a slow climb, or losses that are not finite.
        last_step: Last step of the run with a loss; None without any.
    """
    if event.first_non_finite is not None:
        first = f"{event.first_non_finite:,}"
        on = f"from step {first} on" if event.end == last_step else f"at step {first}"
        return f"The loss was NaN or infinite {on}"
    levels = f"from {number(event.reference)} to {number(event.reference + event.rise)}"
    if event.kind == "climb":
        return f"The loss climbed {levels} between steps {event.onset:,} and {event.end:,}"
    return f"The loss rose {levels} at step {event.onset:,} and did not come back"


def _happened(summary: RunSummary) -> str:
    failures = summary.failures
    parts = [failure(event, summary.last_step) for event in failures[:_FAILURES_SHOWN]]
    if len(failures) > _FAILURES_SHOWN:
        parts.append(f"and {count(len(failures) - _FAILURES_SHOWN, 'more such event')}")
    parts.append(_spikes(summary))
    return "; ".join([*parts, *_alarms(summary)])


def _spikes(summary: RunSummary) -> str:
    spikes = summary.spikes
    if not spikes:
        return "no spikes besides" if summary.failures else f"No spikes in {count(summary.steps, 'step')}"
    measurable = all(math.isfinite(event.height) for event in spikes)
    highest = max(spikes, key=lambda event: event.height if measurable else event.rise)
    small = measurable and highest.height < SMALL
    words = count(len(spikes), "small spike" if small else "spike")
    return f"{words} ({height(highest)})" if len(spikes) == 1 else f"{words} (up to {height(highest)})"


def _alarms(summary: RunSummary) -> Iterator[str]:
    """What was announced, what was announced in vain, and how much of the run was in alarm for that."""
    if not summary.forecasts:
        measured = summary.probes.count + summary.probes.noise
        missing = "no forecasts were made" if measured else _unmeasured(summary)
        yield f"{missing}, so nothing was announced"
        return
    if summary.outcomes:
        yield _announced(summary)
    yield count(len(summary.false_alarms), "false alarm")
    if summary.answered:
        yield f"{count(len(summary.answered), 'alarm')} answered by the guard"
    share = f"in alarm for {percent(summary.coverage.in_alarm)} of the steps"
    yield f"{share}, state unknown for {percent(summary.coverage.unknown)}"


def _announced(summary: RunSummary) -> str:
    sudden = len(summary.outcomes)
    words = f"{summary.announced} of {sudden} announced"
    if sudden == 1:
        words = "announced" if summary.announced else "not announced"
    if not summary.announced:
        return words
    if not summary.median_lead:
        return f"{words} at their onset" if sudden > 1 else f"{words} at its onset"
    steps = "step" if summary.median_lead == 1 else "steps"
    return f"{words}, {'median ' if sudden > 1 else ''}{number(summary.median_lead)} {steps} ahead"


def _unmeasured(summary: RunSummary) -> str:
    if summary.probes.failed:
        failed = summary.probes.failed
        return f"no curvature was measured ({count(failed, 'probe')} failed)"
    return "no curvature was measured"


def _why(summary: RunSummary) -> Iterator[str]:
    """Ranks that depart; each cause with the events that it explains, of several the numbers of the first."""
    departures = () if summary.ranks is None else summary.ranks.departures
    yield from (f"{one}." for one in departures[:_CAUSES_SHOWN])
    if len(departures) > _CAUSES_SHOWN:
        yield f"{count(len(departures) - _CAUSES_SHOWN, 'more departure')} of ranks in the table."
    grouped: dict[str, list[Explanation]] = {}
    for one in summary.explanations:
        grouped.setdefault(one.named, []).append(one)
    ranked = sorted(grouped.values(), key=lambda members: (not members[0].causes, -len(members)))
    for members in ranked[:_CAUSES_SHOWN]:
        at = listed([one.onset for one in members])
        first = "" if len(members) == 1 or not members[0].causes else ", by the numbers of the first"
        yield f"{at[0].upper()}{at[1:]}{first}: {'; '.join(members[0].why)}.{_missing(members)}"
    if len(ranked) > _CAUSES_SHOWN:
        more = len(ranked) - _CAUSES_SHOWN
        yield f"{count(more, 'other cause')} {'is' if more == 1 else 'are'} in the table of causes."


def _missing(members: Sequence[Explanation]) -> str:
    """What all of some events without a cause lack."""
    if members[0].causes:
        return ""
    lacking = [words for words in members[0].missing if all(words in one.missing for one in members)]
    return "".join(f" {words}" for words in lacking)


def lines(found: Verdict) -> list[str]:
    """Return why and what to do as lines of text: one each, or a list.

    Args:
        found: The verdict on a run.
    """
    shown: list[str] = []
    for title, sentences in (("Why", found.why), ("What to do", found.advice)):
        if len(sentences) == 1:
            shown.append(f"{title}: {sentences[0]}")
        elif sentences:
            shown += [f"{title}:", *(f"  - {sentence}" for sentence in sentences)]
    return shown
