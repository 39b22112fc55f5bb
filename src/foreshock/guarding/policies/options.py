"""What the remedies of the paper on the mechanism share (Bai et al. 2025): they change an option for good.

They are here to be compared with: a raise of v removes the same spikes and costs less. The trigger is the
secant curvature, or λ_max where a monitor measured it.
"""

from __future__ import annotations

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
    def exact_from(self) -> float:
        """The threshold."""
        return self.threshold

    def decide(self, seen: GuardSignals) -> Sequence[Decision]:
        """Return the new value, once.

        Args:
            seen: The step about to be taken.
        """
        if self._done or not passed(seen, self.threshold):
            return ()
        self._done = True
        return (change(self._remedy, self.value, seen, self.threshold),)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed policy needs, as plain values."""
        return {"done": self._done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._done = bool(state["done"])


def passed(seen: GuardSignals, threshold: float) -> bool:
    """Return whether a curvature is past the threshold.

    Args:
        seen: The step about to be taken.
        threshold: In multiples of the edge.
    """
    return seen.updates > WARM_UP and (seen.secant > threshold or seen.curvature > threshold)


def change(remedy: Remedy, factor: float, seen: GuardSignals, threshold: float) -> Decision:
    """Return the decision to change an option.

    Args:
        remedy: Which.
        factor: To what, or by how much.
        seen: The step about to be taken.
        threshold: What was passed.
    """
    if seen.secant > threshold:
        return Decision(remedy, factor, secant_reason(seen), seen.secant, threshold)
    return Decision(remedy, factor, curvature_reason(seen), seen.curvature, threshold)
