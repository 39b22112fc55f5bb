r"""The mean-square ratio from one Hessian product a step: the streaming estimate.

With S_B the preconditioned Hessian of the step's batch and w a unit vector that is carried along,

.. math:: h = S_B w, \qquad w ← \frac{w + 0.3\,h/‖h‖}{‖·‖}, \qquad
    \text{MSS} = E[w^\top h] + n\,\frac{\max(E‖h‖^2 - ‖E[h]‖^2, 0)}{E[w^\top h]},

E the exponential mean over 25 steps. It needs no second batch, but what it calls noise contains the movement
of w and of S itself: it overestimates, and two halves of a batch (`foreshock.noise`) are to be preferred. It
is here for comparison, and for those who compute a product at each step anyway.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from foreshock.vectors import turned, unit

_FEWEST = 10


class StreamingNoise:
    """Take one product a step.

    Args:
        start: First direction, shape (n,), not zero; the preconditioned gradient is a good one.
        memory: Steps of the exponential means, ≥ 2.

    Attributes:
        direction: w, shape (n,), of length one: multiply the next batch's S_B with it.

    Raises:
        ValueError: If `start` is zero or not finite, or `memory` is below two.

    Example:
        >>> stream = StreamingNoise(torch.tensor([1.0, 1.0]))
        >>> for _ in range(200):
        ...     ratio = stream.update(torch.tensor([2.0, 0.5]) * stream.direction, noise_factor=19.0)
        >>> round(ratio, 2)
        2.0
    """

    def __init__(self, start: Tensor, *, memory: float = 25) -> None:
        if not memory >= 2:
            raise ValueError(f"memory is {memory!r}; a variance needs two steps or more")
        direction = unit(start)
        if direction is None:
            norm = float(torch.linalg.vector_norm(start))
            raise ValueError(f"start has norm {norm}; it must be finite and not zero")
        self.direction = direction
        self._share = 1 / memory
        self._steps = 0
        self._mean: Tensor | None = None
        self._along = self._square = math.nan

    def update(self, product: Tensor, *, noise_factor: float) -> float:
        """Take h = S_B w of one batch, and turn the direction.

        Args:
            product: h, shape (n,), in multiples of the full-batch edge.
            noise_factor: n/c of the optimizer's recursion, see `foreshock.noise.NoiseReading`.

        Returns:
            The mean-square ratio, whose edge is one; NaN before ten steps, where the mean curvature is not
            positive, and once a product was not finite.

        Raises:
            ValueError: If the shape is not that of the direction.
        """
        if product.shape != self.direction.shape:
            raise ValueError(
                f"product has shape {tuple(product.shape)}, the direction {tuple(self.direction.shape)}"
            )
        along, square = float(torch.dot(self.direction, product)), float(torch.dot(product, product))
        if self._mean is None:
            self._mean, self._along, self._square = product.clone(), along, square
        else:
            self._mean.lerp_(product, self._share)
            self._along += self._share * (along - self._along)
            self._square += self._share * (square - self._square)
        self._steps += 1
        self.direction = turned(self.direction, product)
        if self._steps < _FEWEST or not self._along > 0:
            return math.nan
        variance = max(self._square - float(torch.dot(self._mean, self._mean)), 0.0)
        return self._along + noise_factor * variance / self._along
