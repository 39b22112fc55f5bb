"""Guards: policies that keep an optimizer from making loss spikes, and the hooks that carry them out."""

from foreshock.guarding.attach import POLICIES, as_guard, guard
from foreshock.guarding.auto import Auto
from foreshock.guarding.curvature_driven import CurvatureDriven
from foreshock.guarding.hook import Guard
from foreshock.guarding.mean_square import MeanSquare
from foreshock.guarding.options import LowerBeta2, LowerRate, RaiseEpsilon
from foreshock.guarding.outlier import Outlier
from foreshock.guarding.policy import Decision, GuardSignals, Policy
from foreshock.guarding.record import GuardAction, GuardSummary
from foreshock.guarding.secant import Secant

__all__ = [
    "POLICIES",
    "Auto",
    "CurvatureDriven",
    "Decision",
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
    "Secant",
    "as_guard",
    "guard",
]
