"""What a replay came to: losses, what happened to them, and where they part from what was recorded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foreshock.representation import short_repr
from foreshock.spikes import LossEvent, detect_events

_SETTLED = 20  # losses whose median is what a loss has come to
_ROUNDING = 1e-4  # a first difference below this, relative, is one of arithmetic

RAN_OUT = "the batches end before step"
HORIZONS = (50, 200, 500)


@dataclass(frozen=True)
class Departure:
    """The first step at which a replay is not, bit by bit, what was recorded.

    Attributes:
        step: The step.
        recorded: Its loss in the log.
        replayed: Its loss in the replay.
    """

    step: int
    recorded: float
    replayed: float

    @property
    def is_rounding(self) -> bool:
        """Whether it is so small that the arithmetic differs, and not the data or the loop."""
        return abs(self.replayed - self.recorded) <= _ROUNDING * abs(self.recorded)


@dataclass(frozen=True)
class ReplayOutcome:
    """One window of a training, replayed as it was or with a change.

    Attributes:
        change: The change in words; ``unchanged`` for none.
        start: Step of the snapshot. Its loss is not among `losses`: it was known before.
        losses: Losses of the steps that follow, shape (n,); it ends with the first that is not finite.
        events: What happened to the loss after `start`, judged beside the recorded losses before it.
        departure: Where it departs from the log; None if it does not, or where the log ends before.
        compared: How many losses of the log it was compared with.
        loss_at_start: What the loss function gives of the data of step `start` at the snapshot's weights; NaN
            if it can't be had. With dropout it differs from the recorded one in any case.
        recorded_at_start: The recorded loss of step `start`.
        stability_ratio: λ_max(Ĥ)·η/2 after the last step, whose edge is at one; NaN if it wasn't measured.
        guard_actions: How often the guard acted.
        failure: Why it ended early, in words; empty if it did not.
        seconds: How long it took.
    """

    change: str
    start: int
    losses: tuple[float, ...]
    events: tuple[LossEvent, ...]
    departure: Departure | None = None
    compared: int = 0
    loss_at_start: float = math.nan
    recorded_at_start: float = math.nan
    stability_ratio: float = math.nan
    guard_actions: int = 0
    failure: str = ""
    seconds: float = 0.0

    __repr__ = short_repr

    @property
    def spikes(self) -> tuple[LossEvent, ...]:
        """The events that are spikes, divergences or losses that are no numbers; not slow climbs."""
        return tuple(event for event in self.events if event.kind != "climb")

    @property
    def ran_out(self) -> bool:
        """Whether it ended early since there were no more batches, as at the end of a run."""
        return self.failure.startswith(RAN_OUT)

    @property
    def height(self) -> float:
        """Height of the highest of them over the level before; one without any, infinite for NaN."""
        heights = [math.inf if event.kind == "non-finite" else event.height for event in self.spikes]
        return max((one for one in heights if not math.isnan(one)), default=1.0 if not heights else math.nan)

    @property
    def holds(self) -> int:
        """For how many steps there is none: up to the first, or all of them."""
        return self.spikes[0].onset - self.start if self.spikes else len(self.losses)

    def loss_after(self, steps: int) -> float:
        """Return what the loss has come to so many steps after the start: the median of the last 20 of them.

        NaN if the replay is shorter.

        Args:
            steps: How many steps, ≥ 1.
        """
        if len(self.losses) < steps:
            return math.nan
        return float(np.median(self.losses[max(steps - _SETTLED, 0) : steps]))

    @property
    def late_loss(self) -> float:
        """The median loss of the last quarter, in which single spikes do not count; infinite if it failed."""
        if not self.losses or not math.isfinite(self.losses[-1]):
            return math.inf
        return float(np.median(self.losses[-max(len(self.losses) // 4, 1) :]))

    @property
    def last_loss(self) -> float:
        """What the loss has come to at the end; infinite if the training failed."""
        if not self.losses or not math.isfinite(self.losses[-1]):
            return math.inf
        return self.loss_after(len(self.losses))


def finite_or_none(value: Any) -> Any:
    """Return plain values with None for each number that is not finite, for which JSON has no word.

    Args:
        value: Mappings, sequences, strings and numbers.

    Example:
        >>> finite_or_none({"loss": [1.0, float("inf")]})
        {'loss': [1.0, None]}
    """
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: finite_or_none(one) for name, one in value.items()}
    return [finite_or_none(one) for one in value] if isinstance(value, (list, tuple)) else value


def horizons(steps: int) -> tuple[int, ...]:
    """Return after how many steps losses are told: 50, 200, 500 as far as they fit, or else the last.

    Args:
        steps: How many steps there are.
    """
    return tuple(one for one in HORIZONS if one <= steps) or ((steps,) if steps else ())


def events_after(
    start: int, recorded: Sequence[tuple[int, float]], losses: Sequence[float]
) -> tuple[LossEvent, ...]:
    """Return what happened to the loss after a step, judged beside what was recorded up to it.

    Args:
        start: The step.
        recorded: Steps and losses of the log, in order.
        losses: The losses of the steps after it.
    """
    before = [pair for pair in recorded if pair[0] <= start]
    steps = [*(step for step, _ in before), *range(start + 1, start + 1 + len(losses))]
    values = [*(loss for _, loss in before), *losses]
    return tuple(event for event in detect_events(steps, values) if event.onset > start)


def departure(
    start: int, recorded: Sequence[tuple[int, float]], losses: Sequence[float]
) -> tuple[Departure | None, int]:
    """Return where losses depart from the recorded ones, and with how many they were compared.

    Args:
        start: The step before the first of the losses.
        recorded: Steps and losses of the log.
        losses: The losses of the steps after `start`.
    """
    known = dict(recorded)
    compared = 0
    for step, loss in enumerate(losses, start + 1):
        if step not in known:
            continue
        compared += 1
        if loss != known[step] and not (math.isnan(loss) and math.isnan(known[step])):
            return Departure(step, known[step], loss), compared
    return None, compared
