"""Train one configuration with one method, as a plain loop, and judge what came of it."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foreshock.demo.threads import one_thread
from foreshock.lab.guardbench.config import GuardConfig
from foreshock.lab.guardbench.judging import fill, geometric_mean, judge
from foreshock.lab.guardbench.methods import Intervention, Method, Subject
from foreshock.lab.tasks import Task, build_scheduler, build_task
from foreshock.lab.tasks.outliers import OutlierBatches
from foreshock.lab.tasks.task import Batch, LossFunction

VALIDATIONS = 20
"""How often the second half of a run is validated."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one training.

    Attributes:
        spikes: Heights of the spikes above 3 × the running median; infinite for one that overflowed.
        worst_ratio: Largest loss ÷ the running median before it.
        mean_loss: Geometric mean of the training loss over the second half.
        mean_validation: The same of the validation loss, over 20 evaluations.
        last_validation: Validation loss at the end.
        diverged: Whether the training loss overflowed, or ended above where it began.
        acted: Share of the steps that an intervention changed; None if the method is none.
        passes: Forward and backward passes spent per step besides that of training.
        seconds: Processor time of the training.
    """

    spikes: tuple[float, ...]
    worst_ratio: float
    mean_loss: float
    mean_validation: float
    last_validation: float
    diverged: bool
    acted: float | None
    passes: float
    seconds: float


def train(config: GuardConfig, seed: int, method: Method) -> Outcome:
    """Train and judge; weights, order of the batches and outliers depend on configuration and seed alone.

    Args:
        config: The configuration.
        seed: Seed of weights and batches.
        method: The method.

    Raises:
        ImportError: If the method's package, or what reads the data set, is missing.
    """
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        began = time.process_time()
        training = Training(config, seed, method)
        try:
            for _ in range(config.run.steps):
                training.step()
                if training.ended:
                    break
            return training.outcome(seconds=time.process_time() - began)
        finally:
            training.close()


class Training:
    """One training in progress.

    Args:
        config: The configuration.
        seed: Seed of weights and batches.
        method: The method.

    Attributes:
        ended: Whether the loss was not finite: there is no use in going on.
    """

    def __init__(self, config: GuardConfig, seed: int, method: Method) -> None:
        run = config.run
        self._config = config
        self._task = build_task(run.family, batch_size=run.batch_size, seed=seed, **run.options)
        self._loss_fn = in_precision(self._task.loss_fn, config.precision)
        settings = method.configure(run.optimizer)
        self._optimizer = method.build(self._task.model, settings)
        self._scheduler = build_scheduler(self._optimizer, settings, run.steps)
        self._batches = _batches(self._task, config, seed)
        self._intervention: Intervention | None = None
        if method.intervene is not None:
            self._intervention = method.intervene(self._subject())
        self._losses: list[float] = []
        self._validations = [self._validate()]
        self._due = set(np.linspace(run.steps // 2, run.steps - 1, VALIDATIONS).round().astype(int).tolist())
        self._acted = 0
        self.ended = False

    def step(self) -> None:
        """Take one step, and validate if it is time."""
        batch = next(self._batches)
        self._optimizer.zero_grad()
        loss: Tensor = self._loss_fn(self._task.model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        value = loss.item()
        self.ended = not math.isfinite(value)
        self._losses.append(math.inf if self.ended else math.nan if self._corrupted else value)
        if self.ended:
            return
        if self._intervention is not None:
            self._intervention.before_step(batch, value)
        self._optimizer.step()
        if self._intervention is not None:
            self._acted += self._intervention.after_step()
        if self._scheduler is not None:
            self._scheduler.step()
        if len(self._losses) - 1 in self._due:
            self._validations.append(self._validate())

    def outcome(self, *, seconds: float) -> Outcome:
        """Return the judgement of the steps taken.

        Args:
            seconds: Processor time of the training.
        """
        run = self._config.run
        smooth = run.kind == "mini" or run.language
        judged = judge(np.array(self._losses), smooth=smooth, steps=run.steps)
        validations = fill(np.array(self._validations), steps=1 + VALIDATIONS)
        steps = len(self._losses)
        helper = self._intervention
        return Outcome(
            **dataclasses.asdict(judged),
            mean_validation=geometric_mean(validations[1:], first=abs(validations[0])),
            last_validation=float(validations[-1]),
            acted=None if helper is None else self._acted / steps,
            passes=0.0 if helper is None else helper.passes / steps,
            seconds=seconds,
        )

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self._task.model.parameters())

    def kept(self) -> Any:
        """Return what optimizer and intervention keep between steps: containers of tensors."""
        helper = self._intervention
        return list(self._optimizer.state.values()), None if helper is None else helper.buffers()

    def close(self) -> None:
        """Detach what was attached."""
        if self._intervention is not None:
            self._intervention.close()

    @property
    def _corrupted(self) -> bool:
        return isinstance(self._batches, OutlierBatches) and self._batches.corrupted

    def _subject(self) -> Subject:
        task = self._task
        full = self._config.run.kind == "full"
        return Subject(task.model, self._optimizer, self._loss_fn, task.examples, full)

    def _validate(self) -> float:
        """Return the validation loss; with grad, since a loss may itself be made of derivatives."""
        model = self._task.model
        model.eval()
        loss = self._loss_fn(model, self._task.validation).item()  # type: ignore[arg-type]
        model.train()
        return loss if math.isfinite(loss) else math.inf


def in_precision(loss_fn: LossFunction, precision: str) -> LossFunction:
    """Return a loss function that runs under autocast, in a context of its own at every call.

    Args:
        loss_fn: The loss function.
        precision: "float32", which changes nothing, or "bfloat16".
    """
    if precision == "float32":
        return loss_fn

    def under_autocast(model: nn.Module, batch: Batch) -> Tensor:
        # A context that is entered again would hand out casts of weights that have changed since.
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return loss_fn(model, batch)

    return under_autocast


def _batches(task: Task, config: GuardConfig, seed: int) -> Iterator[Batch]:
    if not config.outliers:
        return task.batches
    return OutlierBatches(task.batches, share=config.outliers, seed=seed)
