"""Cut a training at its alarms and let it go on under each measure, from the same state."""

from __future__ import annotations

import copy
from collections import deque
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreshock.lab.reproduction.measures import Fork, Measure
from foreshock.lab.reproduction.plan import Moment, Plan
from foreshock.lab.tasks import Step, Training

WARM_UP = 300
_REARMED = 0.99


@dataclass(frozen=True)
class Cut:
    """The state of a training before a step.

    Attributes:
        step: The step.
        level: Median loss of the 20 steps before.
        gradient_norm: Median of ‖g‖ over the 100 steps before.
        model: State of the model.
        optimizer: State of the optimizer.
    """

    step: int
    level: float
    gradient_norm: float
    model: dict[str, Any]
    optimizer: dict[str, Any]


class AlarmCuts:
    """Keep a cut at every alarm: where λ_max(Ĥ) rises through 2/η.

    Args:
        start: First step that counts.

    Attributes:
        cuts: What was kept.
    """

    def __init__(self, *, start: int = WARM_UP) -> None:
        self.cuts: list[Cut] = []
        self._start, self._armed = start, True
        self._losses: deque[float] = deque(maxlen=20)
        self._norms: deque[float] = deque(maxlen=100)

    def __call__(self, moment: Moment) -> None:
        """Look at one step."""
        if moment.ratio >= 1 and self._armed and moment.step >= self._start:
            self._armed = False
            self.cuts.append(self._cut(moment))
        self._armed = self._armed or moment.ratio < _REARMED
        gradients = [p.grad for p in moment.model.parameters() if p.grad is not None]
        self._losses.append(moment.loss)
        self._norms.append(float(sum(gradient.square().sum() for gradient in gradients)) ** 0.5)

    def _cut(self, moment: Moment) -> Cut:
        return Cut(
            step=moment.step,
            level=float(np.median(self._losses)),
            gradient_norm=float(np.median(self._norms)),
            model=copy.deepcopy(moment.model.state_dict()),
            optimizer=copy.deepcopy(moment.optimizer.state_dict()),
        )


def go_on(plan: Plan, seed: int, cut: Cut, measure: Measure, *, steps: int) -> NDArray[np.float64]:
    """Train on from a cut under a measure and return the losses.

    Args:
        plan: The training, full batch.
        seed: Its seed.
        cut: Where to start.
        measure: What to do there.
        steps: Updates.

    Returns:
        Losses before each update, shape (steps,); NaN after one that is not finite.
    """
    training = Training(replace(plan, steps=steps), seed)
    training.model.load_state_dict(cut.model)
    training.optimizer.load_state_dict(copy.deepcopy(cut.optimizer))
    before = measure.begin(Fork(training.model, training.optimizer, cut.gradient_norm))
    losses = np.full(steps, np.nan)

    def intervene(step: Step) -> None:
        losses[step.index] = step.loss
        if step.finite and before is not None:
            before(step.index)

    for _ in training.run(before_step=intervene):
        pass
    return losses
