"""A run as chart data: plain values that a page can draw without knowing what they mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from foreshock.forecast import NOISY_EDGE
from foreshock.report.forecasts import fans, steps_until_crossing
from foreshock.report.readings import guard_steps
from foreshock.report.series import Chart, Line, Style, chart, digits
from foreshock.report.words import height
from foreshock.runlog.numbers import as_number
from foreshock.runlog.values import drawn_ratios, numbers, recorded_losses

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from foreshock.report.summary import RunSummary
    from foreshock.runlog import Run

Windows = Sequence[tuple[int, int]]
_MARGIN = 500  # steps around a spike that are drawn in full, at most
_STRETCHES = 1000  # a picture is no wider: actions of a guard that are nearer are drawn as one


def charts(run: Run, windows: Sequence[tuple[int, int]] = ()) -> list[Chart]:
    """Return the charts of a run, in reading order, without those that would be empty.

    Args:
        run: A run as read from its log.
        windows: First and last steps around what is drawn in full in a long run, the most important first.

    Returns:
        JSON-able charts, as `foreshock.report.series.chart` makes them.
    """
    builders = (
        *(_loss, _probability, _ratio, _countdown, _noise, _directions),
        *(_alignment, _gradient_norm, _learning_rate, _lag, _decay),
    )
    built = (build(run, windows) for build in builders)
    return [drawn for drawn in built if drawn is not None]


def marks(run: Run, summary: RunSummary) -> dict[str, Any]:
    """Return what is overlaid on the charts: spikes, warnings, alarms without a spike, a guard's actions.

    Args:
        run: A run as read from its log.
        summary: The same run in numbers.
    """
    spikes = [
        {
            "onset": outcome.spike.onset,
            "peak": outcome.spike.peak,
            "end": outcome.spike.end,
            "announced": outcome.announced,
            "label": "NaN" if outcome.spike.first_non_finite is not None else height(outcome.spike),
        }
        for outcome in summary.outcomes
    ]
    alarms, answered = (
        [{"start": one.start, "end": one.end} for one in episodes]
        for episodes in (summary.false_alarms, summary.answered)
    )
    return {"spikes": spikes, "falseAlarms": alarms, "answered": answered, "actions": action_spans(run)}


def action_spans(run: Run) -> list[tuple[int, int]]:
    """Return the spans of steps in which a guard acted, few enough to draw: near ones are joined.

    Args:
        run: A run as read from its log.
    """
    return joined(guard_steps(run), step_range(run))


def joined(steps: Iterable[int], within: tuple[int, int]) -> list[tuple[int, int]]:
    """Return spans of steps, few enough to draw: near ones are joined.

    Args:
        steps: The steps, in order.
        within: First and last step of the picture.
    """
    reach = max((within[1] - within[0]) // _STRETCHES, 1)
    spans: list[tuple[int, int]] = []
    for step in steps:
        if spans and step - spans[-1][1] <= reach:
            spans[-1] = (spans[-1][0], step)
        else:
            spans.append((step, step))
    return spans


def step_range(run: Run) -> tuple[int, int]:
    """Return the first and the last step of anything in the log, (0, 1) without any.

    Args:
        run: A run as read from its log.
    """
    ends = [row["step"] for rows in run.records.values() if rows for row in (rows[0], rows[-1])]
    first, last = (min(ends), max(ends)) if ends else (0, 1)
    return (first, last) if first < last else (first, first + 1)


def is_logarithmic(values: NDArray[np.float64]) -> bool:
    """Return whether an axis of some values can be logarithmic: whether none of them lies below zero.

    Args:
        values: Values, NaN where there is none, shape (n,).
    """
    finite = values[np.isfinite(values)]
    return not len(finite) or float(finite.min()) >= 0


def _loss(run: Run, windows: Windows) -> Chart | None:
    steps, losses = recorded_losses(run)
    style = Style(log=is_logarithmic(losses), marks="labelled")
    return chart("loss", steps, [Line("loss", "loss", losses)], style, windows=windows)


def _probability(run: Run, windows: Windows) -> Chart | None:
    line = Line("probability", "forecast", numbers(run, "forecast", "probability"))
    if not np.isfinite(line.values).any():
        return None
    style = Style(range=(0.0, 1.0), threshold=alarm_threshold(run))
    return chart("probability", run.steps("forecast"), [line], style, windows=windows)


def alarm_threshold(run: Run) -> float | None:
    """Return the probability from which on a run was in alarm; None if its log has none.

    Args:
        run: A run as read from its log.
    """
    found = as_number(run.meta.get("alarm_at"))
    return found if 0 < found < 1 else None


def _gradient_norm(run: Run, windows: Windows) -> Chart | None:
    line = Line("‖g‖", "gradient", numbers(run, "step", "gradient_norm"))
    return chart("gradient-norm", run.steps("step"), [line], Style(log=True), windows=windows)


def _learning_rate(run: Run, windows: Windows) -> Chart | None:
    line = Line("η", "rate", numbers(run, "step", "learning_rate"))
    return chart("learning-rate", run.steps("step"), [line], Style(), windows=windows)


def _ratio(run: Run, windows: Windows) -> Chart | None:
    steps, values = drawn_ratios(run)
    ratio = Line("λ_max(Ĥ) ÷ (2/η)", "ratio", values)
    style = Style(log=True, threshold=1.0, fans=tuple(fans(run)), clip=ratio_range(ratio.values))
    return chart("ratio", steps, [ratio], style, windows=windows)


def ratio_range(ratio: NDArray[np.float64]) -> tuple[float, float] | None:
    """Return the limits of an axis of the stability ratio; None if there is nothing to draw.

    A run begins far from the threshold, and spends most of its time near it. Three interquartile
    ranges, of the logarithm, on both sides of the quartiles leave room for what matters.

    Args:
        ratio: Stability ratio, NaN where there is none, shape (n,).
    """
    positive = ratio[np.isfinite(ratio) & (ratio > 0)]
    if not len(positive):
        return None
    lower, upper = np.quantile(np.log(positive), [0.25, 0.75])
    reach = 3 * (upper - lower)
    low = max(float(positive.min()), math.exp(lower - reach))
    high = min(float(positive.max()), math.exp(upper + reach))
    return digits(min(low, 0.9)), digits(max(high, 1.1))


def _countdown(run: Run, windows: Windows) -> Chart | None:
    steps = run.steps("forecast")
    expected, low, high = (
        run.column("forecast", name) for name in ("steps_to_instability", "interval_low", "interval_high")
    )
    actual = steps_until_crossing(steps, run.column("forecast", "stability_ratio"))
    if not np.isfinite(expected).any():
        return None
    return chart(
        "countdown",
        steps,
        [
            Line("80 % at most", "bound", high),
            Line("80 % at least", "bound", low),
            Line("forecast", "forecast", expected),
            Line("outcome", "actual", actual),
        ],
        Style(range=(0.0, _countdown_top(expected, actual)), band=(0, 1), follows=3, marks="spikes"),
        windows=windows,
    )


def _countdown_top(expected: NDArray[np.float64], actual: NDArray[np.float64]) -> float:
    """Return the upper limit of the countdown: the outcome decides, else the smaller forecasts.

    The first rise is often many times longer than the later ones; its beginning may leave the axis.
    """
    seen = actual[np.isfinite(actual)]
    starts = seen[1:][np.diff(seen) > 0]
    teeth = np.concatenate((seen[:1], starts))
    if len(teeth) and teeth.max() > 0:
        return float(min(1.2 * teeth.max(), max(3 * np.median(teeth), 100.0)))
    finite = expected[np.isfinite(expected)]
    return max(1.5 * float(np.median(finite)), 10.0)


def _noise(run: Run, windows: Windows) -> Chart | None:
    lines = [
        Line("typical mean-square ratio", "ratio", run.column("forecast", "typical_mean_square_ratio")),
        Line("lag: v above g²", "lag", run.column("forecast", "lag")),
    ]
    if not np.isfinite(lines[0].values).any():
        return None
    return chart(
        "noise", run.steps("forecast"), lines, Style(log=True, threshold=NOISY_EDGE), windows=windows
    )


def _directions(run: Run, windows: Windows) -> Chart | None:
    names = {
        "top direction, λ_max": ("ratio", "stability_ratio"),
        "along the gradient": ("gradient", "gradient_stability_ratio"),
        "along the update": ("update", "update_stability_ratio"),
    }
    lines = [Line(label, role, run.column("curvature", c)) for label, (role, c) in names.items()]
    if not any(np.isfinite(line.values).any() for line in lines[1:]):
        return None
    # Along single directions the curvature may be negative, so the axis is linear and symmetric.
    limits = ratio_range(lines[0].values)
    style = Style(threshold=1.0, clip=None if limits is None else (-limits[1], limits[1]))
    return chart("directions", run.steps("curvature"), lines, style, windows=windows)


def _alignment(run: Run, windows: Windows) -> Chart | None:
    line = Line("alignment", "alignment", run.column("curvature", "alignment"))
    return chart("alignment", run.steps("curvature"), [line], Style(range=(0.0, 1.0)), windows=windows)


def _lag(run: Run, windows: Windows) -> Chart | None:
    line = Line("Σv̂ ÷ Σg²", "lag", run.column("step", "instant_lag"))
    return chart("lag", run.steps("step"), [line], Style(log=True, threshold=1.0), windows=windows)


def _decay(run: Run, windows: Windows) -> Chart | None:
    line = Line("decay exponent", "decay", run.column("step", "decay_exponent"))
    return chart("decay", run.steps("step"), [line], Style(range=(-2.0, 1.5), threshold=1.0), windows=windows)


def spike_windows(summary: RunSummary) -> list[tuple[int, int]]:
    """Return the steps around what happened to the loss, from before its announcement on, the highest first.

    Args:
        summary: The run in numbers.
    """
    found = []
    for outcome in sorted(summary.outcomes, key=lambda one: -one.spike.rise):
        spike = outcome.spike
        first = spike.onset if outcome.announced is None else outcome.announced
        margin = min(max((spike.end - first) // 2, 30), _MARGIN)
        found.append(
            (max(first, spike.onset - _MARGIN) - margin, min(spike.end, spike.peak + _MARGIN) + margin)
        )
    return found


def to_mapping(run: Run, summary: RunSummary) -> Mapping[str, Any]:
    """Return all that a page needs to draw a run: `range`, `marks` and `charts`.

    Args:
        run: A run as read from its log.
        summary: The same run in numbers.
    """
    return {
        "range": step_range(run),
        "marks": marks(run, summary),
        "charts": charts(run, spike_windows(summary)),
    }
