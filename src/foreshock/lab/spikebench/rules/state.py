"""Rules on the state of Adam: how far v lags, how well a step does what the gradient promised."""

from __future__ import annotations

import numpy as np

from foreshock.lab.spikebench.rules.rule import Rule
from foreshock.lab.spikebench.trace import Column, Trace
from foreshock.lab.spikebench.windows import moving_average, previous, ratio, trailing_max

_TIME = 30


def lag(trace: Trace) -> Column:
    """Return the largest Σv̂/E₃₀‖g‖² of the last 50 steps: how much v remembers of larger gradients."""
    norm, moment = trace.column("gradient_norm"), trace.column("second_moment")
    squares = moving_average(Column(norm.steps, norm.values**2), _TIME)
    return Column(norm.steps, trailing_max(ratio(moment.held(norm.steps), squares), 50))


def _trust(trace: Trace) -> Column:
    """Return 1 − E₃₀ΔL/E₃₀(gᵀΔθ): 0 where the loss falls as promised, 1 where it stands still.

    Undefined while the steps do not descend on average.
    """
    change, linear = trace.column("trial_change"), trace.column("trial_linear")
    promised = Column(change.steps, moving_average(Column(change.steps, linear.held(change.steps)), _TIME))
    kept = ratio(moving_average(change, _TIME), promised.values)
    return Column(change.steps, np.where(promised.values < 0, 1 - kept, np.nan))


def _trigger(trace: Trace) -> Column:
    """Return √(E₅[gᵀD⁻¹g] over its median of the 100 steps before)."""
    square = trace.column("preconditioned_square")
    mean = Column(square.steps, moving_average(square, 5))
    return Column(square.steps, np.sqrt(ratio(mean.values, previous(np.median, mean, 100))))


STATE_RULES = (
    Rule("trust-region ratio", "1 − E₃₀ΔL/E₃₀(gᵀΔθ), same batch", ("trial",), _trust, 0.9),
    Rule("lag of v", "Σv̂/E₃₀‖g‖², maximum of 50 steps", (), lag, 3.0),
    Rule("preconditioned gradient", "√(E₅[gᵀD⁻¹g]/its 100-step median)", (), _trigger, 1.5),
)
