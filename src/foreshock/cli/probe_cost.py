"""What a probe of a model will cost, and how its Hessian products will be computed: by doing it."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from foreshock.cli.byte_account import ByteAccount
from foreshock.cli.checkpoints import Trainable, load_batches, make_trainable, saying_where
from foreshock.curvature import CurvatureReading, Prober
from foreshock.preconditioner import read_preconditioner

BUDGET = 0.05
"""Passes a step that a monitor spends by default."""

_BATCHES = 4
_WARM_UP, _TIMED = 3, 3  # steps


@dataclass(frozen=True)
class ProbeCost:
    """What a probe of a model costs.

    Attributes:
        backend: How Hessian products are computed.
        reason: Why so.
        verified: Whether a comparison confirmed it; if not, products may be off.
        parameters: Number of trained weights.
        device: Where they are.
        optimizer: Class of the optimizer.
        products: Hessian products of a probe that goes on from the last one.
        passes: What it costs in forward and backward passes of the batch, counted.
        seconds: Wall time of it.
        step_seconds: Wall time of a training step.
        first_passes: Passes of the first probe, which also chooses the backend.
        first_seconds: Wall time of it.
        step_bytes: Bytes of tensors that a training step holds at its peak, beyond model and optimizer.
        probe_bytes: The same of a probe.
    """

    backend: str
    reason: str
    verified: bool
    parameters: int
    device: str
    optimizer: str
    products: int
    passes: float
    seconds: float
    step_seconds: float
    first_passes: float
    first_seconds: float
    step_bytes: int
    probe_bytes: int

    @property
    def steps(self) -> float:
        """What a probe costs in training steps, by the clock."""
        return self.seconds / self.step_seconds if self.step_seconds > 0 else math.nan

    @property
    def steps_between(self) -> float:
        """Steps from one probe to the next with the default budget."""
        return self.passes / BUDGET


def measure_cost(model: str, data: str) -> ProbeCost:
    """Train a model for some steps, probe it, and return what the probes cost.

    Args:
        model: ``module:factory``, which must return an optimizer too. Nothing but what it returns is trained.
        data: ``module:batches``; four of them at most are used.

    Raises:
        ImportError: If a module can't be imported.
        ValueError: If the factory returns no optimizer, or something else is wrong with it or the batches.
        RuntimeError: If the model can't be trained or probed.
        FloatingPointError: If its loss or a product is not finite.
    """
    trainable = make_trainable(model)
    if trainable.optimizer is None:
        raise ValueError(
            f"{model} returns no optimizer; return (model, loss_fn, optimizer): a probe reads the state of "
            "the optimizer"
        )
    training = _Training(trainable, trainable.optimizer, load_batches(data, limit=_BATCHES))
    for _ in range(_WARM_UP):
        training.step()
    first = training.probed()
    later, step_seconds = _repeated(training)
    with ByteAccount() as step_account:
        training.step()
    training.backward()
    with ByteAccount() as probe_account:
        training.probe()
    choice = training.prober.backend
    if choice is None:
        raise RuntimeError("no backend was chosen")
    weights = [one for group in trainable.optimizer.param_groups for one in group["params"]]
    return ProbeCost(
        backend=choice.name,
        reason=choice.reason,
        verified=choice.verified,
        parameters=sum(one.numel() for one in weights if one.requires_grad),
        device=str(weights[0].device),
        optimizer=type(trainable.optimizer).__name__,
        products=round(statistics.median(one.products for one in later)),
        passes=statistics.median(one.passes for one in later),
        seconds=statistics.median(one.seconds for one in later),
        step_seconds=step_seconds,
        first_passes=first.passes,
        first_seconds=first.seconds,
        step_bytes=step_account.peak,
        probe_bytes=probe_account.peak,
    )


class _Training:
    """A loop over a few batches that can be probed between backward and step."""

    def __init__(self, trainable: Trainable, optimizer: Optimizer, batches: list[Any]) -> None:
        self._model, self._optimizer = trainable.model, optimizer
        self._loss_fn = saying_where(trainable.loss_fn)
        self._batches: Iterator[Any] = itertools.cycle(batches)
        self._batch: Any = None
        self.prober = Prober(trainable.model, self._loss_fn)

    def backward(self) -> None:
        self._batch = next(self._batches)
        self._optimizer.zero_grad()
        self._loss_fn(self._model, self._batch).backward()  # type: ignore[no-untyped-call]

    def step(self) -> None:
        self.backward()
        self._optimizer.step()

    def probe(self) -> CurvatureReading:
        return self.prober.probe(self._batch, read_preconditioner(self._optimizer), step=0)

    def probed(self) -> CurvatureReading:
        """Return the reading of a probe inside a step."""
        self.backward()
        reading = self.probe()
        self._optimizer.step()
        return reading


def _repeated(training: _Training) -> tuple[list[CurvatureReading], float]:
    """Return the readings of probes that go on from the last one, and the seconds of a step without one."""
    readings, seconds = [], []
    for _ in range(_TIMED):
        seconds.append(_seconds(training.step))
        readings.append(training.probed())
    return readings, statistics.median(seconds)


def _seconds(function: Callable[[], None]) -> float:
    _wait()
    began = time.perf_counter()
    function()
    _wait()
    return time.perf_counter() - began


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
