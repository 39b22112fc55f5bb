"""Lower the learning rate, which moves the edge 2/η away (Bai et al. 2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from foreshock.guarding.policies.options import change, passed
from foreshock.guarding.policies.policy import Decision, GuardSignals, Measure, require_threshold

_REST = 100


@dataclass
class LowerRate:
    """Lower η for good each time the curvature passes the threshold, at most once in 100 steps.

    The factor is held against schedulers: what they set is multiplied.

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
    _free_from: int = field(default=0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse impossible options."""
        require_threshold("factor", self.factor, low=0, high=1)
        require_threshold("threshold", self.threshold, low=0, high=1)

    @property
    def exact_from(self) -> float:
        """The threshold."""
        return self.threshold

    def decide(self, seen: GuardSignals) -> Sequence[Decision]:
        """Return the factor on η, if the last one is long enough ago.

        Args:
            seen: The step about to be taken.
        """
        if seen.step < self._free_from or not passed(seen, self.threshold):
            return ()
        self._free_from = seen.step + _REST
        return (change("learning rate", self.factor, seen, self.threshold),)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed policy needs, as plain values."""
        return {"free_from": self._free_from}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._free_from = int(state["free_from"])
