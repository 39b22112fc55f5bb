"""Lower β₂, so that v forgets sooner (Bai et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from foreshock.guarding.policies.options import ChangeOnce
from foreshock.guarding.record import Remedy


@dataclass
class LowerBeta2(ChangeOnce):
    """Lower β₂ for good when the curvature first passes the threshold.

    v is rescaled at the switch, so that its bias correction doesn't jump.

    Attributes:
        value: The new β₂, in (0, 1).
        threshold: In multiples of the edge, in (0, 1).

    Raises:
        ValueError: If an option lies outside its interval.

    Example:
        >>> from foreshock.guarding import GuardSignals
        >>> [decision] = LowerBeta2().decide(GuardSignals(step=99, updates=100, secant=0.99))
        >>> decision.remedy, decision.factor
        ('beta2', 0.9)
    """

    value: float = 0.9
    name: ClassVar[str] = "beta2"
    _remedy: ClassVar[Remedy] = "beta2"
    _highest: ClassVar[float] = 1.0
