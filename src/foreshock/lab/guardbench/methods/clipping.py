"""Clipping of the gradient's norm: at a fixed value, and by the z-score of the norm (ZClip)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from foreshock.lab.guardbench.methods.method import Method, Plain, Subject


class Clipping(Plain):
    """Scale the gradient down to a limit that may depend on the norms so far.

    Args:
        subject: What is trained.
        limit_of: Maps the norm of the gradient to the largest one allowed.
    """

    def __init__(self, subject: Subject, limit_of: Callable[[float], float]) -> None:
        self._parameters = [
            parameter for group in subject.optimizer.param_groups for parameter in group["params"]
        ]
        self._limit_of = limit_of
        self._clipped = False

    def before_step(self, batch: Any, loss: float) -> None:
        """Clip."""
        del batch, loss
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        limit = self._limit_of(norm)
        self._clipped = norm > limit
        if self._clipped:
            for gradient in gradients:
                gradient.mul_(limit / norm)

    def after_step(self) -> bool:
        """Return whether the gradient was clipped."""
        return self._clipped


class ZScoreLimit:
    """Limit the norm where it is an outlier of the running mean μ and deviation s of the norms.

    With z = (‖g‖ − μ)/s above 2.5 the limit is μ + 2.5·s·(2.5/z), so that the larger the outlier the
    smaller the limit. The first 25 norms make the first μ and s; then both are running means of weight .97
    over the norms after clipping. Kumar et al. 2025, *ZClip*, arXiv 2504.02507, with its defaults, without
    its optional fixed limit.
    """

    weight, threshold, warm_up, eps = 0.97, 2.5, 25, 1e-6

    def __init__(self) -> None:
        self._first: list[float] = []
        self.mean, self.variance = math.nan, math.nan

    def __call__(self, norm: float) -> float:
        """Return the limit for a norm, and take the norm into account."""
        if not math.isfinite(norm):
            return self.mean
        if len(self._first) < self.warm_up:
            self._first.append(norm)
            count = len(self._first)
            self.mean = sum(self._first) / count
            self.variance = sum((one - self.mean) ** 2 for one in self._first) / count
            return math.inf
        deviation = math.sqrt(self.variance)
        score = (norm - self.mean) / (deviation + self.eps)
        outlier = score > self.threshold
        limit = self.mean + self.threshold**2 * deviation / score if outlier else math.inf
        seen = min(norm, limit)
        self.mean += (1 - self.weight) * (seen - self.mean)
        self.variance += (1 - self.weight) * ((seen - self.mean) ** 2 - self.variance)
        return limit


CLIPPING = (
    Method(
        "clip-1",
        "own",
        "Pascanu et al. 2013",
        intervene=lambda subject: Clipping(subject, lambda norm: 1.0),  # noqa: ARG005
        code=(__name__,),
    ),
    Method(
        "zclip",
        "own",
        "Kumar et al. 2025",
        "without its optional fixed limit",
        intervene=lambda subject: Clipping(subject, ZScoreLimit()),
        code=(__name__,),
    ),
)
