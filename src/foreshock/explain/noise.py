"""The noise of gradients: batches whose curvature differs so much that the mean square of an update grows.

Where batches differ, the edge is one of the *mean-square ratio* (`foreshock.forecast.noise`): a direction is
multiplied by another factor at each step, and its mean square can grow while the curvature of all data is
harmless. No batch is bad, and another draw of batches spikes as well.

The edge says when, not what brought the training there. The ratio is in proportion to η/√v and to what the
curvatures of the batches are, so its climb has parts too: where these curvatures made it, averaging batches
may only postpone the spike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from foreshock.explain.history import logarithm, quotient
from foreshock.explain.jump import LEFT, PART
from foreshock.explain.record import Cause, Fact
from foreshock.explain.slow import low_before, rate_growth, was_disturbed
from foreshock.forecast import NOISY_EDGE
from foreshock.runlog.numbers import as_number
from foreshock.words import number

if TYPE_CHECKING:
    from foreshock.explain.history import History
    from foreshock.explain.jump import Jump
    from foreshock.spikes import LossEvent

_WILD = 20.0  # gradient over its median, from which a batch is bad whatever the noise
_NEAR = 60  # steps before an onset in which the ratio counts
_OLDEST = 300  # steps before it in which its climb may have begun
_CLIMBED = math.log(1.5)  # rise of ln(ratio) that has parts
LAGGED = "share of v in the rise of ln(ratio)"
"""Words of the fact that says what v made of the climb of the mean-square ratio."""
SHARPENED = "share of the batches' curvature in the rise of ln(ratio)"
"""Words of the fact that says what these made; its limit is one half where the ratio doubled or rose more."""
_DOUBLED = math.log(2)
_LARGEST = 700.0  # whose exponential is still a number


def gradient_noise(history: History, event: LossEvent, jump: Jump | None) -> Cause | None:
    """Noise of batches past the edge, before a rise that no wild batch and no other data made.

    Args:
        history: The run.
        event: What happened to the loss.
        jump: Its rise within one step, if there was one.
    """
    if not history.noisy or event.first_non_finite == event.onset:
        return None
    if jump is not None and jump.part >= PART and (jump.gradient >= _WILD or jump.left > LEFT):
        return None
    measured = [
        (row["step"], as_number(row.get("typical_mean_square_ratio")), as_number(row.get("lag")))
        for row in history.rows("forecast", event.onset - _NEAR, event.onset)
    ]
    measured = [one for one in measured if math.isfinite(one[1])]
    if not measured or was_disturbed(history, event):
        return None
    step, ratio, lag = max(measured, key=lambda one: one[1])
    if not ratio >= NOISY_EDGE:
        return None
    climb = _climb(history, event)
    facts = (
        Fact("typical mean-square ratio", ratio, NOISY_EDGE, step),
        Fact("v above g²", lag, math.nan, step),
        *(() if climb is None else climb.facts()),
    )
    lagging = f", while v was {number(lag)} × above g²" if math.isfinite(lag) else ""
    words = (
        f"the noise of batches was past the edge at step {step:,}: a typical mean-square ratio of "
        f"{number(ratio)}, of which the edge is {NOISY_EDGE:g}{lagging}"
    ) + ("" if climb is None else climb.words())
    sure = 0.55 + 0.3 * min(max(math.log(ratio / NOISY_EDGE), 0.0), 1.0)
    return Cause("gradient noise", sure, words, facts, step)


@dataclass(frozen=True)
class _Climb:
    """How far ln(ratio) rose to its highest value near an event, and what v and the learning rate made of it.

    Attributes:
        first: First step.
        last: Last one.
        total: The rise.
        preconditioner: What v made, by its sum over all parameters.
        rate: What the learning rate made.
    """

    first: int
    last: int
    total: float
    preconditioner: float
    rate: float

    def shares(self) -> tuple[float, float, float]:
        """Return the shares of v, of the learning rate and of the curvature of the batches: its rest."""
        parts = self.preconditioner, self.rate, self.total - self.preconditioner - self.rate
        raised = [max(part, 0.0) for part in parts]
        v, rate, curvature = (part / sum(raised) for part in raised)
        return v, rate, curvature

    def words(self) -> str:
        """Return the end of a sentence."""
        v, rate, curvature = (f"{100 * share:.0f} %" for share in self.shares())
        of_rate = f", the learning rate {rate}" if self.rate > 0 else ""
        times = number(math.exp(min(self.total, _LARGEST)))
        return (
            f"; the ratio had risen {times}-fold since step {self.first:,}, of which v made about "
            f"{v}{of_rate} and the curvature of the batches {curvature}"
        )

    def facts(self) -> tuple[Fact, ...]:
        """Return the shares of v and of the batches' curvature."""
        v, _, curvature = self.shares()
        limit = 0.5 if self.total >= _DOUBLED else math.nan
        return (
            Fact(LAGGED, v, math.nan, self.last),
            Fact(SHARPENED, curvature, limit, self.last),
        )


def _climb(history: History, event: LossEvent) -> _Climb | None:
    """Return the climb of the typical mean-square ratio before an event; None if it hardly rose."""
    rows = history.rows("forecast", event.onset - _OLDEST, event.onset)
    points = [(int(row["step"]), as_number(row.get("typical_mean_square_ratio"))) for row in rows]
    points = [(step, ratio) for step, ratio in points if math.isfinite(ratio) and ratio > 0]
    ratios = np.array([ratio for _, ratio in points])
    near = [place for place, (step, _) in enumerate(points) if step >= event.onset - _NEAR]
    if not near:
        return None
    top = max(near, key=lambda place: float(ratios[place]))
    low = low_before(ratios, top)
    first, last = points[low][0], points[top][0]
    total = logarithm(quotient(ratios[top], ratios[low]))
    begin, end = (min(history.at(step), len(history.moment) - 1) for step in (first, last))
    # v of one direction is not known: where v falls, its coordinates fall much alike.
    preconditioner = 0.5 * logarithm(quotient(history.moment[begin], history.moment[end]))
    if not (math.inf > total >= _CLIMBED and math.isfinite(preconditioner)):
        return None
    return _Climb(first, last, total, preconditioner, rate_growth(history, first, last))
