"""What to do about a run: what its log advises, the most urgent first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foreshock.explain import advise
from foreshock.report.ranks import ADVICE
from foreshock.report.words import number, percent
from foreshock.words import first_few

if TYPE_CHECKING:
    from collections.abc import Iterator

    from foreshock.report.summary import RunSummary

_LOW = 3.0  # times the level: what a guard leaves below it does no harm
WATCH_NEXT = (
    "Watch the next run with foreshock.Monitor: an imported log has no curvature, which forecasts need."
)
GIVE_LOSS = "Give the monitor a loss_fn: without curvature nothing is forecast."
WATCH_FLAT = (
    "More measurements say no more while the loss is flat. v decays meanwhile, so the first gradients after "
    "it make large steps."
)
_OFTEN = 0.5  # share of the steps from which an alarm, or not knowing, is the rule


def advice(summary: RunSummary) -> Iterator[str]:
    """Yield what to do, a sentence or two each, the most urgent first.

    Args:
        summary: The run in numbers.
    """
    yield from misuse(summary)
    yield from _of_ranks(summary)
    yield from _of_cooldowns(summary)
    yield from _after(summary)
    yield from _measure_more(summary)
    if not summary.explanations and not _has_fault(summary):
        yield "Nothing needs to be done."


def misuse(summary: RunSummary) -> Iterator[str]:
    """Yield what the log says of a wrong use of Foreshock itself: it may make all else untrue.

    Args:
        summary: The run in numbers.
    """
    for event in summary.events:
        if event.is_misuse:
            what = event.name.partition(":")[2].strip()
            yield f"{what[:1].upper()}{what[1:]} ({event.when}): {event.message}" if what else event.message


def _of_ranks(summary: RunSummary) -> Iterator[str]:
    """Yield what to do about ranks that depart from the others, the same advice once."""
    found: dict[str, list[int]] = {}
    for one in () if summary.ranks is None else summary.ranks.departures:
        ranks = found.setdefault(one.what, [])
        if one.rank not in ranks:
            ranks.append(one.rank)
    for what, ranks in found.items():
        who = "Rank" if len(ranks) == 1 else "Ranks"
        yield f"{who} {first_few(ranks)} ({what}): {ADVICE[what]}."


def _of_cooldowns(summary: RunSummary) -> Iterator[str]:
    """Yield what the guard found: where it had to act again and again, it is not what helps."""
    for event in summary.events:
        if event.is_cooldown:
            yield (
                "Lower the learning rate, or warm it up for longer: the guard found it too high in itself "
                f"({event.when})."
            )


def _after(summary: RunSummary) -> Iterator[str]:
    """Yield what the events of the loss ask for."""
    acted = summary.guard is not None and summary.guard[1] > 0
    too_high = any(event.is_cooldown for event in summary.events)
    if acted and not too_high and summary.explanations and not summary.failures and summary.highest < _LOW:
        yield f"Nothing needs to be done: the guard acted, and no spike is above {number(summary.highest)}×."
        return
    yield from advise(summary.explanations, guarded=summary.guard is not None)


def _measure_more(summary: RunSummary) -> Iterator[str]:
    probes, coverage = summary.probes, summary.coverage
    if probes.last_error and probes.failed > probes.count + probes.noise:
        which = "most" if probes.count + probes.noise else "all"
        yield f"Mend the probes, {which} of which failed: {probes.last_error.rstrip('.')}."
    elif not probes.count + probes.noise and not summary.non_finite_losses:
        yield WATCH_NEXT if summary.imported else GIVE_LOSS
    elif coverage.unknown > _OFTEN and not summary.non_finite_losses:
        share = percent(coverage.unknown)
        if summary.flat:
            yield WATCH_FLAT
            return
        yield f"Measure more often (budget=, probe_every=): for {share} of the steps nothing was known."
    if coverage.in_alarm > _OFTEN:
        share = percent(coverage.in_alarm)
        # Where v forgets, a lower rate only postpones the edge, which is said beside.
        named = {cause.name for one in summary.explanations for cause in one.causes}
        leaves = "" if "preconditioner lag" in named else "; a lower learning rate would leave it"
        yield (
            f"Don't act on a single alarm: it was on for {share} of the steps. This run lives at the "
            f"edge{leaves}."
        )


def _has_fault(summary: RunSummary) -> bool:
    measured = summary.probes.count + summary.probes.noise
    rare = any(share > _OFTEN for share in (summary.coverage.unknown, summary.coverage.in_alarm))
    return (
        not measured
        or summary.probes.failed > measured
        or rare
        or any(event.is_misuse or event.is_cooldown for event in summary.events)
        or (summary.ranks is not None and bool(summary.ranks.departures))
    )
