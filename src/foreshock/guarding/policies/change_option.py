"""The remedies of the paper on the mechanism (Bai et al. 2025): they change an option for good.

They are here for comparison: a raise of v removes the same spikes and costs less. The trigger is the secant
curvature, or λ_max where a monitor measured it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from foreshock.guarding.policies.policy import (
    WARM_UP,
    Decision,
    GuardSignals,
    Measure,
    curvature_reason,
    require_threshold,
    secant_reason,
)
from foreshock.guarding.record import Remedy

_REST = 100  # steps between two changes: the curvature needs some to follow


@dataclass
class ChangeOnce:
    """Change an option for good when the curvature first passes the threshold."""

    value: float
    threshold: float = 0.9
    needs: ClassVar[frozenset[Measure]] = frozenset({"secant", "curvature"})
    scales_decay: ClassVar[bool] = False
    _remedy: ClassVar[Remedy]
    _highest: ClassVar[float]
    _done: bool = field(default=False, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse impossible options."""
        require_threshold("value", self.value, low=0, high=self._highest)
        require_threshold("threshold", self.threshold, low=0, high=1)

    @property
    def exact_above(self) -> float:
        """The threshold."""
        return self.threshold

    def decide(self, signals: GuardSignals) -> Sequence[Decision]:
        """Return the new value, once.

        Args:
            signals: The step about to be taken.
        """
        if self._done or not passed(signals, self.threshold):
            return ()
        self._done = True
        return (change(self._remedy, self.value, signals, self.threshold),)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed policy needs, as plain values."""
        return {"done": self._done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._done = bool(state["done"])


@dataclass
class RaiseEpsilon(ChangeOnce):
    """Raise ε for good when the curvature first passes the threshold.

    It bounds the denominator of the step from below.

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


@dataclass
class LowerBeta2(ChangeOnce):
    """Lower β₂ for good when the curvature first passes the threshold.

    v then forgets sooner. It is rescaled at the switch, so that its bias correction doesn't jump.

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


@dataclass
class LowerRate:
    """Lower η for good each time the curvature passes the threshold, at most once in 100 steps.

    The edge 2/η moves away. What schedulers set is multiplied by the factor.

    Attributes:
        factor: On η, in (0, 1).
        threshold: In multiples of the edge, in (0, 1).

    Raises:
        ValueError: If an option lies outside its interval.

    Example:
        >>> policy = LowerRate()
        >>> [decision] = policy.decide(GuardSignals(step=99, updates=100, secant=0.99))
        >>> decision.remedy, decision.factor
        ('learning rate', 0.5)
        >>> policy.decide(GuardSignals(step=100, updates=101, secant=0.99))
        ()
    """

    factor: float = 0.5
    threshold: float = 0.9
    name: ClassVar[str] = "lr"
    needs: ClassVar[frozenset[Measure]] = frozenset({"secant", "curvature"})
    scales_decay: ClassVar[bool] = False
    _next: int = field(default=0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse impossible options."""
        require_threshold("factor", self.factor, low=0, high=1)
        require_threshold("threshold", self.threshold, low=0, high=1)

    @property
    def exact_above(self) -> float:
        """The threshold."""
        return self.threshold

    def decide(self, signals: GuardSignals) -> Sequence[Decision]:
        """Return the factor on η, if the last one is long enough ago.

        Args:
            signals: The step about to be taken.
        """
        if signals.step < self._next or not passed(signals, self.threshold):
            return ()
        self._next = signals.step + _REST
        return (change("learning rate", self.factor, signals, self.threshold),)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed policy needs, as plain values."""
        return {"next": self._next}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._next = int(state["next"])


def passed(signals: GuardSignals, threshold: float) -> bool:
    """Return whether a curvature is past the threshold.

    Args:
        signals: The step about to be taken.
        threshold: In multiples of the edge.
    """
    return signals.updates > WARM_UP and (signals.secant > threshold or signals.curvature > threshold)


def change(remedy: Remedy, factor: float, signals: GuardSignals, threshold: float) -> Decision:
    """Return the decision to change an option.

    Args:
        remedy: Which.
        factor: To what, or by how much.
        signals: The step about to be taken.
        threshold: What was passed.
    """
    if signals.secant > threshold:
        return Decision(remedy, factor, secant_reason(signals), signals.secant, threshold)
    return Decision(remedy, factor, curvature_reason(signals), signals.curvature, threshold)
