"""What happened to the loss: spikes, divergences, slow climbs, and losses that are no numbers.

Nothing here is used to forecast. A step is *high* if its loss lies above a bar that is set by the calm steps
before it:

- their level, the median of the last 100;
- their noise σ, from how far each was from the five before it (median, so that outliers don't count).

Of a loss that falls fast both lag behind, and a spike would hide below what the loss has long left: then the
last 20 steps set them, if that is lower.

The bar is the lower one of `factor` × the level, which needs a level well above zero, and the level plus 8 σ,
which needs none: cross-entropy is bounded by the logarithm of the vocabulary and can hardly rise threefold, a
log-likelihood may lie below zero. A rise of less than 5 % of the level is never high: a smooth curve has next
to no noise. Where σ is more than a twentieth of the level, as in small batches, the mean of five steps is
compared instead of the loss itself: one unlucky batch is no spike. High steps are not calm: a wide spike
neither hides itself nor the next one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Kind = Literal["spike", "divergence", "climb", "non-finite"]


@dataclass(frozen=True)
class EventDefinition:
    """What counts as an event of the loss.

    Attributes:
        factor: A loss above `factor` × its level is high, > 1.
        sigmas: So is one that lies so many σ of the calm steps' noise above it, > 0.
        least: Rises below this share of the level are never high, ≥ 0.
        window: Calm steps that set the level, ≥ 2.
        fewest: Calm steps before anything can be high, and that set the level of a falling loss; in
            [2, `window`].
        rest: A spike is over after so many steps that are not high, ≥ 1.
        patience: A loss that stays high for so many steps, and falls no more, has diverged, > `rest`; what
            comes after is compared with the level that it has then.
        climb: A level above `climb` × the lowest one before is a slow climb, > 1.
        floor: Losses at or below `floor` × the modulus of the first finite loss are never high: there,
            rounding in float32 alone moves a loss by multiples.

    Raises:
        ValueError: If a field lies outside its interval.
    """

    factor: float = 3.0
    sigmas: float = 8.0
    least: float = 0.05
    window: int = 100
    fewest: int = 20
    rest: int = 10
    patience: int = 200
    climb: float = 1.5
    floor: float = 1e-8

    def __post_init__(self) -> None:
        """Refuse impossible definitions."""
        for name, holds, allowed in (
            ("factor", self.factor > 1, "above 1"),
            ("sigmas", self.sigmas > 0, "above 0"),
            ("least", self.least >= 0, "0 or more"),
            ("window", self.window >= 2, "2 steps or more"),
            ("fewest", 2 <= self.fewest <= self.window, "from 2 steps to `window`"),
            ("rest", self.rest >= 1, "1 step or more"),
            ("patience", self.patience > self.rest, "more steps than `rest`"),
            ("climb", self.climb > 1, "above 1"),
            ("floor", self.floor >= 0, "0 or more"),
        ):
            if not holds:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be {allowed}")


@dataclass(frozen=True)
class LossEvent:
    """One thing that happened to the loss.

    Attributes:
        kind: ``"spike"``: high, and back by at least half of the rise. ``"divergence"``: settled where more
            than half of it was left, or high where the run ended. ``"climb"``: never suddenly high, but its
            level rose. ``"non-finite"``: NaN or infinite from `first_non_finite` on.
        onset: First high step; where a mean of five is compared, the first of the five that is high itself.
        peak: Step of the highest loss, or the first that is not finite.
        end: Last high step.
        reference: Level of the calm steps before the onset.
        rise: Peak loss − `reference`; infinite if the loss was not finite.
        sigma: σ of the calm steps before the onset.
        first_non_finite: First step whose loss was NaN or infinite; None if there is none.
    """

    kind: Kind
    onset: int
    peak: int
    end: int
    reference: float
    rise: float
    sigma: float
    first_non_finite: int | None = None

    @property
    def height(self) -> float:
        """Peak loss ÷ `reference`; NaN where that is not positive, and the rise alone has a meaning."""
        return 1 + self.rise / self.reference if self.reference > 0 else math.nan
