r"""The guard against spikes that the noise of mini-batches drives, which live far below 2/η.

What decides there is the mean-square ratio, and it harms only while v lags behind g². So: armed by the lag
of the natural second moment, the ratio past its edge raises all of v a little at each step; a burst of the
preconditioned gradient helps out just below the edge. Decoupled weight decay shrinks with the steps that
this shortens: it would otherwise outweigh them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from foreshock.dynamics import Burst
from foreshock.forecast import SETTLED
from foreshock.guarding.policies.policy import Decision, GuardSignals, Measure, require_threshold

_EASED = 0.05  # below the threshold it is brought, so that it does not act at every step
_NEAR = 0.15  # below the threshold, where a burst alone is acted on


# The preconditioned gradient takes a pass over v: only where both lag and ratio are at half their thresholds.
_PAIRS: frozenset[Measure] = frozenset({"pairs"})
_WITH_BURST: frozenset[Measure] = frozenset({"pairs", "preconditioned gradient"})


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
    exact_above: ClassVar[float] = math.inf  # the secant is not used
    needs: frozenset[Measure] = field(default=_PAIRS, init=False, repr=False, compare=False)
    _burst: Burst = field(default_factory=Burst, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse impossible options."""
        require_threshold("threshold", self.threshold, low=_EASED, high=2)
        require_threshold("lag", self.lag, low=0, high=math.inf)
        require_threshold("burst", self.burst, low=1, high=math.inf)
        require_threshold("largest", self.largest, low=1, high=math.inf)
        if self.remedy not in ("raise", "clip"):
            raise ValueError(f"remedy is {self.remedy!r}; it is 'raise' or 'clip'")

    def decide(self, signals: GuardSignals) -> Sequence[Decision]:
        """Return a raise of v, or a clip, if the run is armed.

        Args:
            signals: The step about to be taken.
        """
        near = signals.lag > self.lag / 2 and signals.mean_square > self.threshold / 2
        self.needs = _WITH_BURST if near else _PAIRS
        burst = self._burst.update(signals.preconditioned_gradient)
        # Noise above the edge does no harm while v follows g² and takes back at once what it amplified.
        if signals.updates <= SETTLED or not signals.lag > self.lag:
            return ()
        where = f"the mean-square ratio is {signals.mean_square:.3g} and v is {signals.lag:.3g} × g²"
        near = signals.mean_square > self.threshold - _NEAR
        if self.remedy == "clip":
            if not (signals.mean_square > self.threshold and burst > self.burst):
                return ()
            reason = f"{where}; the gradient is {burst:.3g} × its usual size"
            return (Decision("clip", self.burst / burst, reason, burst, self.burst),)
        # Each factor is capped: if the ratio stays high, the next step raises again.
        factor = 1.0
        if signals.mean_square > self.threshold:
            factor = min(signals.mean_square / (self.threshold - _EASED), self.largest)
        helped = min(burst / self.burst, self.largest) if near and burst > self.burst else 1.0
        if helped > 1:
            where += f"; the gradient is {burst:.3g} × its usual size"
        if not factor * helped > 1:
            return ()
        return (Decision("raise all", factor * helped, where, signals.mean_square, self.threshold),)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed policy needs, as plain values."""
        return {"burst": self._burst.state_dict(), "near": self.needs == _WITH_BURST}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._burst.load_state_dict(state["burst"])
        self.needs = _WITH_BURST if state["near"] else _PAIRS
