"""What to do about a run: what its log advises, the most urgent first."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from foreshock.report.evidence import BATCH, CURVATURE, DATA, DECAY, GRADIENT, NOISE, RATE, UNKNOWN
from foreshock.report.words import SMALL, listed, number, percent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from foreshock.report.summary import RunSummary
    from foreshock.spikes import LossEvent

_OVERFLOW = "overflow"
_LOW = 3.0  # times the level: what a guard leaves below it does no harm
_OFTEN = 0.5  # share of the steps from which an alarm, or not knowing, is the rule

# What the project's own experiments say helps: docs/explanation/principles.md.
_REMEDIES = {
    GRADIENT: (
        "Skip a step whose gradient is not finite: torch.amp.GradScaler does, and so does "
        "clip_grad_norm_(…, error_if_nonfinite=True) inside try."
    ),
    BATCH: "Keep the batch size the same: drop_last=True in the DataLoader leaves out a short last batch.",
    RATE: "Warm up over more steps, or to a lower learning rate.",
    DECAY: (
        "foreshock.guard(optimizer) removes such spikes by raising v. Otherwise a β₂ closer to β₁, or an ε "
        "of the size of √v."
    ),
    CURVATURE: "Lower the learning rate for good: if it is cut for a while only, spikes come back higher.",
    NOISE: "foreshock.guard(optimizer) removes such spikes. Otherwise a β₂ closer to β₁, or larger batches.",
}


def advice(summary: RunSummary) -> Iterator[str]:
    """Yield what to do, a sentence or two each, the most urgent first.

    Args:
        summary: The run in numbers.
    """
    yield from misuse(summary)
    yield from _go_back(summary)
    if summary.failures or not summary.highest < SMALL:
        yield from _against_causes(summary)
    yield from _measure_more(summary)
    if not summary.failures and not _has_spikes(summary) and not _has_fault(summary):
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


def remedy(label: str) -> str:
    """Return what helps against a cause; empty if no general rule is known.

    Args:
        label: One of the labels of `foreshock.report.evidence`.
    """
    return _REMEDIES.get(label, "")


def go_back(event: LossEvent, last_step: int | None) -> str:
    """Return what an event that cost the run asks for, a checkpoint from before it; empty if it did not.

    Args:
        event: What happened to the loss.
        last_step: Last step of the run with a loss; None without any.
    """
    if event.kind == "divergence":
        return f"Go back to a checkpoint from before step {event.onset:,}: the loss did not recover."
    if event.kind == "non-finite" and event.end == last_step:
        return f"Go back to a checkpoint from before step {event.onset:,}: nothing after it can be used."
    return ""


def _go_back(summary: RunSummary) -> Iterator[str]:
    words = filter(None, (go_back(event, summary.last_step) for event in summary.failures))
    first = next(words, "")
    if first:
        yield first
    elif summary.climbs:
        onset = summary.climbs[0].onset
        yield f"Try a lower learning rate from before step {onset:,} on, and see whether the data changed."


def _against_causes(summary: RunSummary) -> Iterator[str]:
    if summary.guard and summary.guard[1] and not summary.failures and summary.highest < _LOW:
        yield f"Nothing needs to be done: the guard acted, and no spike is above {number(summary.highest)}×."
        return
    at: dict[str, list[int]] = {}
    for outcome, evidence in zip(summary.outcomes, summary.evidence, strict=True):
        overflow = evidence.cause == UNKNOWN and outcome.spike.first_non_finite == outcome.spike.onset
        at.setdefault(_OVERFLOW if overflow else evidence.cause, []).append(outcome.spike.onset)
    for label, _ in Counter({label: len(steps) for label, steps in at.items()}).most_common():
        if label == DATA:
            yield f"Look at the data of {listed(at[label])}: wrong labels, another source, a broken example."
        elif label in _REMEDIES and not (summary.guard and label in (DECAY, NOISE)):
            yield _REMEDIES[label]
    if summary.guard and summary.guard[1] and at.keys() & {DECAY, NOISE}:
        yield "The guard acted and did not remove all spikes: the learning rate may be too high in itself."
    if _OVERFLOW in at:
        where = listed(at[_OVERFLOW], most=3)
        yield f"Look at the batch and the weights of {where}; in half precision, at what can overflow."
    if UNKNOWN in at:
        where = listed(at[UNKNOWN], most=3)
        yield f"At {where}, look for what changed, and at the data; else a lower learning rate, or a guard."


def _measure_more(summary: RunSummary) -> Iterator[str]:
    probes, coverage = summary.probes, summary.coverage
    if probes.last_error and probes.failed > probes.count + probes.noise:
        yield f"Mend the probes, most of which failed: {probes.last_error}"
    elif not probes.count + probes.noise and not summary.non_finite_losses:
        yield "Give the monitor a loss_fn: without curvature nothing is forecast."
    elif coverage.unknown > _OFTEN and not summary.non_finite_losses:
        share = percent(coverage.unknown)
        yield f"Measure more often (budget=, probe_every=): for {share} of the steps nothing was known."
    if coverage.in_alarm > _OFTEN:
        share = percent(coverage.in_alarm)
        yield (
            f"Don't act on a single alarm: it was on for {share} of the steps. This run lives at the edge; a "
            "lower learning rate would leave it."
        )


def _has_spikes(summary: RunSummary) -> bool:
    """Whether there are spikes that ask for something: small ones pass by themselves."""
    return bool(summary.spikes) and not summary.highest < SMALL


def _has_fault(summary: RunSummary) -> bool:
    measured = summary.probes.count + summary.probes.noise
    rare = any(share > _OFTEN for share in (summary.coverage.unknown, summary.coverage.in_alarm))
    return (
        not measured
        or summary.probes.failed > measured
        or rare
        or any(event.is_misuse for event in summary.events)
    )
