r"""The guard against spikes that the noise of mini-batches drives, which live far below 2/η.

What decides there is the mean-square ratio, and it harms only while v lags behind g². So: armed by the lag
of the natural second moment, the ratio past its edge raises all of v a little at each step; a burst of the
preconditioned gradient helps out just below the edge. Decoupled weight decay shrinks with the steps that
this shortens: it would otherwise win over them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from foreshock.dynamics import SignalTracker
from foreshock.guarding.policies.policy import Decision, GuardSignals, Measure, require_threshold

_SETTLED = 100
_EASED = 0.05


@dataclass
class MeanSquare:
    """Act when the mean-square ratio passes its edge while v lags.

    Attributes:
        threshold: Mean-square ratio from which to act, in (0.05, 2); it is brought .05 below that.
        lag: Lag of v from which to act, > 0.
        burst: Factor on the preconditioned gradient's usual size from which to act near the edge, > 1.
        largest: Largest factor on √v in one step that either of two reasons asks for, the ratio and a burst
            near the edge, > 1: where both do, their product counts. A clip is not bounded by it.
        remedy: ``"raise"`` raises all of v; ``"clip"`` instead scales gradients down to `burst` times their
            usual size, while armed.

    Raises:
        ValueError: If an option lies outside its interval.

    Example:
        >>> policy = MeanSquare()
        >>> [decision] = policy.decide(GuardSignals(step=200, updates=201, lag=9.0, mean_square=0.99))
        >>> decision.remedy, round(decision.factor, 6)
        ('raise all', 1.1)
        >>> policy.decide(GuardSignals(step=201, updates=202, lag=2.0, mean_square=0.99))
        ()
    """

    threshold: float = 0.95
    lag: float = 3.0
    burst: float = 1.5
    largest: float = 1.1
    remedy: Literal["raise", "clip"] = "raise"
    name: ClassVar[str] = "mean_square"
    scales_decay: ClassVar[bool] = True
    _signals: SignalTracker = field(default_factory=SignalTracker, init=False, repr=False, compare=False)
    _near: bool = field(default=False, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse impossible options."""
        require_threshold("threshold", self.threshold, low=_EASED, high=2)
        require_threshold("lag", self.lag, low=0, high=math.inf)
        require_threshold("burst", self.burst, low=1, high=math.inf)
        require_threshold("largest", self.largest, low=1, high=math.inf)
        if self.remedy not in ("raise", "clip"):
            raise ValueError(f"remedy is {self.remedy!r}; it is 'raise' or 'clip'")

    @property
    def needs(self) -> frozenset[Measure]:
        """Pairs; and the preconditioned gradient while both lag and ratio are at half their thresholds."""
        return frozenset({"pairs", "preconditioned gradient"} if self._near else {"pairs"})

    @property
    def exact_from(self) -> float:
        """Infinity: the secant is not used."""
        return math.inf

    def decide(self, seen: GuardSignals) -> Sequence[Decision]:
        """Return a raise of v, or a clip, if the run is armed.

        Args:
            seen: The step about to be taken.
        """
        self._near = seen.lag > self.lag / 2 and seen.mean_square > self.threshold / 2
        burst = self._signals.update(
            loss=math.nan, squared_gradient=seen.preconditioned_gradient, second_moment=math.nan
        ).burst
        if seen.updates <= _SETTLED or not seen.lag > self.lag:
            return ()
        where = f"the mean-square ratio is {seen.mean_square:.3g} and v is {seen.lag:.3g} × g²"
        near = seen.mean_square > self.threshold - 0.15
        if self.remedy == "clip":
            if not (seen.mean_square > self.threshold and burst > self.burst):
                return ()
            reason = f"{where}; the gradient is {burst:.3g} × its usual size"
            return (Decision("clip", self.burst / burst, reason, burst, self.burst),)
        factor = 1.0
        if seen.mean_square > self.threshold:
            factor = min(seen.mean_square / (self.threshold - _EASED), self.largest)
        helped = min(burst / self.burst, self.largest) if near and burst > self.burst else 1.0
        if helped > 1:
            where += f"; the gradient is {burst:.3g} × its usual size"
        if not factor * helped > 1:
            return ()
        return (Decision("raise all", factor * helped, where, seen.mean_square, self.threshold),)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed policy needs, as plain values."""
        return {"signals": self._signals.state_dict(), "near": self._near}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._signals.load_state_dict(state["signals"])
        self._near = bool(state["near"])
