"""Rules on curvature, over the threshold of the full batch: the edge is one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from foreshock.lab.spikebench.rules.rule import Rule
from foreshock.lab.spikebench.trace import Column, Trace
from foreshock.lab.spikebench.windows import ratio, trailing_mean, trailing_min

_PAPER = "2506.04805, gᵀĤg/‖g‖² over 2/η"


def _plain(name: str) -> Callable[[Trace], Column]:
    def score(trace: Trace) -> Column:
        return trace.column(name)

    return score


def _three_probes(trace: Trace) -> Column:
    column = trace.column("gradient_ratio")
    return Column(column.steps, trailing_min(column.values, 3))


def _critical_rate(trace: Trace) -> Column:
    """Return 1 over the multiple of the step at which the loss is back: above one, the step is too long."""
    column = trace.column("critical_rate")
    return Column(column.steps, ratio(np.ones(column.values.size), column.values))


def _batch_sharpness(trace: Trace) -> Column:
    """Return the mean of the last five gᵀHg/‖g‖² · η/2."""
    column = trace.column("batch_sharpness")
    rate = trace.column("learning_rate").held(column.steps)
    return Column(column.steps, trailing_mean(column.values * rate / 2, 5))


CURVATURE_RULES = (
    Rule("λ_grad(Ĥ)", f"{_PAPER}, one probe", ("probe",), _plain("gradient_ratio"), 1.0),
    Rule("λ_grad(Ĥ), 3 probes", f"{_PAPER}, three probes in a row", ("probe",), _three_probes, 1.0),
    Rule("λ_max(Ĥ)", "2207.14484 and 2506.04805, over 2/η", ("probe",), _plain("stability_ratio"), 1.0),
    Rule("λ along the update", "c·uᵀHu/(uᵀDu) over 2/η", ("probe",), _plain("update_ratio"), 1.0),
    Rule(
        "critical learning rate",
        "the idea of 2601.16979, derived anew: η over the rate at which the loss is back",
        ("critical_rate",),
        _critical_rate,
        1.0,
    ),
    Rule("batch sharpness", "2412.20553, over 2/η", ("batch_sharpness",), _batch_sharpness, 1.0),
    Rule("secant", "along the last step, from the gradients of two steps", (), _plain("secant_ratio"), 1.0),
)
