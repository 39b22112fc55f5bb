"""Act on the measured λ_max instead of the free secant, where a monitor measures it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from foreshock.guarding.policies.policy import (
    WARM_UP,
    Decision,
    GuardSignals,
    Measure,
    curvature_reason,
    require_threshold,
)


@dataclass
class CurvatureDriven:
    """Raise v along the top eigenvector when the stability ratio passes the threshold.

    It acts only on steps with a probe: how soon depends on the monitor's budget.

    Attributes:
        threshold: In multiples of the edge, in (0, 1).

    Raises:
        ValueError: If the threshold lies outside its interval.

    Example:
        >>> [decision] = CurvatureDriven().decide(GuardSignals(step=99, updates=100, curvature=0.99))
        >>> decision.along, round(decision.factor, 6)
        ('eigenvector', 1.1)
    """

    threshold: float = 0.9
    name: ClassVar[str] = "curvature"
    needs: ClassVar[frozenset[Measure]] = frozenset({"curvature"})
    scales_decay: ClassVar[bool] = False
    exact_above: ClassVar[float] = math.inf  # the secant is not used

    def __post_init__(self) -> None:
        """Refuse impossible options."""
        require_threshold("threshold", self.threshold, low=0, high=1)

    def decide(self, signals: GuardSignals) -> Sequence[Decision]:
        """Return the raise that brings the ratio back to the threshold, if it was measured above it.

        Args:
            signals: The step about to be taken.
        """
        if signals.updates <= WARM_UP or not signals.curvature > self.threshold:
            return ()
        factor, reason = signals.curvature / self.threshold, curvature_reason(signals)
        return (Decision("raise along", factor, reason, signals.curvature, self.threshold, "eigenvector"),)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the policy has no memory."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do nothing."""
