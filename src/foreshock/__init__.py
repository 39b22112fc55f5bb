"""Foreshock forecasts, explains and prevents loss spikes in training with adaptive optimizers.

Importing the package imports no torch; its names do, at first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from foreshock._version import __version__

if TYPE_CHECKING:
    from foreshock.batches import MicroBatches
    from foreshock.blocks import BlockShare
    from foreshock.curvature import CurvatureReading
    from foreshock.eigen import StoppingRule
    from foreshock.forecast import Alarm, Forecast
    from foreshock.guarding import Guard, GuardAction, GuardSummary, guard
    from foreshock.measurement import (
        MeanSquareStability,
        Sharpness,
        mean_square_stability,
        preconditioned_sharpness,
        sharpness,
        spectrum,
    )
    from foreshock.monitor import Monitor
    from foreshock.noise import NoiseReading
    from foreshock.observation import StepObservation
    from foreshock.operators import BackendChoice
    from foreshock.preconditioner import (
        LiveParameter,
        ParameterStep,
        Reader,
        SecondMoment,
        register_preconditioner,
    )
    from foreshock.runlog import Run, read_run

__all__ = [
    "Alarm",
    "BackendChoice",
    "BlockShare",
    "CurvatureReading",
    "Forecast",
    "Guard",
    "GuardAction",
    "GuardSummary",
    "LiveParameter",
    "MeanSquareStability",
    "MicroBatches",
    "Monitor",
    "NoiseReading",
    "ParameterStep",
    "Reader",
    "Run",
    "SecondMoment",
    "Sharpness",
    "StepObservation",
    "StoppingRule",
    "__version__",
    "guard",
    "mean_square_stability",
    "preconditioned_sharpness",
    "read_run",
    "register_preconditioner",
    "sharpness",
    "spectrum",
]

_HOMES = {
    "Alarm": "foreshock.forecast",
    "BackendChoice": "foreshock.operators",
    "BlockShare": "foreshock.blocks",
    "CurvatureReading": "foreshock.curvature",
    "Forecast": "foreshock.forecast",
    "Guard": "foreshock.guarding",
    "GuardAction": "foreshock.guarding",
    "GuardSummary": "foreshock.guarding",
    "LiveParameter": "foreshock.preconditioner",
    "MeanSquareStability": "foreshock.measurement",
    "MicroBatches": "foreshock.batches",
    "Monitor": "foreshock.monitor",
    "NoiseReading": "foreshock.noise",
    "ParameterStep": "foreshock.preconditioner",
    "Reader": "foreshock.preconditioner",
    "Run": "foreshock.runlog",
    "SecondMoment": "foreshock.preconditioner",
    "Sharpness": "foreshock.measurement",
    "StepObservation": "foreshock.observation",
    "StoppingRule": "foreshock.eigen",
    "guard": "foreshock.guarding",
    "mean_square_stability": "foreshock.measurement",
    "preconditioned_sharpness": "foreshock.measurement",
    "read_run": "foreshock.runlog",
    "register_preconditioner": "foreshock.preconditioner",
    "sharpness": "foreshock.measurement",
    "spectrum": "foreshock.measurement",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'foreshock' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
