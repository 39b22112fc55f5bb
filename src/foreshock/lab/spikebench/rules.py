"""Alarm rules of practice and of the literature, all reading the same traces.

A rule is a score that may rise at any step, and a threshold above which it is an alarm. To add one, write a
function of a trace and an entry in `RULES`.

The rules on the mean-square edge read pairs of half-batches. With r₀ the mean curvature along w, and S and
S_w the squared half-difference and its part along w, each an average of about eight measurements, and f the
noise factor,

    MSS = r₀ + f·S/r₀,    F = R₂ + e/(1 − r₀ − e),    R₂ = f(S − S_w)/r₀,    e = f·S_w/(2r₀)

(F = 1 is the exact edge for batches of Gaussian rows). Both are undefined before the fifth measurement and
while r₀ ≤ 0.
In full batch the noise is zero and both are the stability ratio, which is used where no pairs were recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from foreshock.lab.spikebench.trace import Column, Trace
from foreshock.lab.spikebench.windows import (
    Floats,
    moving_average,
    previous,
    ratio,
    trailing_max,
    trailing_mean,
    trailing_min,
)

_SPAN, _LEAST = 100, 20
"""Steps of the running mean, median and deviation; with fewer than 20 values a deviation means nothing."""
_SLACK, _LIMIT = 0.5, 4.0
"""CUSUM, in deviations: what a step must exceed to count, and the most that one step counts."""
_TIME = 30
"""Steps of the exponential averages: far fewer than v remembers, 1/(1 − β₂) = 1,000 at β₂ = .999."""
_AVERAGED_PAIRS, _LEAST_PAIRS = 8, 5
"""Pairs of half-batches that are averaged, and how many are needed: a single pair is mostly noise."""
_LAGGING = 3.0
_PAPER = "2506.04805, gᵀĤg/‖g‖² over 2/η"
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


def _deviations(column: Column, span: int, least: int) -> Floats:
    """Return by how many standard deviations of the `span` steps before it each value exceeds their mean."""
    excess = column.values - previous(np.mean, column, span, least)
    return ratio(excess, previous(np.std, column, span, least))


def _loss_score(trace: Trace) -> Column:
    loss = trace.column("loss")
    return Column(loss.steps, _deviations(loss, _SPAN, _LEAST))


def _cumulative(trace: Trace) -> Column:
    """Return S = max(0, S + z − ½), z the deviation, held within ±4 so that one step can't fill S."""
    loss = trace.column("loss")
    deviations = np.clip(np.nan_to_num(_deviations(loss, _SPAN, _LEAST), nan=0.0), -_LIMIT, _LIMIT)
    sums = np.zeros(deviations.size)
    total = 0.0
    for i, deviation in enumerate(deviations):
        total = max(0.0, total + float(deviation) - _SLACK)
        sums[i] = total
    return Column(loss.steps, sums)


def _skip_step(trace: Trace) -> Column:
    """Return the larger deviation of loss and gradient norm, over 128 steps, from the 64th on."""
    loss, norm = trace.column("loss"), trace.column("gradient_norm")
    deviations = np.fmax(
        _deviations(loss, 128, 64), Column(norm.steps, _deviations(norm, 128, 64)).held(loss.steps)
    )
    return Column(loss.steps, deviations)


def _over_median(name: str) -> Callable[[Trace], Column]:
    def score(trace: Trace) -> Column:
        column = trace.column(name)
        return Column(column.steps, ratio(column.values, previous(np.median, column, _SPAN)))

    return score


def _update_rms(trace: Trace) -> Column:
    return trace.column("update_rms")


def lag(trace: Trace) -> Column:
    """Return the largest Σv̂/E₃₀‖g‖² of the last 50 steps: how much v remembers of larger gradients."""
    norm, moment = trace.column("gradient_norm"), trace.column("second_moment")
    squares = moving_average(Column(norm.steps, norm.values**2), _TIME)
    return Column(norm.steps, trailing_max(ratio(moment.held(norm.steps), squares), 50))


def trust_region(trace: Trace) -> Column:
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


def _pairs(trace: Trace) -> tuple[Floats, Floats, Floats]:
    """Return r₀, f·S/r₀ and f·S_w/r₀."""
    mean = _average(trace.column("pair_mean").values)
    usable = np.where((mean > 0) & (np.arange(mean.size) >= _LEAST_PAIRS - 1), mean, np.nan)
    factor = trace.column("noise_factor").held(trace.column("pair_mean").steps)
    square = factor * ratio(_average(trace.column("pair_square").values), usable)
    along = factor * ratio(_average(trace.column("pair_along").values), usable)
    return usable, square, along


def _average(values: Floats) -> Floats:
    """Return the exponential average over about eight measurements, whatever the steps between them."""
    order = np.arange(values.size)
    return moving_average(Column(order, values), _AVERAGED_PAIRS)


def _mean_square(mean: Floats, square: Floats, along: Floats) -> Floats:  # noqa: ARG001
    return mean + square


def _feedback(mean: Floats, square: Floats, along: Floats) -> Floats:
    own = along / 2
    room = 1 - mean - own
    return np.where(room > 0, square - along + ratio(own, room), np.where(np.isnan(room), np.nan, np.inf))


def _from_pairs(formula: Callable[[Floats, Floats, Floats], Floats]) -> Callable[[Trace], Column]:
    def score(trace: Trace) -> Column:
        steps = trace.column("pair_mean").steps
        return Column(steps, formula(*_pairs(trace))) if steps.size else trace.column("stability_ratio")

    return score


def _armed(score: Callable[[Trace], Column]) -> Callable[[Trace], Column]:
    """Return the score where v lags by more than three, else zero."""

    def armed(trace: Trace) -> Column:
        column = score(trace)
        return Column(column.steps, np.where(lag(trace).held(column.steps) > _LAGGING, column.values, 0.0))

    return armed


_MSS = _from_pairs(_mean_square)


RULES: tuple[Rule, ...] = (
    Rule("loss z-score", "the last 100 steps' mean and deviation", (), _loss_score, 3.0),
    Rule("CUSUM of the loss", "Page 1954, slack ½ and limit 5 deviations", (), _cumulative, 5.0),
    Rule("SkipStep 6σ", "OLMo: loss or gradient norm over 128 steps", (), _skip_step, 6.0),
    Rule("gradient norm", "‖g‖ over its 100-step median", (), _over_median("gradient_norm"), 3.0),
    Rule("update norm", "‖Δθ‖ over its 100-step median", (), _over_median("update_norm"), 2.0),
    Rule("update RMS", "largest RMS(g/√v̂) of a tensor, after 2304.13013", (), _update_rms, 2.3),
    Rule("activation kurtosis", "over its 100-step median", ("kurtosis",), _over_median("kurtosis"), 2.0),
    Rule("λ_max(H)", "over its 100-step median", ("sharpness",), _over_median("sharpness"), 1.5),
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
    Rule("trust-region ratio", "1 − E₃₀ΔL/E₃₀(gᵀΔθ), same batch", ("trial",), trust_region, 0.9),
    Rule("lag of v", "Σv̂/E₃₀‖g‖², maximum of 50 steps", (), lag, 3.0),
    Rule("preconditioned gradient", "√(E₅[gᵀD⁻¹g]/its 100-step median)", (), _trigger, 1.5),
    Rule("MSS of pairs", "mean-square edge along w", ("pair",), _MSS, 0.95),
    Rule("MSS, armed by lag > 3", "the same while v lags", ("pair",), _armed(_MSS), 0.95),
    Rule("F of pairs", "mean-square edge of all modes together", ("pair",), _from_pairs(_feedback), 1.0),
)
"""All rules, in the order in which tables have them."""
