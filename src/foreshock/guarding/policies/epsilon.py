"""Raise ε, which bounds the denominator of the step from below (Bai et al. 2025)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from foreshock.guarding.policies.options import ChangeOnce
from foreshock.guarding.record import Remedy


@dataclass
class RaiseEpsilon(ChangeOnce):
    """Raise ε for good when the curvature first passes the threshold.

    Attributes:
        value: The new ε, > 0.
        threshold: In multiples of the edge, in (0, 1).

    Raises:
        ValueError: If an option lies outside its interval.

    Example:
        >>> from foreshock.guarding import GuardSignals
        >>> [decision] = RaiseEpsilon().decide(GuardSignals(step=99, updates=100, secant=0.99))
        >>> decision.remedy, decision.factor
        ('epsilon', 0.1)
    """

    value: float = 0.1
    name: ClassVar[str] = "epsilon"
    _remedy: ClassVar[Remedy] = "epsilon"
    _highest: ClassVar[float] = math.inf
