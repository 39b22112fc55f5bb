"""What a rule is: a score that may rise at any step, and the threshold above which it is an alarm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from foreshock.lab.spikebench.trace import Column, Trace

# One column that each kind of measurement writes: where it has entries, the measurement was made.
_RECORDS = {
    "probe": "stability_ratio",
    "pair": "pair_mean",
    "sharpness": "sharpness",
    "batch_sharpness": "batch_sharpness",
    "critical_rate": "critical_rate",
    "kurtosis": "kurtosis",
    "trial": "trial_change",
}


@dataclass(frozen=True)
class Rule:
    """An alarm rule.

    Attributes:
        name: What tables call it.
        source: Where it comes from.
        cost: Kinds of measurement that it needs, as in `costs` of a trace; none for what every step has.
        score: Scores of a trace at the rule's own steps; NaN where it is undefined, which is no alarm. The
            score at a step uses nothing later; the loss of a step is known at that step.
        default: Alarm while the score is above this.
    """

    name: str
    source: str
    cost: tuple[str, ...]
    score: Callable[[Trace], Column]
    default: float


def cost_per_step(rule: Rule, trace: Trace) -> float:
    """Return what the rule's measurements cost in this trace, in forward and backward passes (F) a step.

    A rule of pairs uses probes where there are no pairs, and is charged for those.

    Raises:
        ValueError: If the trace does not say what such a measurement costs.
    """
    total = 0.0
    for kind in rule.cost:
        made = kind
        if kind == "pair" and not trace.column("pair_mean").steps.size:
            made = "probe"
        count = trace.column(_RECORDS[made]).steps.size
        if not count:
            continue
        if made not in trace.meta["costs"]:
            raise ValueError(f"costs of {trace.meta['name']!r} lack {made!r}; record what one costs, in F")
        total += count * float(trace.meta["costs"][made])
    return total / trace.column("loss").steps.size
