"""Pairs of half-batch gradients for a guard that has no monitor: when they are due, and what went wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from foreshock.batches import BatchWatch, split_batch
from foreshock.guarding.failures import Failures
from foreshock.guarding.families import all_parameters
from foreshock.measurement import LossFunction
from foreshock.noise import NoiseReading
from foreshock.preconditioner import read_preconditioner, unwrap
from foreshock.prober import Prober
from foreshock.vectors import is_sharded

EVERY = 10
"""Steps between two measurements while v lags, if nobody says otherwise."""

_RELAXED = 5
_NEARLY_ARMED = 1.5


class PairProber:
    """Measure pairs now and then; a failure is noted and harms nothing.

    Args:
        model: The model.
        loss_fn: ``loss_fn(model, batch)`` → mean loss, a scalar tensor.

    Attributes:
        spent: Whether the last call of `measure` spent anything.
    """

    def __init__(self, model: nn.Module, loss_fn: LossFunction) -> None:
        self._prober = Prober(model, loss_fn)
        self._batches = BatchWatch()
        self._failures = Failures()
        self._calls = 0
        self.spent = False

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be measured, and why."""
        same = self._batches.constant is True
        return (
            *self._failures.notes,
            *(("every step saw the same data: there was no noise to measure",) if same else ()),
        )

    def measure(
        self,
        optimizer: Optimizer,
        batch: Any,
        *,
        step: int,
        lag: float,
        gradient_scale: float,
        every: int = EVERY,
    ) -> NoiseReading | None:
        """Return a reading if one is due and can be made.

        Args:
            optimizer: The optimizer, about to take a step.
            batch: What the loss function gets.
            step: Number of the step.
            lag: How far the second moment lags; NaN if that is not known.
            gradient_scale: What ``.grad`` still has to be divided by.
            every: Steps between two measurements while v lags, ≥ 1; five times as many otherwise.

        Raises:
            ValueError: If `every` is below one.
        """
        if not every >= 1:
            raise ValueError(f"every is {every!r}; at least one step lies between two measurements")
        self.spent = False
        self._see(batch)
        apart = every if lag > _NEARLY_ARMED else _RELAXED * every
        if step % apart or self._batches.constant is not False or self._failures.given_up:
            return None
        if is_sharded(all_parameters(unwrap(optimizer))):
            self._failures.note("the noise of mini-batches is not measured where parameters are sharded")
            return None
        try:
            parts = split_batch(batch)
        except Exception as error:  # noqa: BLE001 - a batch may be anything
            self._failures.note(f"the noise of mini-batches can't be measured: {error}")
            return None
        self.spent = True
        try:
            preconditioner = read_preconditioner(optimizer, gradient_scale=gradient_scale)
            reading = self._prober.probe_noise(parts, preconditioner, step=step, loss=math.nan)
        except Exception as error:  # noqa: BLE001 - a measurement must never end a training run
            self._failures.failed(f"a measurement of the noise failed at step {step}", error)
            return None
        self._failures.succeeded()
        return reading

    def _see(self, batch: Any) -> None:
        """Take a batch into account, and say so if batches can't be told apart."""
        self._batches.see(batch)
        self._calls += 1
        if self._calls > 1 and self._batches.constant is None:
            self._failures.note(
                f"the noise of mini-batches can't be measured: no tensors were found in a batch of the type "
                f"{type(batch).__name__}: pass a tensor, or a sequence or mapping that has some"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return self._prober.state_dict()

    def load_state_dict(self, state: Mapping[str, Any], *, optimizer: Optimizer) -> None:
        """Continue from `state_dict()`.

        Args:
            state: What `state_dict` returned.
            optimizer: The present optimizer.

        Raises:
            ValueError: If the state is of a model of another size.
        """
        size = sum(p.numel() for group in optimizer.param_groups for p in group["params"] if p.requires_grad)
        self._prober.load_state_dict(state, size=size)
