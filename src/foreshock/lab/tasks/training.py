"""One record of what to train, and the one training loop of all benchmarks and experiments."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from foreshock.demo.options import check_choice, check_count
from foreshock.lab.tasks.families import build_task
from foreshock.lab.tasks.optimization import OptimizerConfig, build_optimizer, build_scheduler
from foreshock.lab.tasks.streams import OutlierBatches
from foreshock.lab.tasks.task import Batch, LossFunction, Task

PRECISIONS = ("float32", "bfloat16")
_LANGUAGE_FAMILIES = ("language", "addition", "experts", "gru", "mixer", "statespace")


@dataclass(frozen=True)
class TrainingConfig:
    """Everything but the seed that the losses of a training depend on.

    Attributes:
        name: Unique, usable as a file name.
        family: Family of the task, see `foreshock.lab.tasks.FAMILIES`.
        optimizer: Settings of the optimizer and its schedule.
        steps: Number of optimizer steps.
        batch_size: Examples in a batch; None for the full batch.
        options: Options of the family.
        precision: "float32"; or "bfloat16", which trains the same float32 weights under autocast.
        outliers: Share of the batches that are corrupted, in [0, 1).
        device: "cpu", "cuda", or "auto" for a GPU if there is one.

    Raises:
        ValueError: If `steps` is below one, or the precision is unknown.
    """

    name: str
    family: str
    optimizer: OptimizerConfig
    steps: int
    batch_size: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    precision: Literal["float32", "bfloat16"] = "float32"
    outliers: float = 0.0
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Check the settings that are not checked where they are used."""
        check_count("steps", self.steps)
        check_choice("precision", self.precision, PRECISIONS)

    @property
    def kind(self) -> Literal["full", "mini"]:
        """Whether a step sees the "full" batch or a "mini"-batch."""
        return "full" if self.batch_size is None else "mini"

    @property
    def full_batch(self) -> bool:
        """Whether every step sees all data."""
        return self.batch_size is None

    @property
    def language(self) -> bool:
        """Whether it is like a language model: sequences of discrete symbols, cross-entropy."""
        return self.family in _LANGUAGE_FAMILIES

    @property
    def torch_device(self) -> torch.device:
        """The device, with "auto" resolved."""
        if self.device != "auto":
            return torch.device(self.device)
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def build_task(self, seed: int) -> Task:
        """Return the untrained task, its model on the device.

        Args:
            seed: Seed of the initial weights and of the order of the batches.
        """
        task = build_task(self.family, batch_size=self.batch_size, seed=seed, **self.options)
        task.model.to(self.torch_device)
        return task


@dataclass(frozen=True)
class Step:
    """One step of a training, after ``backward()``.

    Attributes:
        index: Number of updates before it.
        batch: Its batch.
        loss: Loss of the batch, before the update.
        seconds: Wall-clock time of forward and backward pass.
        corrupted: Whether the batch is one of the outliers of `TrainingConfig.outliers`.
    """

    index: int
    batch: Batch
    loss: float
    seconds: float
    corrupted: bool = False

    @property
    def finite(self) -> bool:
        """Whether the loss is finite; if not, the step is not taken and the training ends."""
        return math.isfinite(self.loss)


class Training:
    """One training in progress, as a plain loop.

    Args:
        config: What is trained.
        seed: Seed of the initial weights and of the order of the batches.
        build: Builds the optimizer from model and settings.

    Attributes:
        config: What is trained.
        task: The task that was built.
        model: Its model.
        loss_fn: Its loss, in the precision asked for.
        optimizer: The optimizer.
        scheduler: Its scheduler, stepped after each step; None without one.
        batches: Endless iterator of batches, on the device.

    Example:
        >>> config = TrainingConfig("tiny", "mlp", OptimizerConfig("adam", 0.01), 3, options={"width": 4})
        >>> [step.index for step in Training(config, 0).run()]
        [0, 1, 2]
    """

    def __init__(
        self,
        config: TrainingConfig,
        seed: int,
        *,
        build: Callable[[nn.Module, OptimizerConfig], Optimizer] = build_optimizer,
    ) -> None:
        self.config = config
        self.task = config.build_task(seed)
        self.model = self.task.model
        self.loss_fn = in_precision(self.task.loss_fn, config.precision, device=config.torch_device)
        self.optimizer = build(self.model, config.optimizer)
        self.scheduler = build_scheduler(self.optimizer, config.optimizer, config.steps)
        self.batches = moved_batches(self.task.batches, config.torch_device)
        if config.outliers:
            self.batches = OutlierBatches(self.batches, share=config.outliers, seed=seed)

    def run(
        self,
        *,
        before_step: Callable[[Step], None] | None = None,
        after_step: Callable[[Step], None] | None = None,
    ) -> Iterator[Step]:
        """Train, and yield each step once it has been taken.

        A step whose loss is not finite is not taken: it is yielded as the last one.

        Args:
            before_step: Called between ``backward()`` and ``optimizer.step()``, also for a last step that
                is not taken, so that an overflow can be logged.
            after_step: Called after ``optimizer.step()``, before the scheduler's.
        """
        for index in range(self.config.steps):
            step = self._backward(index)
            if before_step is not None:
                before_step(step)
            if not step.finite:
                yield step
                return
            self.optimizer.step()
            if after_step is not None:
                after_step(step)
            if self.scheduler is not None:
                self.scheduler.step()
            yield step

    def _backward(self, index: int) -> Step:
        batch = next(self.batches)
        began = time.perf_counter()
        self.optimizer.zero_grad()
        loss: Tensor = self.loss_fn(self.model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        seconds = time.perf_counter() - began
        corrupted = isinstance(self.batches, OutlierBatches) and self.batches.corrupted
        return Step(index, batch, loss.item(), seconds, corrupted)


def in_precision(loss_fn: LossFunction, precision: str, *, device: torch.device) -> LossFunction:
    """Return a loss function that runs under autocast, in a context of its own at every call.

    Args:
        loss_fn: The loss function.
        precision: "float32", which changes nothing, or "bfloat16".
        device: Where it runs.
    """
    if precision == "float32":
        return loss_fn

    def under_autocast(model: nn.Module, batch: Batch) -> Tensor:
        # A context that is entered again would hand out casts of weights that have changed since.
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return loss_fn(model, batch)

    return under_autocast


def moved_batches(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Return a stream of batches on a device.

    A stream that repeats one object, as the full batch does, still repeats one: probes recognise the full
    batch by its identity.

    Args:
        batches: The stream.
        device: Where to.
    """
    return batches if device.type == "cpu" else _moved(batches, device)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return a batch on a device; one that is there already is the same object.

    Args:
        batch: A tensor or a tuple of tensors.
        device: Where to.
    """
    if isinstance(batch, Tensor):
        return batch.to(device)
    return tuple(tensor.to(device) for tensor in batch) if device.type != "cpu" else batch


def _moved(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    last: Batch = ()
    moved: Batch = ()
    for batch in batches:
        if batch is not last:
            last, moved = batch, to_device(batch, device)
        yield moved
