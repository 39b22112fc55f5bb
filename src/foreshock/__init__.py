"""Foreshock forecasts, explains and prevents loss spikes in training with adaptive optimizers.

Watch a run with `Monitor`, prevent its spikes with `guard`, measure curvature in one call with `sharpness`,
`preconditioned_sharpness`, `mean_square_stability` and `spectrum`, read the log of a run with `read_run`::

    monitor = foreshock.Monitor(model, optimizer, loss_fn, run="runs/base")
    guard = foreshock.guard(optimizer)

Importing the package imports neither torch nor numpy. Its names and submodules (``foreshock.optim`` and
others) are imported at first use.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from foreshock._version import __version__

if TYPE_CHECKING:
    from foreshock import batches as batches
    from foreshock import curvature as curvature
    from foreshock import dynamics as dynamics
    from foreshock import eigen as eigen
    from foreshock import explain as explain
    from foreshock import forecast as forecast
    from foreshock import guarding as guarding
    from foreshock import importers as importers
    from foreshock import monitor as monitor
    from foreshock import operators as operators
    from foreshock import optim as optim
    from foreshock import preconditioner as preconditioner
    from foreshock import recorder as recorder
    from foreshock import report as report
    from foreshock import runlog as runlog
    from foreshock import sinks as sinks
    from foreshock import spikes as spikes
    from foreshock import stability as stability
    from foreshock.batches import MicroBatches
    from foreshock.curvature import (
        BlockShare,
        CurvatureReading,
        MeanSquareStability,
        NoiseReading,
        Sharpness,
        SpectralDensity,
        gauss_newton_sharpness,
        mean_square_stability,
        preconditioned_sharpness,
        sharpness,
        spectrum,
    )
    from foreshock.distributed import Checkpointed
    from foreshock.eigen import StoppingRule
    from foreshock.forecast import Alarm, Forecast
    from foreshock.guarding import Guard, GuardAction, GuardSummary, guard, register_policy
    from foreshock.monitor import Ladder, Monitor, Rewind, StepObservation
    from foreshock.operators import BackendChoice
    from foreshock.preconditioner import (
        LiveParameter,
        ParameterStep,
        Reader,
        SecondMoment,
        register_preconditioner,
    )
    from foreshock.recorder import Recorder, Snapshot, load_snapshot
    from foreshock.runlog import Run, read_run

__all__ = [
    "Alarm",
    "BackendChoice",
    "BlockShare",
    "Checkpointed",
    "CurvatureReading",
    "Forecast",
    "Guard",
    "GuardAction",
    "GuardSummary",
    "Ladder",
    "LiveParameter",
    "MeanSquareStability",
    "MicroBatches",
    "Monitor",
    "NoiseReading",
    "ParameterStep",
    "Reader",
    "Recorder",
    "Rewind",
    "Run",
    "SecondMoment",
    "Sharpness",
    "Snapshot",
    "SpectralDensity",
    "StepObservation",
    "StoppingRule",
    "__version__",
    "gauss_newton_sharpness",
    "guard",
    "load_snapshot",
    "mean_square_stability",
    "preconditioned_sharpness",
    "read_run",
    "register_policy",
    "register_preconditioner",
    "sharpness",
    "spectrum",
]

_HOMES = {
    "batches": ("MicroBatches",),
    "curvature": (
        "BlockShare",
        "CurvatureReading",
        "MeanSquareStability",
        "NoiseReading",
        "Sharpness",
        "SpectralDensity",
        "gauss_newton_sharpness",
        "mean_square_stability",
        "preconditioned_sharpness",
        "sharpness",
        "spectrum",
    ),
    "distributed": ("Checkpointed",),
    "eigen": ("StoppingRule",),
    "forecast": ("Alarm", "Forecast"),
    "guarding": ("Guard", "GuardAction", "GuardSummary", "guard", "register_policy"),
    "monitor": ("Ladder", "Monitor", "Rewind", "StepObservation"),
    "operators": ("BackendChoice",),
    "preconditioner": (
        "LiveParameter",
        "ParameterStep",
        "Reader",
        "SecondMoment",
        "register_preconditioner",
    ),
    "recorder": ("Recorder", "Snapshot", "load_snapshot"),
    "runlog": ("Run", "read_run"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_SUBMODULES = (
    "batches",
    "curvature",
    "dynamics",
    "eigen",
    "explain",
    "forecast",
    "guarding",
    "importers",
    "monitor",
    "operators",
    "optim",
    "preconditioner",
    "recorder",
    "report",
    "runlog",
    "sinks",
    "spikes",
    "stability",
)

# Hidden from type checkers, which would else take every misspelt name for one of type Any.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in _SUBMODULES:
            return import_module(f"foreshock.{name}")
        if name not in _HOME_OF:
            # With name and obj, Python adds what may have been meant.
            raise AttributeError(
                f"module 'foreshock' has no attribute {name!r}; its names are listed by dir(foreshock)",
                name=name,
                obj=sys.modules[__name__],
            )
        return getattr(import_module(f"foreshock.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*__all__, *_SUBMODULES, *(name for name in globals() if name.startswith("__"))})
