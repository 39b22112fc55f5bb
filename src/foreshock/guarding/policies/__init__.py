"""The policies, one a file: the numbers of a step → what to do before it is taken."""

from foreshock.guarding.policies.auto import Auto
from foreshock.guarding.policies.beta2 import LowerBeta2
from foreshock.guarding.policies.curvature import CurvatureDriven
from foreshock.guarding.policies.epsilon import RaiseEpsilon
from foreshock.guarding.policies.learning_rate import LowerRate
from foreshock.guarding.policies.mean_square import MeanSquare
from foreshock.guarding.policies.outlier import Outlier
from foreshock.guarding.policies.policy import Decision, GuardSignals, Measure, Policy
from foreshock.guarding.policies.secant import Secant
from foreshock.guarding.policies.table import POLICIES

__all__ = [
    "POLICIES",
    "Auto",
    "CurvatureDriven",
    "Decision",
    "GuardSignals",
    "LowerBeta2",
    "LowerRate",
    "MeanSquare",
    "Measure",
    "Outlier",
    "Policy",
    "RaiseEpsilon",
    "Secant",
]
