"""The policy for whoever doesn't want to choose: all that acts on v, and clipping of what was never seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from foreshock.guarding.policies.mean_square import MeanSquare
from foreshock.guarding.policies.outlier import Outlier
from foreshock.guarding.policies.patience import ASIDE, MOST, WINDOW, Patience
from foreshock.guarding.policies.policy import Decision, GuardSignals, Measure
from foreshock.guarding.policies.secant import Secant

_NOVEL = 4.0
_AFTER_OUTLIER = 2
_STANDING_ASIDE = Decision(
    "stand aside",
    1.0,
    f"v was to be raised on more than {MOST} of the last {WINDOW} steps: the learning rate is too high in "
    f"itself. Lower it, or warm it up for longer; nothing but outliers is acted on for {ASIDE} steps",
    (MOST + 1) / WINDOW,
    MOST / WINDOW,
)


@dataclass
class Auto:
    """Secant, mean-square ratio where pairs are measured, and clipping of gradients without precedent.

    A gradient counts as an outlier only above four times the third *largest* of the last 100 steps, and is
    scaled down to that third largest. It spoils the secant of its own step and of the next, which are passed
    over. Where v would have to be raised on more than half of the last 100 steps, the learning rate is too
    high in itself: it stands aside for 200 steps, and says so.

    Attributes:
        secant: Against spikes of the full batch.
        mean_square: Against spikes that noise drives; idle without pairs.
        outlier: Against outlier batches.

    Example:
        >>> [decision] = Auto().decide(GuardSignals(step=99, updates=100, secant=0.99))
        >>> decision.remedy
        'raise along'
    """

    secant: Secant = field(default_factory=Secant)
    mean_square: MeanSquare = field(default_factory=MeanSquare)
    outlier: Outlier = field(
        default_factory=lambda: Outlier(multiple=_NOVEL, left=1, usual="third largest", size="norm")
    )
    name: ClassVar[str] = "auto"
    scales_decay: ClassVar[bool] = True
    _patience: Patience = field(default_factory=Patience, init=False, repr=False, compare=False)
    _blind_until: int = field(default=0, init=False, repr=False, compare=False)

    @property
    def needs(self) -> frozenset[Measure]:
        """What the three need."""
        return self.secant.needs | self.mean_square.needs | self.outlier.needs

    @property
    def exact_from(self) -> float:
        """The threshold of the secant."""
        return self.secant.threshold

    def decide(self, seen: GuardSignals) -> Sequence[Decision]:
        """Return what the three ask for, the clip first.

        Args:
            seen: The step about to be taken.
        """
        clips = self.outlier.decide(seen)
        if clips:
            self._blind_until = seen.step + _AFTER_OUTLIER
        blind = self._blind_until - _AFTER_OUTLIER <= seen.step < self._blind_until
        asked = [*clips, *self.mean_square.decide(seen), *(() if blind else self.secant.decide(seen))]
        others = [one for one in asked if not one.remedy.startswith("raise")]
        if self._patience.aside(seen.step):
            return others
        if self._patience.ends(seen.step, raises=len(others) < len(asked)):
            return [*others, _STANDING_ASIDE]
        return asked

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed policy needs, as plain values."""
        return {
            "mean_square": self.mean_square.state_dict(),
            "outlier": self.outlier.state_dict(),
            "patience": self._patience.state_dict(),
            "blind_until": self._blind_until,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.mean_square.load_state_dict(state["mean_square"])
        self.outlier.load_state_dict(state["outlier"])
        self._patience.load_state_dict(state["patience"])
        self._blind_until = int(state["blind_until"])
