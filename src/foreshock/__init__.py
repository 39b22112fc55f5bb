"""Foreshock forecasts, explains and prevents loss spikes in training with adaptive optimizers.

Importing the package imports no torch; its names do, at first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from foreshock._version import __version__

if TYPE_CHECKING:
    from foreshock.curvature import CurvatureReading
    from foreshock.forecast import Forecast
    from foreshock.monitor import Monitor, StepObservation
    from foreshock.preconditioner import ParameterStep, Reader, register_preconditioner
    from foreshock.runlog import Run, read_run

__all__ = [
    "CurvatureReading",
    "Forecast",
    "Monitor",
    "ParameterStep",
    "Reader",
    "Run",
    "StepObservation",
    "__version__",
    "read_run",
    "register_preconditioner",
]

_HOMES = {
    "CurvatureReading": "foreshock.curvature",
    "Forecast": "foreshock.forecast",
    "Monitor": "foreshock.monitor",
    "ParameterStep": "foreshock.preconditioner",
    "Reader": "foreshock.preconditioner",
    "Run": "foreshock.runlog",
    "StepObservation": "foreshock.monitor",
    "read_run": "foreshock.runlog",
    "register_preconditioner": "foreshock.preconditioner",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'foreshock' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
