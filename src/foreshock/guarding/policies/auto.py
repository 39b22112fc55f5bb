"""The default policy: all that acts on v, clipping of gradients that come alone, and what if that goes on."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from foreshock.guarding.policies.curvature import CurvatureDriven
from foreshock.guarding.policies.forecast import ForecastDriven
from foreshock.guarding.policies.growing import is_growing
from foreshock.guarding.policies.mean_square import MeanSquare
from foreshock.guarding.policies.outlier import Outlier
from foreshock.guarding.policies.policy import Decision, GuardSignals, Measure, Policy
from foreshock.guarding.policies.raise_limit import RaiseLimit
from foreshock.guarding.policies.rising import Rising
from foreshock.guarding.policies.secant import Secant
from foreshock.guarding.record import Remedy

# Clipping what is merely large costs progress and prevents no spike that comes from v: only what exceeds all
# of recent training by far is clipped.
_NOVEL = 4.0
_AFTER_OUTLIER = 2  # steps whose secant an outlier spoils: Δg has its gradient in this step and the next

WINDOW, MOST = 100, 50
"""After raises on more than 50 of the last 100 steps the learning rate is too high in itself."""

COOLING, TIMES, REST = 2.0, 3, 1000
"""Factor on √v, by which it is raised for that three times in 1,000 steps at most."""

_WORDS = (
    f"v was to be raised on more than {MOST} of the last {WINDOW} steps: the learning rate is too high in "
    "itself. Lower it, or warm it up for longer"
)
_REMEDIES: tuple[tuple[Remedy, float], ...] = (("raise all", COOLING), ("cooldown", 1.0))
_COOLDOWN = tuple(
    Decision(remedy, factor, f"{_WORDS}; meanwhile √v is doubled", (MOST + 1) / WINDOW, MOST / WINDOW)
    for remedy, factor in _REMEDIES
)


class Cooldown:
    """Follow on which steps v was raised, and say when to raise all of it.

    Where v has to be raised again and again, to give back what it forgot is not what helps: a learning rate
    that is far too high needs all steps to be smaller.

    Example:
        >>> cooldown = Cooldown()
        >>> [cooldown.starts(step, raises=True) for step in range(51)].index(True)
        50
    """

    def __init__(self) -> None:
        self._raised: deque[int] = deque()
        self._limit = RaiseLimit(COOLING**TIMES, steps=REST)

    def starts(self, step: int, *, raises: bool) -> bool:
        """Take a step into account, and return whether all of v is to be raised on it.

        Args:
            step: Its number.
            raises: Whether v is to be raised.
        """
        if self._raised and self._raised[-1] >= step:
            self._raised.clear()  # those were the steps of another run
        while self._raised and self._raised[0] <= step - WINDOW:
            self._raised.popleft()
        if raises:
            self._raised.append(step)
        if len(self._raised) <= MOST:
            return False
        self._raised.clear()
        return self._limit.grant(step, COOLING) > 1

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain values."""
        return {"raised": list(self._raised), "limit": self._limit.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._raised = deque(state["raised"])
        self._limit.load_state_dict(state.get("limit", ()))  # earlier versions had none


@dataclass
class Auto:
    """Secant, rise of the gradient, mean-square ratio where pairs are measured, and clipping of outliers.

    A gradient counts as an outlier only above four times the third *largest* of the last 100 steps, and only
    if it comes alone or with others of the same bad data: what grows, turns round or repeats is an
    instability, which clipping would feed. An outlier is scaled down to that third largest. It spoils the
    secant of its own step and of the next, on which the secant is ignored. For fifty steps after a raise
    along a direction a rise of the gradient is left to the secant. Where v had to be raised on more than half
    of the last 100 steps, the learning rate is too high in itself: √v is doubled everywhere, which is
    reported as a cooldown.

    Attributes:
        secant: Against spikes of the full batch.
        mean_square: Against spikes that noise drives; idle without pairs.
        curvature: Against spikes of the full batch, on steps on which a `Monitor` measured λ_max.
        forecast: Against spikes of mini-batches, on steps on which a `Monitor` tells their probability; where
            another rule raises all of v, it does not.
        rising: Against the same spikes, from ‖g‖² alone; where `mean_square` acts, it does not.
        outlier: Against outlier batches.

    Example:
        >>> [decision] = Auto().decide(GuardSignals(step=99, updates=100, secant=0.99))
        >>> decision.remedy
        'raise along'
    """

    secant: Secant = field(default_factory=Secant)
    mean_square: MeanSquare = field(default_factory=MeanSquare)
    outlier: Outlier = field(
        default_factory=lambda: Outlier(
            multiple=_NOVEL, clip_to=1, reference="third largest", size="norm", alone=True
        )
    )
    rising: Rising = field(default_factory=Rising)
    curvature: CurvatureDriven = field(default_factory=CurvatureDriven, repr=False)
    forecast: ForecastDriven = field(default_factory=ForecastDriven, repr=False)
    name: ClassVar[str] = "auto"
    scales_decay: ClassVar[bool] = True
    _cooldown: Cooldown = field(default_factory=Cooldown, init=False, repr=False, compare=False)
    _spoiled_until: int = field(default=0, init=False, repr=False, compare=False)

    @property
    def needs(self) -> frozenset[Measure]:
        """What these need of every step, without a monitor."""
        return self.secant.needs | self.mean_square.needs | self.outlier.needs | self.rising.needs

    @property
    def exact_above(self) -> float:
        """The threshold of the secant."""
        return self.secant.threshold

    def decide(self, signals: GuardSignals) -> Sequence[Decision]:
        """Return what they ask for, the clip first.

        Args:
            signals: The step about to be taken.
        """
        step = signals.step
        clips = self.outlier.decide(signals)
        # What turns against the last gradients is no outlier batch: clipped, an instability would go on. An
        # outlier spoils the secant of its own step, so that the angles alone can tell.
        turns = clips and not self.outlier.of_data and is_growing(replace(signals, secant=math.nan))
        wall = self.secant.decide(signals) if turns else ()
        if wall:
            self.outlier.take_back()
        asked = [] if wall else [*clips]
        if asked or self.outlier.heavy:
            self._spoiled_until = step + _AFTER_OUTLIER
        elif self.outlier.repeats:
            self._spoiled_until = step  # it was no outlier, and its secant is that of an instability
        spoiled = self._spoiled_until - _AFTER_OUTLIER <= step < self._spoiled_until
        # On most steps neither was measured, and there is nothing to ask those two.
        if not math.isnan(signals.mean_square) or not math.isnan(signals.preconditioned_gradient):
            asked += self.mean_square.decide(signals)
        raised = any(one.remedy == "raise all" for one in asked)
        risen = self.rising.decide(_as_clipped(signals, asked))  # asked at each step: it follows ‖g‖²
        asked += () if raised else risen
        if not (raised or risen or math.isnan(signals.probability)):
            asked += self.forecast.decide(signals)
        measured = () if math.isnan(signals.curvature) else self.curvature.decide(signals)
        asked += measured or wall or (() if spoiled else self.secant.decide(signals))
        if any(one.remedy == "raise along" for one in asked):
            self.rising.raised_along(step)
        others = [one for one in asked if not one.remedy.startswith("raise")]
        if self._cooldown.starts(step, raises=len(others) < len(asked)):
            return [*others, *_COOLDOWN]
        return asked

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed policy needs, as plain values."""
        return {
            "secant": self.secant.state_dict(),
            "mean_square": self.mean_square.state_dict(),
            "outlier": self.outlier.state_dict(),
            "rising": self.rising.state_dict(),
            "forecast": self.forecast.state_dict(),
            "cooldown": self._cooldown.state_dict(),
            "spoiled_until": self._spoiled_until,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.mean_square.load_state_dict(state["mean_square"])
        self.outlier.load_state_dict(state["outlier"])
        if "secant" in state:  # earlier versions had none of these
            self.secant.load_state_dict(state["secant"])
        if "rising" in state:
            self.rising.load_state_dict(state["rising"])
        if "forecast" in state:
            self.forecast.load_state_dict(state["forecast"])
        self._cooldown.load_state_dict(state["cooldown"])
        self._spoiled_until = int(state["spoiled_until"])


def share_of_threshold(policy: Policy, ratio: float) -> float:
    """Return a mean-square ratio over that from which a policy acts; NaN of a policy that is not known here.

    Args:
        policy: The policy.
        ratio: The mean-square ratio.

    Example:
        >>> round(share_of_threshold(Auto(), 0.19), 6), share_of_threshold(Secant(), 0.19)
        (0.2, nan)
    """
    acting = policy.mean_square if isinstance(policy, Auto) else policy
    return ratio / acting.threshold if isinstance(acting, MeanSquare) else math.nan


def _as_clipped(signals: GuardSignals, asked: Sequence[Decision]) -> GuardSignals:
    """Return the signals with ‖g‖² as it will be: a single outlier must not look like a rise."""
    factor = math.prod(one.factor for one in asked if one.remedy == "clip")
    return signals if factor == 1 else replace(signals, squared_gradient=signals.squared_gradient * factor**2)
