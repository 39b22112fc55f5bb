"""The policies: the numbers of a step → what to do before it is taken."""

from foreshock.guarding.policies.auto import Auto, share_of_threshold
from foreshock.guarding.policies.change_option import LowerBeta2, LowerRate, RaiseEpsilon
from foreshock.guarding.policies.curvature import CurvatureDriven
from foreshock.guarding.policies.forecast import ForecastDriven
from foreshock.guarding.policies.mean_square import MeanSquare
from foreshock.guarding.policies.outlier import Outlier
from foreshock.guarding.policies.policy import Decision, GuardSignals, Measure, Policy
from foreshock.guarding.policies.registry import POLICIES, make_policy, register_policy, require_policy
from foreshock.guarding.policies.rising import Rising
from foreshock.guarding.policies.secant import Secant

__all__ = [
    "POLICIES",
    "Auto",
    "CurvatureDriven",
    "Decision",
    "ForecastDriven",
    "GuardSignals",
    "LowerBeta2",
    "LowerRate",
    "MeanSquare",
    "Measure",
    "Outlier",
    "Policy",
    "RaiseEpsilon",
    "Rising",
    "Secant",
    "make_policy",
    "register_policy",
    "require_policy",
    "share_of_threshold",
]
