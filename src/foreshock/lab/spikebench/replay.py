"""Foreshock's forecasts of a recorded run: the product's own forecaster, fed from a trace.

It gets what the monitor would have measured: of full batches probes of the curvature, at the stride of the
trace; of mini-batches pairs of half-batches, every 10 steps while v lags and every 50 otherwise. The future
of the learning rate is known to it, as a schedule is, and so is the size of the training set.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from foreshock.dynamics import instant_lag, population_factor
from foreshock.forecast import EdgeReading, Forecast, RunForecaster, noise_interval
from foreshock.lab.spikebench.scores import Replay
from foreshock.lab.spikebench.trace import Trace
from foreshock.monitor.schedule import CURVATURE_PROBE_INTERVAL

_FIELDS = ("stability_ratio", "stability_error", "gradient_ratio", "predicted_change", "alignment")


def replay(trace: Trace) -> Replay:
    """Return the forecasts and alarms of a trace, one a step."""
    beta2 = float(trace.meta["beta2"])
    run = RunForecaster(beta2=beta2 if 0 < beta2 < 1 else None)
    constant = trace.meta["kind"] == "full"
    feed = Feed(trace)
    rows, levels = [], []
    for index, step in enumerate(trace.column("loss").steps.tolist()):
        spent = feed.give(run, index, step)
        forecast = run.forecast(step, constant=constant)
        levels.append(forecast.level)
        rows.append(_row(forecast, passes=spent))
    columns = np.array(rows, dtype=np.float64).reshape(-1, 7).T
    score, expected, low, high, height, passes, until = columns
    steps = trace.column("loss").steps
    alarm = np.array([level == "alarm" for level in levels], dtype=bool)
    watch = np.array([level != "" for level in levels], dtype=bool)
    return Replay(steps, watch, alarm, score, expected, low, high, height, passes, until)


class Feed:
    """Hand the columns of a trace to a forecaster, each at its step.

    Args:
        trace: The trace.
        every_pair: Whether to hand over each pair of half-batches, instead of those that the product would
            have measured.
    """

    def __init__(self, trace: Trace, *, every_pair: bool = False) -> None:
        self._trace, self._every_pair = trace, every_pair
        self._every = {
            name: trace.column(name).values
            for name in ("loss", "gradient_norm", "second_moment", "learning_rate", "lag_ratio")
        }
        self._probes = _by_step(trace, (*_FIELDS, "excess_loss"))
        self._pairs = _by_step(trace, ("pair_mean", "pair_square", "noise_factor"))
        size = trace.meta["batch_size"]
        self._costs = trace.meta["costs"]
        self._measured_at, self._measurements = -math.inf, 0
        self._factor = 1.0 if size is None else population_factor(size, trace.meta.get("examples"))

    def give(self, run: RunForecaster, index: int, step: int) -> float:
        """Give what is known at a step; return what measuring it costs, in F."""
        if index >= self._every["gradient_norm"].size:
            return 0.0  # A run that overflowed has no gradient at its last step.
        every = {name: float(values[index]) for name, values in self._every.items()}
        run.record_step(
            loss=every["loss"],
            squared_gradient=every["gradient_norm"] ** 2,
            second_moment=every["second_moment"],
        )
        if self._pairs:
            return self._give_pair(run, step)
        probe = self._probes.get(step)
        if probe is None:
            return 0.0
        run.record_curvature(step, self._reading(probe, every), learning_rates=self._future(index))
        return float(self._costs["probe"])

    def _give_pair(self, run: RunForecaster, step: int) -> float:
        pair = self._pairs.get(step)
        due = self._every_pair or step - self._measured_at >= noise_interval(run.lag)
        if pair is None or not due:
            return 0.0
        run.record_noise(
            step,
            mean=pair["pair_mean"],
            variance=self._factor * pair["pair_square"],
            noise_factor=pair["noise_factor"],
        )
        accompanied = self._measurements % CURVATURE_PROBE_INTERVAL == 0
        self._measured_at, self._measurements = step, self._measurements + 1
        return float(self._costs["pair"] + (self._costs["probe"] if accompanied else 0.0))

    def _reading(self, probe: Mapping[str, float], every: Mapping[str, float]) -> EdgeReading:
        # Recorded traces keep the names and directions of their columns; here is where the two meet.
        ratio = probe["stability_ratio"]
        return EdgeReading(
            stability_ratio=ratio,
            learning_rate=every["learning_rate"],
            relative_error=probe["stability_error"] / abs(ratio) if ratio else math.inf,
            gradient_stability_ratio=probe["gradient_ratio"],
            predicted_loss_change=probe["predicted_change"],
            alignment=probe["alignment"],
            excess_loss=probe["excess_loss"],
            instant_lag=instant_lag(1.0, every["lag_ratio"]),
            loss=every["loss"],
            beta1=float(self._trace.meta["beta1"]),
        )

    def _future(self, index: int) -> list[float] | None:
        rates = self._every["learning_rate"]
        if not (rates[index] > 0 and rates.size > index + 1):
            return None
        ahead: list[float] = (rates[index + 1 :] / rates[index]).tolist()
        return ahead


def _by_step(trace: Trace, names: tuple[str, ...]) -> dict[int, Mapping[str, float]]:
    steps = trace.column(names[0]).steps
    values = {name: trace.column(name).held(steps).tolist() for name in names}
    return {
        step: {name: column[i] for name, column in values.items()} for i, step in enumerate(steps.tolist())
    }


def _row(forecast: Forecast, *, passes: float) -> tuple[float, ...]:
    return (
        forecast.probability,
        forecast.steps_to_instability,
        forecast.interval_low,
        forecast.interval_high,
        forecast.severity,
        passes,
        forecast.steps_to_spike,
    )
