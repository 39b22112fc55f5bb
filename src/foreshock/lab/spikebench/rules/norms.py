"""Rules on sizes that every step has, and on activations: a quantity over its own recent median."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from foreshock.lab.spikebench.rules.rule import Rule
from foreshock.lab.spikebench.trace import Column, Trace
from foreshock.lab.spikebench.windows import previous, ratio

_SPAN = 100


def _over_median(name: str) -> Callable[[Trace], Column]:
    def score(trace: Trace) -> Column:
        column = trace.column(name)
        return Column(column.steps, ratio(column.values, previous(np.median, column, _SPAN)))

    return score


def _update_rms(trace: Trace) -> Column:
    return trace.column("update_rms")


NORM_RULES = (
    Rule("gradient norm", "‖g‖ over its 100-step median", (), _over_median("gradient_norm"), 3.0),
    Rule("update norm", "‖Δθ‖ over its 100-step median", (), _over_median("update_norm"), 2.0),
    Rule("update RMS", "largest RMS(g/√v̂) of a tensor, after 2304.13013", (), _update_rms, 2.3),
    Rule("activation kurtosis", "over its 100-step median", ("kurtosis",), _over_median("kurtosis"), 2.0),
    Rule("λ_max(H)", "over its 100-step median", ("sharpness",), _over_median("sharpness"), 1.5),
)
