r"""The parts of a batch as a measurement of noise evaluates them: of this process, or of all together.

Where FSDP2 averages gradients by itself no process sees those of its own parts: the first parts of all
batches are one part, and so are the second ones. With the share p_r of process r in the examples and the
weight w_rj of part j in its batch, part j of all has the weight and the gradient

.. math:: p_j = \sum_r p_r w_{rj}, \qquad g_j = \sum_r \frac{p_r w_{rj}}{p_j}\, g_{rj} .

What a loss is a mean over has to be known before it is evaluated, for these weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from foreshock.batches import MicroBatches
from foreshock.curvature.noise import NoiseReading
from foreshock.curvature.weights import PartLosses, PartWeights, Weighing
from foreshock.distributed import Joint, LayerwiseProbe
from foreshock.distributed.joint import COUNTS
from foreshock.operators import LossTerm, normalised_terms

_AT_ONCE = 32  # weights in one message


class OwnParts:
    """The parts of a batch for one measurement.

    Args:
        terms: The mean losses of the parts, weighted by their numbers of examples.
        weighing: What finds out how they make up the loss of the batch.
        parts: The parts.
        joint: The processes that measure together; inside of its block.
        whole: Loss of the batch; NaN if unknown.
        made: Whether Foreshock split the batch.

    Attributes:
        terms: The losses to measure.
        loss: Loss of the batch, to compare with those; NaN where they are parts of other batches, too.

    Raises:
        ValueError: If the processes have other numbers of parts.
    """

    def __init__(
        self,
        terms: Sequence[LossTerm],
        weighing: Weighing,
        parts: MicroBatches,
        joint: Joint,
        *,
        whole: float,
        made: bool,
    ) -> None:
        self._weighing, self._parts, self._joint = weighing, parts, joint
        self._whole, self._made = whole, made
        self._layerwise = isinstance(joint, LayerwiseProbe)
        self.terms, self.loss = tuple(terms), whole
        if self._layerwise:
            self._own = normalised_terms(terms)
            self._losses = [math.nan] * len(self._own)
            self.terms, self.loss = self._of_all(), math.nan

    def weigh(self, found: PartLosses) -> PartWeights:
        """Return how the measured parts make up the loss, and learn from their losses.

        Args:
            found: The losses as they were measured.
        """
        if not self._layerwise:
            return self._weighing.weigh(found, self._parts, made=self._made)
        shares = tuple(one.weight for one in self._own)
        own = PartLosses(tuple(self._losses), shares, self._whole, random=found.random)
        self._weighing.weigh(own, self._parts, made=self._made)
        return PartWeights.of_mean(found.shares)

    def outdated(self, rule: str) -> bool:
        """Return whether the parts should be measured again, in all processes: with another rule.

        Args:
            rule: What the loss was taken to be a mean over.
        """
        if not self._layerwise:
            return False
        (changed,) = self._joint.everyones(float(self._weighing.rule != rule), topic=COUNTS)
        return changed > 0

    def completed(self, reading: NoiseReading) -> NoiseReading:
        """Return a reading with the difference between the loss of the batch and that of its parts.

        Args:
            reading: The reading.
        """
        if not self._layerwise:
            return reading
        return replace(reading, loss_mismatch=self._joint.factor * abs(self._weighing.mismatch))

    def _of_all(self) -> tuple[LossTerm, ...]:
        if isinstance(self._joint, LayerwiseProbe):
            self._joint.require_as_many(len(self._own))
        weights = self._weighing.present([one.weight for one in self._own], self._parts, made=self._made)
        own = [self._joint.factor * one for one in weights.shares]
        shares: list[float] = []
        for begin in range(0, len(own), _AT_ONCE):
            shares += self._joint.everyones(*own[begin : begin + _AT_ONCE], topic=COUNTS)
        each = zip(own, weights.scales, shares, strict=True)
        return tuple(
            LossTerm(self._recorded(index, part * scale / share), share)
            for index, (part, scale, share) in enumerate(each)
        )

    def _recorded(self, index: int, factor: float) -> Callable[[], Tensor]:
        """Return the loss of a part, multiplied, that leaves its own value behind where it is first taken."""
        closure = self._own[index].closure

        def multiplied() -> Tensor:
            loss = closure()
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                return loss  # which is refused
            if math.isnan(self._losses[index]):
                self._losses[index] = float(loss.detach())
            return loss * factor

        return multiplied
