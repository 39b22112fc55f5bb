"""The noise of gradients: batches whose curvature differs so much that the mean square of an update grows.

Where batches differ, the edge is one of the *mean-square ratio* (`foreshock.forecast.noise`): a direction is
multiplied by another factor at each step, and its mean square can grow while the curvature of all data is
harmless. No batch is bad, and another draw of batches spikes as well.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from foreshock.explain.jump import LEFT, PART
from foreshock.explain.record import Cause, Fact
from foreshock.explain.slow import was_disturbed
from foreshock.forecast import NOISY_EDGE
from foreshock.runlog.numbers import as_number
from foreshock.words import number

if TYPE_CHECKING:
    from foreshock.explain.history import History
    from foreshock.explain.jump import Jump
    from foreshock.spikes import LossEvent

_WILD = 20.0  # gradient over its median, from which a batch is bad whatever the noise
_NEAR = 60  # steps before an onset in which the ratio counts


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
    facts = (
        Fact("typical mean-square ratio", ratio, NOISY_EDGE, step),
        Fact("v above g²", lag, math.nan, step),
    )
    lagging = f", while v was {number(lag)} × above g²" if math.isfinite(lag) else ""
    words = (
        f"the noise of batches was past the edge at step {step:,}: a typical mean-square ratio of "
        f"{number(ratio)}, of which the edge is {NOISY_EDGE:g}{lagging}"
    )
    sure = 0.55 + 0.3 * min(max(math.log(ratio / NOISY_EDGE), 0.0), 1.0)
    return Cause("gradient noise", sure, words, facts, step)
