"""All policies by the name that a user gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from foreshock.guarding.policies.auto import Auto
from foreshock.guarding.policies.beta2 import LowerBeta2
from foreshock.guarding.policies.curvature import CurvatureDriven
from foreshock.guarding.policies.epsilon import RaiseEpsilon
from foreshock.guarding.policies.learning_rate import LowerRate
from foreshock.guarding.policies.mean_square import MeanSquare
from foreshock.guarding.policies.outlier import Outlier
from foreshock.guarding.policies.policy import Policy
from foreshock.guarding.policies.secant import Secant

POLICIES: Mapping[str, Callable[[], Policy]] = MappingProxyType(
    {
        "auto": Auto,
        "secant": Secant,
        "mean_square": MeanSquare,
        "outlier": Outlier,
        "curvature": CurvatureDriven,
        "epsilon": RaiseEpsilon,
        "beta2": LowerBeta2,
        "lr": LowerRate,
    }
)
"""Policies by name."""
