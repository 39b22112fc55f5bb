"""What is measured of a run → what comes, when, and how surely.

`RunForecaster` takes all that is known of one run, step by step, and says what comes: a `Forecast` and, when
it is due, an `Alarm`. Below it, `Forecaster` follows the stability ratio alone, and `NoiseAverage` the
noise of mini-batches. None of them sees the model.
"""

from __future__ import annotations

from foreshock.forecast.alarms import Alarm, AlarmBook, Level
from foreshock.forecast.forecaster import Forecaster
from foreshock.forecast.judgement import LAGGING, NOISY_EDGE
from foreshock.forecast.noise import NOISE_INTERVAL, NoiseAverage, noise_interval
from foreshock.forecast.record import Forecast, State, unknown
from foreshock.forecast.run import CurvatureSignals, RunForecaster
from foreshock.forecast.signals import SignalTracker, StepSignals
from foreshock.forecast.spike import Outlook, SpikeSignals, outlook

__all__ = [
    "LAGGING",
    "NOISE_INTERVAL",
    "NOISY_EDGE",
    "Alarm",
    "AlarmBook",
    "CurvatureSignals",
    "Forecast",
    "Forecaster",
    "Level",
    "NoiseAverage",
    "Outlook",
    "RunForecaster",
    "SignalTracker",
    "SpikeSignals",
    "State",
    "StepSignals",
    "noise_interval",
    "outlook",
    "unknown",
]
