"""What a recorded training is: task, optimizer, length, and how often each quantity is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from foreshock.demo.options import check_count
from foreshock.lab.tasks import OptimizerConfig, Task, build_task


@dataclass(frozen=True)
class Plan:
    """A training to be recorded.

    Attributes:
        name: Its name in the log.
        family: Task family, see `foreshock.lab.tasks.FAMILIES`.
        options: Options of the family.
        optimizer: Settings of the optimizer.
        batch_size: Examples in a batch; None for the full batch.
        steps: Updates.
        probe_every: Steps between two measurements of λ_max(Ĥ) in full batch; of the noise in mini-batches.
        sharpness_every: Steps between two measurements of λ_max(H).
        direction_every: Steps between two measurements of the batch's directional curvature; mini-batches
            only.
        device: "cpu", "cuda", or "auto" for a GPU if there is one.

    Raises:
        ValueError: If a number is below one.
    """

    name: str
    family: str
    optimizer: OptimizerConfig
    steps: int
    batch_size: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    probe_every: int = 4
    sharpness_every: int = 12
    direction_every: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("steps", "probe_every", "sharpness_every", "direction_every"):
            check_count(name, getattr(self, name))

    @property
    def full_batch(self) -> bool:
        """Whether every step sees all data."""
        return self.batch_size is None

    def build(self, seed: int) -> Task:
        """Return the untrained task; its model lies on the device."""
        task = build_task(self.family, batch_size=self.batch_size, seed=seed, **self.options)
        task.model.to(self.place)
        return task

    def whole_batch(self, seed: int) -> Any:
        """Return the full training set as one batch, on the device.

        Raises:
            ValueError: If the examples are drawn afresh at every step.
        """
        task = build_task(self.family, batch_size=None, seed=seed, **self.options)
        return to_device(next(task.batches), self.place)

    @property
    def place(self) -> torch.device:
        """The device."""
        if self.device != "auto":
            return torch.device(self.device)
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_device(batch: Any, device: torch.device) -> Any:
    """Return a batch on a device; one that is there already is the same object.

    Args:
        batch: A tensor or a tuple of tensors.
        device: Where to.
    """
    if isinstance(batch, Tensor):
        return batch.to(device)
    return tuple(tensor.to(device) for tensor in batch) if device.type != "cpu" else batch
