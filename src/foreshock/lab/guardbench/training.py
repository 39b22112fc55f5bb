"""Train one configuration with one method, as a plain loop, and judge the losses."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from foreshock.demo.threads import one_thread
from foreshock.lab.guardbench.judging import fill, geometric_mean, judge
from foreshock.lab.guardbench.methods import Intervention, Method, Subject
from foreshock.lab.spikebench.suite import RunConfig
from foreshock.lab.tasks import Step, Training, perturb_weights

VALIDATIONS = 20
"""How often the second half of a run is validated."""

EARLIER = 20
"""How often the first half is, for the lowest validation loss alone."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The judgement of one training.

    Attributes:
        spikes: Heights of the spikes above 3 × the running median; infinite for one that overflowed.
        worst_ratio: Largest loss ÷ the running median before it.
        mean_loss: Geometric mean of the training loss over the second half.
        mean_validation: The same of the validation loss, over 20 evaluations.
        last_validation: Validation loss at the end.
        best_validation: The lowest validation loss: that of the model which early stopping keeps.
        diverged: Whether the training loss overflowed, or ended above where it began.
        acted: Share of the steps that an intervention changed; None if the method is none.
        passes: Forward and backward passes spent per step, those of training not counted.
        seconds: Processor time of the training.
    """

    spikes: tuple[float, ...]
    worst_ratio: float
    mean_loss: float
    mean_validation: float
    last_validation: float
    best_validation: float
    diverged: bool
    acted: float | None
    passes: float
    seconds: float


def train(config: RunConfig, seed: int, method: Method, *, start: int = 0) -> Outcome:
    """Train and judge; weights, batches and outliers depend on configuration, seed and start alone.

    Args:
        config: The configuration.
        seed: Seed of weights and batches.
        method: The method.
        start: Number of the perturbed start, see `foreshock.lab.tasks.perturb_weights`.

    Raises:
        ImportError: If the method's package, or what reads the data set, is missing.
    """
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        began = time.process_time()
        run = MethodRun(config, seed, method, start=start)
        try:
            for _ in run.steps:
                pass
            return run.outcome(seconds=time.process_time() - began)
        finally:
            run.close()


class MethodRun:
    """One training with a method in progress.

    Args:
        config: The configuration.
        seed: Seed of weights and batches.
        method: The method.
        start: Number of the perturbed start; 0 is the unperturbed one.

    Attributes:
        losses: Loss of each step so far; infinite where it overflowed, NaN where the batch was corrupted.
        validations: Validation loss at the start, then 20 times over the second half.
        best_validation: The lowest validation loss so far, 20 evaluations over the first half included.
        training: The training.
        steps: Iterator that takes one step each time; it ends early if the loss is not finite.
    """

    def __init__(self, config: RunConfig, seed: int, method: Method, *, start: int = 0) -> None:
        self._config = config
        settings = dataclasses.replace(config, optimizer=method.configure(config.optimizer))
        self.training = Training(settings, seed, build=method.build)
        perturb_weights(self.training.model, start)
        self._intervention: Intervention | None = None
        if method.intervene is not None:
            self._intervention = method.intervene(self._subject())
        self.losses: list[float] = []
        self.validations = [self._validate()]
        [self.best_validation] = self.validations
        half = config.steps // 2
        self._due = _evenly(half, config.steps - 1, VALIDATIONS)
        self._early = _evenly(0, half, EARLIER + 1) - self._due
        self._acted = 0
        self.steps = self._steps()

    def _steps(self) -> Iterator[Step]:
        for step in self.training.run(before_step=self._before_step, after_step=self._after_step):
            if step.finite and (step.index in self._due or step.index in self._early):
                found = self._validate()
                self.best_validation = min(self.best_validation, found)
                if step.index in self._due:
                    self.validations.append(found)
            yield step

    def _before_step(self, step: Step) -> None:
        self.losses.append(math.inf if not step.finite else math.nan if step.corrupted else step.loss)
        if step.finite and self._intervention is not None:
            self._intervention.before_step(step.batch, step.loss)

    def _after_step(self, step: Step) -> None:
        del step
        if self._intervention is not None:
            self._acted += self._intervention.after_step()

    def outcome(self, *, seconds: float) -> Outcome:
        """Return the judgement of the steps taken.

        Args:
            seconds: Processor time of the training.
        """
        config = self._config
        smooth = config.kind == "mini" or config.language
        judged = judge(np.array(self.losses), smooth=smooth, steps=config.steps)
        validations = fill(np.array(self.validations), steps=1 + VALIDATIONS)
        steps = len(self.losses)
        helper = self._intervention
        return Outcome(
            **dataclasses.asdict(judged),
            mean_validation=geometric_mean(validations[1:], first=abs(validations[0])),
            last_validation=float(validations[-1]),
            best_validation=self.best_validation,
            acted=None if helper is None else self._acted / steps,
            passes=0.0 if helper is None else helper.passes / steps,
            seconds=seconds,
        )

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.training.model.parameters())

    def kept(self) -> Any:
        """Return what optimizer and intervention keep between steps: containers of tensors."""
        helper = self._intervention
        states = list(self.training.optimizer.state.values())
        return states, None if helper is None else helper.buffers()

    def close(self) -> None:
        """Detach what was attached."""
        if self._intervention is not None:
            self._intervention.close()

    def _subject(self) -> Subject:
        training = self.training
        return Subject(
            training.model,
            training.optimizer,
            training.loss_fn,
            training.task.examples,
            self._config.full_batch,
        )

    def _validate(self) -> float:
        """Return the validation loss."""
        # With grad, since the loss of a physics-informed network is itself made of derivatives.
        model = self.training.model
        model.eval()
        loss = self.training.loss_fn(model, self.training.task.validation).item()  # type: ignore[arg-type]
        model.train()
        return loss if math.isfinite(loss) else math.inf


def _evenly(first: int, last: int, count: int) -> set[int]:
    return set(np.linspace(first, last, count).round().astype(int).tolist())
