"""Guards: policies that keep an optimizer from making loss spikes, and the hooks that carry them out."""

from foreshock.guarding.attach import as_guard, guard
from foreshock.guarding.guard import Guard
from foreshock.guarding.policies import (
    POLICIES,
    Auto,
    CurvatureDriven,
    Decision,
    ForecastDriven,
    GuardSignals,
    LowerBeta2,
    LowerRate,
    MeanSquare,
    Outlier,
    Policy,
    RaiseEpsilon,
    Rising,
    Secant,
    register_policy,
)
from foreshock.guarding.record import ActionLog, GuardAction, GuardSummary

__all__ = [
    "POLICIES",
    "ActionLog",
    "Auto",
    "CurvatureDriven",
    "Decision",
    "ForecastDriven",
    "Guard",
    "GuardAction",
    "GuardSignals",
    "GuardSummary",
    "LowerBeta2",
    "LowerRate",
    "MeanSquare",
    "Outlier",
    "Policy",
    "RaiseEpsilon",
    "Rising",
    "Secant",
    "as_guard",
    "guard",
    "register_policy",
]
