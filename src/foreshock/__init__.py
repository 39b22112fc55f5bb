"""Foreshock forecasts, explains and prevents loss spikes in training with adaptive optimizers.

Importing the package imports no torch. Its names and submodules (``foreshock.optim`` and others) are
imported at first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from foreshock._version import __version__

if TYPE_CHECKING:
    from foreshock.batches import MicroBatches
    from foreshock.curvature import (
        BlockShare,
        CurvatureReading,
        MeanSquareStability,
        NoiseReading,
        Sharpness,
        SpectralDensity,
        mean_square_stability,
        preconditioned_sharpness,
        sharpness,
        spectrum,
    )
    from foreshock.eigen import StoppingRule
    from foreshock.forecast import Alarm, Forecast
    from foreshock.guarding import Guard, GuardAction, GuardSummary, guard, register_policy
    from foreshock.monitor import Monitor, StepObservation
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
    "SpectralDensity",
    "StepObservation",
    "StoppingRule",
    "__version__",
    "guard",
    "mean_square_stability",
    "preconditioned_sharpness",
    "read_run",
    "register_policy",
    "register_preconditioner",
    "sharpness",
    "spectrum",
]

_HOMES = {
    "Alarm": "foreshock.forecast",
    "BackendChoice": "foreshock.operators",
    "BlockShare": "foreshock.curvature",
    "CurvatureReading": "foreshock.curvature",
    "Forecast": "foreshock.forecast",
    "Guard": "foreshock.guarding",
    "GuardAction": "foreshock.guarding",
    "GuardSummary": "foreshock.guarding",
    "LiveParameter": "foreshock.preconditioner",
    "MeanSquareStability": "foreshock.curvature",
    "MicroBatches": "foreshock.batches",
    "Monitor": "foreshock.monitor",
    "NoiseReading": "foreshock.curvature",
    "ParameterStep": "foreshock.preconditioner",
    "Reader": "foreshock.preconditioner",
    "Run": "foreshock.runlog",
    "SecondMoment": "foreshock.preconditioner",
    "Sharpness": "foreshock.curvature",
    "SpectralDensity": "foreshock.curvature",
    "StepObservation": "foreshock.monitor",
    "StoppingRule": "foreshock.eigen",
    "guard": "foreshock.guarding",
    "mean_square_stability": "foreshock.curvature",
    "preconditioned_sharpness": "foreshock.curvature",
    "read_run": "foreshock.runlog",
    "register_policy": "foreshock.guarding",
    "register_preconditioner": "foreshock.preconditioner",
    "sharpness": "foreshock.curvature",
    "spectrum": "foreshock.curvature",
}
_SUBMODULES = (
    "batches",
    "curvature",
    "dynamics",
    "eigen",
    "forecast",
    "guarding",
    "operators",
    "optim",
    "preconditioner",
    "report",
    "runlog",
    "spikes",
    "stability",
)


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f"foreshock.{name}")
    if name not in _HOMES:
        raise AttributeError(
            f"module 'foreshock' has no attribute {name!r}; its names are listed by dir(foreshock)"
        )
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, *_SUBMODULES])
