"""What trainers of language models do about a step that departs from the last 128: skip it, or shorten it.

`skip-step` is the rule of OLMo-core's SkipStepOptimizer: a step whose loss, or norm of the gradient, lies
more than 6 standard deviations above the mean of the last 128 is not taken at all; neither weights nor
moments change. `clip-update-norm` is levanter's: the update, weight decay included and the learning rate left
out, is scaled down to the mean plus 3 standard deviations of its norms. Both look only once there are 64
steps, and both remember the loss and the norms as they were before they acted.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import Any

import torch

from foreshock.lab.guardbench.methods.method import Method, Plain, Subject

WINDOW = 128
ENOUGH = WINDOW // 2
SKIP_SIGMAS = 6.0
CLIP_SIGMAS = 3.0
LEAST_DEVIATION = 1e-6


class SkipStep(Plain):
    """Skip outliers of the loss or of the gradient's norm.

    Args:
        subject: What is trained.
    """

    def __init__(self, subject: Subject) -> None:
        groups = subject.optimizer.param_groups
        self._parameters = [parameter for group in groups for parameter in group["params"]]
        self._seen: tuple[deque[float], deque[float]] = (deque(maxlen=WINDOW), deque(maxlen=WINDOW))
        self._skipped = False

    def before_step(self, batch: Any, loss: float) -> None:
        """Take the gradients away if the step is to be skipped: then the optimizer changes nothing."""
        del batch
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        enough = len(self._seen[0]) + 1 >= ENOUGH  # the present step counts
        self._skipped = enough and not all(map(_within, (loss, norm), self._seen))
        for value, seen in zip((loss, norm), self._seen, strict=True):
            seen.append(value)
        if self._skipped:
            for parameter in self._parameters:
                parameter.grad = None

    def after_step(self) -> bool:
        """Return whether the step was skipped."""
        return self._skipped


def _within(value: float, seen: deque[float]) -> bool:
    """Return whether a value is finite and at most 6 deviations above the mean of the finite ones before."""
    finite = [one for one in seen if math.isfinite(one)]
    if len(finite) < 2:
        return False
    limit = statistics.fmean(finite) + SKIP_SIGMAS * statistics.stdev(finite)
    return math.isfinite(value) and value <= limit


class ClipUpdateNorm(Plain):
    """Shorten updates whose norm is an outlier.

    Args:
        subject: What is trained.
    """

    def __init__(self, subject: Subject) -> None:
        self._optimizer = subject.optimizer
        self._norms: deque[float] = deque(maxlen=WINDOW)
        self._before: list[torch.Tensor] = []

    def before_step(self, batch: Any, loss: float) -> None:
        """Keep the weights."""
        del batch, loss
        self._before = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def after_step(self) -> bool:
        """Scale the change of the weights, and return whether that was done."""
        moves = [now - before for now, before in zip(self._parameters, self._before, strict=True)]
        rate = float(self._optimizer.param_groups[0]["lr"])
        if not rate > 0:
            return False
        norm = float(torch.nn.utils.get_total_norm(moves)) / rate
        limit = self._limit()
        self._norms.append(norm)
        if not norm > limit:
            return False
        for parameter, before, move in zip(self._parameters, self._before, moves, strict=True):
            parameter.copy_(before + move * (limit / norm))
        return True

    def buffers(self) -> list[torch.Tensor]:
        """Return the weights before the step: an optimizer of its own would not need them."""
        return self._before

    @property
    def _parameters(self) -> list[torch.Tensor]:
        return [parameter for group in self._optimizer.param_groups for parameter in group["params"]]

    def _limit(self) -> float:
        if len(self._norms) < ENOUGH:
            return math.inf
        deviation = max(statistics.pstdev(self._norms), LEAST_DEVIATION)
        return statistics.fmean(self._norms) + CLIP_SIGMAS * deviation


WINDOWS = (
    Method("skip-step", "own", "OLMo-core, 2024", "6 σ of 128 steps", intervene=SkipStep, code=(__name__,)),
    Method(
        "clip-update-norm",
        "own",
        "levanter, 2025",
        "3 σ of 128 steps",
        intervene=ClipUpdateNorm,
        code=(__name__,),
    ),
)
