"""A training to be recorded, and what a watcher sees of each of its steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from foreshock.demo.options import check_count
from foreshock.lab.tasks import TrainingConfig, build_task
from foreshock.lab.tasks.training import to_device


@dataclass(frozen=True, kw_only=True)
class Plan(TrainingConfig):
    """A training to be recorded, with the strides of its measurements.

    Attributes:
        probe_every: Steps between two measurements of λ_max(Ĥ) in full batch; of the noise in mini-batches.
        sharpness_every: Steps between two measurements of λ_max(H).
        direction_every: Steps between two measurements of the batch's directional curvature; mini-batches
            only.

    Raises:
        ValueError: If a number is below one.
    """

    probe_every: int = 4
    sharpness_every: int = 12
    direction_every: int = 1

    def __post_init__(self) -> None:
        """Check the numbers."""
        super().__post_init__()
        for name in ("probe_every", "sharpness_every", "direction_every"):
            check_count(name, getattr(self, name))

    def whole_batch(self, seed: int) -> Any:
        """Return the full training set as one batch, on the device.

        Raises:
            ValueError: If the examples are drawn afresh at every step.
        """
        task = build_task(self.family, batch_size=None, seed=seed, **self.options)
        return to_device(next(task.batches), self.torch_device)


@dataclass(frozen=True)
class Moment:
    """What a watcher sees of a step, between ``backward()`` and ``step()``.

    Attributes:
        step: Number of updates before this one.
        loss: Loss of the batch.
        batch: The batch.
        ratio: The last stability ratio that was measured; NaN before the first.
        model: The model.
        loss_fn: Its loss.
        optimizer: Its optimizer.
    """

    step: int
    loss: float
    batch: Any
    ratio: float
    model: nn.Module
    loss_fn: Any
    optimizer: Optimizer


Watcher = Callable[[Moment], None]
"""Called at every step after the monitor; it may change the optimizer's settings."""
