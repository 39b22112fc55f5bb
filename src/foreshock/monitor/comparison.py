"""One step of training beside a probe of the same step: two losses, two gradients, in numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Samples:
    """The same few coordinates of several vectors, gradients divided by the gradient scale.

    Attributes:
        gradient: ``.grad``.
        probe: Gradient of `loss_fn`.
        parameter: The parameters.
        previous: ``.grad`` at the step observed before; None if unknown.
        absorbed: Modulus of what the optimizer's moving average has taken up since then, up to a factor; None
            if unknown.
        decay: What L2 regularisation by the optimizer added to the gradient in its last step.
    """

    gradient: Vector
    probe: Vector
    parameter: Vector
    previous: Vector | None = None
    absorbed: Vector | None = None
    decay: Vector | float = 0.0


@dataclass(frozen=True)
class Comparison:
    """One step of training beside a probe of the same step.

    Attributes:
        observed_loss: The loss given to `observe`.
        probe_loss: The loss that `loss_fn` returned.
        squared_gradient: ‖g‖² of ``.grad``, divided by the gradient scale.
        squared_probe: ‖g_p‖² of the probe, over the parameters that have a ``.grad``.
        product: g·g_p.
        samples: Coordinates of them.
        gradient_scale: What `observe` was given.
        examples: Number of examples in the batch; None if unknown.
        parts: Number of micro-batches; 1 for a batch.
        stepped: Whether the optimizer made a step since the last observed one; None if unknown.
        random: Whether `loss_fn` draws random numbers: then only what no draw explains counts.
        eval_modules: The modules in eval mode that behave otherwise in train mode, in words; empty if none.
    """

    observed_loss: float
    probe_loss: float
    squared_gradient: float
    squared_probe: float
    product: float
    samples: Samples
    gradient_scale: float = 1.0
    examples: int | None = None
    parts: int = 1
    stepped: bool | None = None
    random: bool = False
    eval_modules: str = ""

    @property
    def finite(self) -> bool:
        """Whether there is anything to compare."""
        sums = self.squared_gradient + self.squared_probe + self.product
        return math.isfinite(self.observed_loss + self.probe_loss + sums) and self.squared_probe > 0

    @property
    def loss_ratio(self) -> float:
        """k, the loss of training over that of `loss_fn`; infinity if the latter is zero."""
        return self.observed_loss / self.probe_loss if self.probe_loss else math.inf

    @property
    def loss_difference(self) -> float:
        """Difference of the two losses, relative to the larger one."""
        larger = max(abs(self.observed_loss), abs(self.probe_loss))
        return abs(self.observed_loss - self.probe_loss) / larger if larger else 0.0

    @property
    def factor(self) -> float:
        """f, the projection of ``.grad`` on the gradient of `loss_fn`, in multiples of it."""
        return self.product / self.squared_probe

    @property
    def cosine(self) -> float:
        """Cosine between ``.grad`` and the gradient of `loss_fn`."""
        norms = math.sqrt(self.squared_gradient * self.squared_probe)
        return self.product / norms if norms else math.nan

    @property
    def norm_ratio(self) -> float:
        """‖g‖/‖g_p‖."""
        return math.sqrt(self.squared_gradient / self.squared_probe)
