"""What is measured of a run → what comes next, when, and how surely.

`RunForecaster` takes all that is known of one run, step by step, and returns a `Forecast` and, when it is
due, an `Alarm`. Below it, `Forecaster` follows the stability ratio alone, and `NoiseAverage` the noise of
mini-batches. None of them sees the model.
"""

from __future__ import annotations

from foreshock.forecast.alarms import ALARM_AT, Alarm, AlarmBook
from foreshock.forecast.forecaster import Forecaster
from foreshock.forecast.noise import LAGGING, NOISE_INTERVAL, SETTLED, NoiseAverage, noise_interval
from foreshock.forecast.record import FLAT, NOISY_EDGE, EdgeReading, Forecast, Level, State, unknown
from foreshock.forecast.run import RunForecaster
from foreshock.forecast.spike import Outlook, outlook

__all__ = [
    "ALARM_AT",
    "FLAT",
    "LAGGING",
    "NOISE_INTERVAL",
    "NOISY_EDGE",
    "SETTLED",
    "Alarm",
    "AlarmBook",
    "EdgeReading",
    "Forecast",
    "Forecaster",
    "Level",
    "NoiseAverage",
    "Outlook",
    "RunForecaster",
    "State",
    "noise_interval",
    "outlook",
    "unknown",
]
