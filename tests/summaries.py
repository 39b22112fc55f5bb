"""A run in numbers, made by hand, and losses as a log has them."""

from __future__ import annotations

import dataclasses
import math

from foreshock.explain import Cause, Explanation, Recovery
from foreshock.report.evidence import Evidence
from foreshock.report.readings import Coverage
from foreshock.report.summary import Probes, RunSummary
from foreshock.spikes import Episode, EventDefinition, LossEvent, SpikeOutcome

PROBES = Probes(40, 0, 4.0, 0.001, 0, 1.0, ("autograd",))
NO_PROBES = dataclasses.replace(PROBES, count=0)


def spike(onset, height, *, reference=1.0):
    return LossEvent("spike", onset, onset + 5, onset + 20, reference, (height - 1) * reference, 0.01)


def outcome(onset, height, announced=None, curvature=None, gradient=None):
    return SpikeOutcome(spike(onset, height), announced, curvature, gradient)


def of(event, announced=None):
    return SpikeOutcome(event, announced, None, None)


def explained(event, *causes, outcome="neutral", **fields):
    """Return an explanation of an event by causes, each a name or a pair of name and words."""
    named = [one if isinstance(one, tuple) else (one, "w") for one in causes]
    values = {
        "kind": event.kind,
        "onset": event.onset,
        "peak": event.peak,
        "end": event.end,
        "reference": event.reference,
        "height": event.height,
        "causes": tuple(Cause(name, 0.8, words) for name, words in named),
        "stages": (),
        "where": (),
        "tensors": None,
        "ids": (),
        "signals": (),
        "recovery": Recovery(outcome, "because"),
        "advice": (),
    }
    return Explanation(**(values | fields))


SUMMARY = RunSummary(
    name="base",
    description="",
    source="runs/base/rank0.jsonl",
    version="0.1.0 (schema 1)",
    starts=1,
    created="",
    steps=2000,
    first_step=0,
    last_step=1999,
    first_loss=2.0,
    last_loss=2.5e-7,
    lowest_loss=2.5e-7,
    non_finite_losses=0,
    outcomes=(
        outcome(400, 38.2, announced=336, curvature=380, gradient=403),
        outcome(800, 3.14, announced=799, curvature=800),
        outcome(1200, 12345.0),
    ),
    evidence=(
        Evidence(1.02, 390, module="blocks.3.attn", share=0.614, probed=True),
        Evidence(0.981, 800, noisy=True, probed=True),
        Evidence(module="head", share=1.0, probed=True),
    ),
    climbs=(),
    false_alarms=(Episode(900, 940, True, 1.0123), Episode(1500, 1500, False, 0.9996)),
    answered=(),
    coverage=Coverage(in_alarm=0.13, unknown=0.004),
    forecasts=40,
    probes=PROBES,
    events=(),
    skipped=0,
    definition=EventDefinition(),
    age_limit=200,
    meta={},
    explanations=tuple(explained(spike(*one)) for one in ((400, 38.2), (800, 3.14), (1200, 12345.0))),
)


def changed(**fields):
    return dataclasses.replace(SUMMARY, **fields)


def only(*outcomes, **fields):
    """Return a run with these outcomes alone, of unknown cause unless explanations are given."""
    fields = {"explanations": tuple(explained(one.spike) for one in outcomes)} | fields
    return changed(outcomes=outcomes, evidence=(Evidence(),) * len(outcomes), **fields)


def calm(**fields):
    return only(false_alarms=(), **fields)


def losses(values, start=0, **columns):
    """Return the step records of some losses, each further column a list of as many values."""
    return [
        ("step", {"step": start + i, "loss": value} | {name: column[i] for name, column in columns.items()})
        for i, value in enumerate(values)
    ]


def reading(step, ratio, gradient=None, **more):
    record = {"step": step, "stability_ratio": ratio, "gradient_stability_ratio": gradient}
    return ("curvature", record | more)


def state(step, name, ratio=0.9, **more):
    return ("forecast", {"step": step, "state": name, "stability_ratio": ratio} | more)


NAN = math.nan
